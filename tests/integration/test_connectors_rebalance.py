"""Kafka Connect that rebalances: its real 409, and commands that get past it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any

import pytest

from connectors.connect import ConnectClient
from downriver.settings import Settings
from tests.support.lane import own_lane, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


def test_a_409_of_a_rebalance_is_waited_out(settings: Settings) -> None:
    """A connector that joins or leaves makes Connect rebalance; what is asked in that moment is refused, and asked again."""
    with own_lane(settings) as lane:
        heard: list[str] = []
        over = Event()
        other = f"{lane.settings.source}_other"

        def join_and_leave() -> None:
            with lane.client(120) as client:
                while not over.is_set():
                    client.create(other, lane.connector.config, "STOPPED")
                    client.delete(other)

        def restart() -> int:
            asked = 0
            with ConnectClient(lane.settings.connect, 120, heard.append) as client:
                while not over.is_set():
                    client.restart(lane.name)
                    asked += 1
            return asked

        with lane.client() as client:
            client.create(lane.name, lane.connector.config, "STOPPED")
        with ThreadPoolExecutor(3) as pool:
            joining = pool.submit(join_and_leave)
            asking = [pool.submit(restart), pool.submit(restart)]
            working: list[Future[Any]] = [joining, *asking]
            try:
                until(
                    lambda: any(each.done() for each in working) or any(" with 409: " in text for text in heard),
                    "a 409",
                )
            finally:
                over.set()
                wait(working)
                with lane.client() as client:
                    client.delete(other)
            joining.result()
            asked = [each.result() for each in asking]
        assert min(asked) > 0, "each got past it"
        (told,) = [text for text in heard if " with 409: " in text][:1]
        assert told.startswith(
            f"waiting: Kafka Connect at {settings.connect.url} answered POST /connectors/{lane.name}/restart"
        )
        with lane.client() as client:
            assert client.config(other) is None
            assert client.config(lane.name) == dict(lane.connector.config)
