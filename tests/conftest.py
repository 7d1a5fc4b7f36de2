"""Fixtures every test may use: the running stack, its settings, and ways to break one server of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from downriver.settings import Settings
from tests.support.stack import RunningStack, reused, running_stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what breaks servers on purpose while the stack belongs to somebody else too."""
    if reused():
        shared = pytest.mark.skip(reason="breaks servers, and DOWNRIVER_TEST_REUSE=1 shares the stack")
        for item in items:
            if item.get_closest_marker("fault"):
                item.add_marker(shared)


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """The local stack, up for the whole session."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="session")
def settings(stack: RunningStack) -> Settings:
    """The settings of the running stack."""
    return stack.settings


@pytest.fixture
def faults(stack: RunningStack) -> Iterator[RunningStack]:
    """The stack, to pause, kill, stop and start its servers; whatever the test leaves broken is healed after it."""
    yield stack
    stack.heal()
