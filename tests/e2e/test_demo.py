"""`downriver demo` as a person runs it: what its JSON says, that it survives killed workers, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.local.processes import MARK, SERVER_MARK
from downriver.exits import Exit
from downriver.settings import Settings
from processors.propagation.rules import OTHER, load_rules
from processors.verify.compare import SINKS
from tests.support.pipeline import own_stack
from tests.support.stack import RunningStack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(500),
    pytest.mark.skipif(not own_stack(), reason="the demo uses the shop's own names, and the stack is shared"),
]

FIGURES = {"count", "p50_s", "p99_s", "max_s", "late"}
DEMO_S = 280.0


def started(folder: Path) -> list[tuple[str, psutil.Process]]:
    """Return what runs on the folder's stack, by its mark."""
    found = []
    for process in psutil.process_iter(["environ", "status"]):
        env = process.info["environ"] or {}
        ended = process.info["status"] == psutil.STATUS_ZOMBIE
        if env.get(MARK) == str(folder) and not ended:
            found.append((env.get(SERVER_MARK, ""), process))
    return found


def workers(folder: Path) -> dict[str, psutil.Process]:
    """Return the workers, by sink."""
    marked = [(name, process) for name, process in started(folder) if name.startswith("worker-")]
    return {name.removeprefix("worker-"): process for name, process in marked}


def cleaners(folder: Path) -> list[psutil.Process]:
    """Return what cleans the outbox."""
    return [process for name, process in started(folder) if name == "cleaner"]


def servers(stack: RunningStack) -> dict[str, tuple[int | None, str]]:
    """Return every server's process and health."""
    return {record["name"]: (record["pid"], record["health"]) for record in stack.stack.status()}


class Demo:
    """A running `downriver demo`, followed by what it says on stderr."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "downriver.cli", "demo", "--size", "100", "-o", "json", *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def said(self) -> str:
        """Return all that it has said."""
        return self.log.read_text(errors="replace")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds while the demo runs."""
        give_up_at = time.monotonic() + DEMO_S
        while not condition():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.said()}"
            assert time.monotonic() < give_up_at, f"it never came to {what}:\n{self.said()}"
            time.sleep(0.1)

    def until_said(self, text: str) -> None:
        """Wait until it has said something."""
        self.until(lambda: text in self.said(), repr(text))

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and what it printed."""
        output, _ = self.process.communicate(timeout=DEMO_S)
        return self.process.returncode, output


@contextmanager
def demo(log: Path, *options: str) -> Iterator[Demo]:
    """Run a demo; whatever the test finds, nothing of it is left running."""
    running = Demo(log, *options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.fixture(autouse=True)
def no_worker_left(settings: Settings) -> Iterator[None]:
    """End what a failed test leaves, so that the next one starts from nothing."""
    yield
    for process in [*workers(settings.stack.folder).values(), *cleaners(settings.stack.folder)]:
        process.kill()


def test_the_demo_proves_that_everything_arrived_though_a_worker_is_killed(
    stack: RunningStack, settings: Settings, tmp_path: Path
) -> None:
    before = servers(stack)
    with demo(tmp_path / "demo.log", "--seconds", "15", "--rate", "100", "--readers", "2") as running:
        running.until_said("Changing the shop")
        first = workers(settings.stack.folder)
        assert set(first) == set(SINKS)
        assert len(cleaners(settings.stack.folder)) == 1
        first["analytics"].kill()
        running.until_said("worker analytics ended (signal SIGKILL); started again")

        with demo(tmp_path / "second.log") as second:
            code, output = second.ended()
        assert (code, output) == (Exit.BAD_INPUT, "")
        said = " ".join(second.said().split())
        assert "A demo already runs on" in said
        assert f"(process {running.process.pid})" in said

        code, output = running.ended()
    assert code == Exit.OK, running.said()
    result: dict[str, Any] = json.loads(output)
    assert (result["ok"], result["equal"], result["differences"], result["dead_letters"]) == (
        True,
        dict.fromkeys(SINKS, True),
        [],
        0,
    )
    assert result["restarts"] == {"cache": 0, "search": 0, "analytics": 1}
    assert sum(result["committed"].values()) > 1000
    limits = {rule.name: rule.limit_s for rule in load_rules()} | {OTHER: None}
    assert {rule: found["limit_s"] for rule, found in result["rules"].items()} == limits
    for rule, found in result["rules"].items():
        assert set(found) == {"limit_s", "sinks"}
        assert set(found["sinks"]) == set(SINKS)
        for sink, figures in found["sinks"].items():
            assert set(figures) == FIGURES
            assert figures["late"] == 0
            if figures["count"]:
                assert 0 < figures["p50_s"] <= figures["p99_s"] <= figures["max_s"] * 1.02, (rule, sink, figures)
    for rule, table in (("inventory", "inventory"), ("reviews", "reviews")):
        for sink in SINKS:
            assert result["rules"][rule]["sinks"][sink]["count"] >= result["committed"][table] > 0
    assert workers(settings.stack.folder) == {}
    assert cleaners(settings.stack.folder) == []
    assert servers(stack) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_worker_and_the_stack_as_it_was(
    stack: RunningStack, settings: Settings, tmp_path: Path, number: signal.Signals
) -> None:
    before = servers(stack)
    with demo(tmp_path / "demo.log", "--seconds", "600", "--rate", "50") as running:
        running.until_said("Changing the shop" if number is signal.SIGINT else "Waiting until readers")
        assert set(workers(settings.stack.folder)) == set(SINKS)
        running.process.send_signal(number)
        code, output = running.ended()
    assert (code, output) == (Exit.INTERRUPTED, ""), running.said()
    assert "Traceback" not in running.said()
    assert workers(settings.stack.folder) == {}
    assert cleaners(settings.stack.folder) == []
    assert servers(stack) == before
