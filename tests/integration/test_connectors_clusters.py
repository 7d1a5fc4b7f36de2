"""Two real Kafka Connect clusters, chosen by context: each command reaches the one that is meant, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.connect import ConnectClient
from tests.support.lane import OwnLane, own_lane
from tests.support.planning import run, written
from tests.support.second_connect import SecondConnect, contexts, second_connect
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


def ours(lane: OwnLane) -> OwnLane:
    """The lane with its connectors as ours by their names."""
    connect = lane.settings.connect.model_copy(update={"managed": lane.settings.source})
    return replace(lane, settings=lane.settings.model_copy(update={"connect": connect}))


@pytest.fixture
def second(stack: RunningStack, tmp_path: Path) -> Iterator[SecondConnect]:
    with second_connect(stack, tmp_path) as made:
        yield made


def test_two_clusters_by_context(stack: RunningStack, second: SecondConnect, tmp_path: Path) -> None:
    with own_lane(stack.settings) as one, own_lane(second.settings) as two:
        here, there = ours(one), ours(two)
        environment = {"DOWNRIVER_CONFIG": str(contexts(tmp_path, here=here.settings, there=there.settings))}
        here.products(3)
        there.products(4)
        here.start()

        def ran(*arguments: str, lane: OwnLane = there) -> tuple[int, Any]:
            done = run(lane, *arguments, "-o", "json", **environment)
            return done.returncode, orjson.loads(done.stdout) if done.stdout else done.stderr

        files = written(tmp_path / "files", there.connector)
        code, made = ran("plan", str(files), "--context", "there")
        assert (code, [(each["connector"], each["action"]) for each in made]) == (2, [(there.name, "create")])
        assert ran("apply", str(files), "--context", "there")[0] == 0
        assert ran("plan", str(files), "--context", "there")[0] == 0
        assert [each["connector"] for each in ran("get", "--context", "there")[1]] == [there.name]
        known = [each["connector"] for each in ran("get", "--context", "here")[1]]
        assert (here.name in known, there.name in known) == (True, False)
        assert ran("status", there.name, "--context", "there")[0] == 0
        assert ran("status", here.name, "--context", "here", lane=here)[0] == 0
        code, told = ran("status", here.name, "--context", "there")
        assert (code, told.startswith(f"error: Kafka Connect has no connector {here.name!r}; ")) == (2, True)
        with here.client() as client:
            before = client.config(here.name)
        assert ran("stop", there.name, "--context", "there")[0] == 0
        assert (here.state(), there.state()) == ({"RUNNING"}, {"STOPPED"})
        assert ran("resume", there.name, "--context", "there")[0] == 0
        with ConnectClient(here.settings.connect, 30) as client:
            assert client.config(here.name) == before
        second.stop()
        try:
            code, told = ran("status", there.name, "--context", "there")
            assert (code, f"{second.settings.connect.url} can't be reached" in told) == (3, True)
            assert ran("status", here.name, "--context", "here", lane=here)[0] == 0
        finally:
            second.start()
