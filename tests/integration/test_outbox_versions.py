"""Events of two versions through the real EventRouter: each reader reads each writer, with the program of docs/outbox.md."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from downriver.settings import Settings
from downriver.versions import UnknownVersion, Versions
from tests.integration.test_outbox import Event, events, program, until_id
from tests.support.lane import OwnLane, own_lane

pytestmark = pytest.mark.stack

SHIPPED = {"orderId": "1", "status": {"is": "shipped", "was": "pending"}, "note": "€ 1.10"}
"""An event as a program of version 2 thinks of it."""
KIND = "com.platform.orders.order.updated"


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with own_lane(settings, "events") as made:
        made.start()
        yield made


@pytest.fixture(scope="module")
def application() -> dict[str, Any]:
    return program("Change what an event says")


def send(lane: OwnLane, aggregate_type: str, event_type: str, payload: str) -> uuid.UUID:
    """Commit one event about order 1; return its id."""
    event = uuid.uuid4()
    lane.execute(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES (%s, %s, '1', %s, %s)",
        event, aggregate_type, event_type, payload,
    )  # fmt: skip
    return event


def arrived(lane: OwnLane, aggregate_type: str, last: uuid.UUID) -> list[tuple[str, str]]:
    """Return type and value of every event of a topic, in order."""

    def told(event: Event) -> tuple[str, str]:
        return event.headers["eventType"] or "", event.value or ""

    return [told(event) for event in events(lane, aggregate_type, until_id(last))]


def test_each_reader_reads_each_writer(lane: OwnLane, application: dict[str, Any]) -> None:
    """One application is replaced while its events are read: version 1, version 2, and back."""
    write, read = application["write"], application["read"]
    for version in (1, 2, 1):
        send(lane, "order", *write(SHIPPED, version))
    last = send(lane, "order", "com.platform.orders.order.deleted.v1", "null")
    found = arrived(lane, "order", last)
    assert [event_type for event_type, _ in found[:3]] == [f"{KIND}.v1", f"{KIND}.v2", f"{KIND}.v1"]
    old = SHIPPED | {"status": "shipped"}
    unsaid = SHIPPED | {"status": {"is": "shipped", "was": None}}
    assert [read(*each, version=1) for each in found] == [old, old, old, None]
    assert [read(*each, version=2) for each in found] == [unsaid, SHIPPED, unsaid, None]


def test_a_reader_without_the_declaration_reads_what_is_written_for_it(
    lane: OwnLane, application: dict[str, Any]
) -> None:
    """Side by side in two topics: a program that knows version 1 only, and one that needs what version 2 says."""
    send(lane, "side", *application["write"](SHIPPED, 1))
    send(lane, "side-v2", *application["write"](SHIPPED))
    before = Versions(KIND)
    ((event_type, value),) = arrived(lane, "side", send_last(lane, "side"))[:-1]
    loads = application["json"].loads
    assert before.cast(loads(value), before.version_in(event_type) or 0) == SHIPPED | {"status": "shipped"}
    ((event_type, value),) = arrived(lane, "side-v2", send_last(lane, "side-v2"))[:-1]
    assert application["read"](event_type, value) == SHIPPED
    with pytest.raises(UnknownVersion, match=rf"{KIND} of version 2: this program knows 1; upgrade it"):
        before.cast(loads(value), before.version_in(event_type) or 0)


def send_last(lane: OwnLane, aggregate_type: str) -> uuid.UUID:
    """Send an event with the same key: what comes before it has come."""
    return send(lane, aggregate_type, "last", "null")
