"""What the transport does with a fetch that outlasts a rebalance: taken by nobody, it is given back, never lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from faust.types import TP

from processors.engine.batch import Partition
from processors.engine.ledger import Ledger
from processors.engine.transport import FLOWING_BYTES, QUIET_S, Consumer, ConsumerThread, Fetch, NoReadOffsets
from processors.sinks.base import Pace
from tests.support.records import FakeRecord

TP0, TP1 = TP("shop.public.inventory", 0), TP("shop.public.inventory", 1)


@dataclass
class Assignment:
    """aiokafka's, as far as the transport looks: partition → the client's position."""

    positions: dict[TP, int]

    def state_value(self, tp: TP) -> Any:
        position = self.positions.get(tp)
        return None if position is None else SimpleNamespace(position=position, has_valid_position=True)


@dataclass
class Client:
    """aiokafka's consumer: whose assignment may be replaced, and which can be set to an offset."""

    assignment: Assignment
    sought: dict[TopicPartition, int] = field(default_factory=dict)

    @property
    def _subscription(self) -> Any:
        return SimpleNamespace(subscription=SimpleNamespace(assignment=self.assignment))

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought[tp] = offset


def thread_of(client: Client) -> ConsumerThread:
    """Return the consumer's thread, without a thread: what it is asked to call is called at once."""
    thread = ConsumerThread.__new__(ConsumerThread)
    thread._consumer = client

    async def call_at_once(function: Any, *arguments: Any) -> Any:
        return await function(*arguments)

    thread.call_thread = call_at_once
    return thread


def records(tp: TP, start: int, count: int) -> list[FakeRecord]:
    return [FakeRecord(topic=tp.topic, partition=tp.partition, offset=start + each) for each in range(count)]


def fetch_of(assignment: Assignment, *found: tuple[TP, int, int]) -> Fetch:
    """Return what a fetch took: (partition, first offset, how many), the client standing after it."""
    fetch = Fetch(assignment)
    for tp, start, count in found:
        fetch[tp], fetch.start[tp], fetch.reached[tp] = records(tp, start, count), start, start + count
        assignment.positions[tp] = start + count
    return fetch


class Taken:
    """A delivery that keeps what it is given."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.offsets: dict[TP, list[int]] = {}
        self.gone: list[tuple[Any, int, int]] = []

    def removed(self, partition: Any, committed: int, first: int) -> None:
        self.gone.append((partition, committed, first))

    def fetched(self, batch: Any) -> None:
        tp = TP(*batch.partition)
        self.offsets.setdefault(tp, []).extend(each.offset for each in batch.records)


def consumer_of(client: Client, fetch: Fetch) -> Any:
    """Return our consumer, about to be given `fetch`."""
    monitor = SimpleNamespace(track_tp_end_offset=lambda *_: None)
    made = Consumer.__new__(Consumer)
    made.app = SimpleNamespace(delivery=Taken(), consumer_generation_id=1, monitor=monitor)
    made._thread = thread_of(client)
    made.flow_active = True
    made.highwater = lambda tp: None
    made._stopped = made._crashed = asyncio.Event()

    async def next_records(_timeout: float) -> Any:
        return fetch, set(fetch)

    made._wait_next_records = next_records
    return made


async def drained(consumer: Any) -> None:
    async for _ in consumer.getmany(1.0):
        pass


@pytest.fixture
def client() -> Client:
    return Client(Assignment({}))


def test_what_was_fetched_is_taken_in_order_and_nothing_is_given_back(client: Client) -> None:
    consumer = consumer_of(client, fetch_of(client.assignment, (TP0, 10, 3), (TP1, 4, 1)))
    asyncio.run(drained(consumer))
    assert consumer.app.delivery.offsets == {TP0: [10, 11, 12], TP1: [4]}
    assert client.sought == {}


def test_what_came_while_the_flow_was_held_is_given_back(client: Client) -> None:
    """Between the assignment and the resumed flow nobody may have it, and the client has moved past it."""
    consumer = consumer_of(client, fetch_of(client.assignment, (TP0, 10, 3), (TP1, 4, 1)))
    consumer.flow_active = False
    asyncio.run(drained(consumer))
    assert consumer.app.delivery.offsets == {}
    assert client.sought == {TP0: 10, TP1: 4}


def test_a_rebalance_between_two_batches_gives_back_the_rest(client: Client) -> None:
    consumer = consumer_of(client, fetch_of(client.assignment, (TP0, 10, 3), (TP1, 4, 1)))

    async def held_after_the_first() -> None:
        async for _ in consumer.getmany(1.0):
            consumer.flow_active = False

    asyncio.run(held_after_the_first())
    assert consumer.app.delivery.offsets == {TP0: [10, 11, 12]}
    assert client.sought == {TP1: 4}


def test_what_an_older_assignment_gave_is_neither_taken_nor_given_back(client: Client) -> None:
    """The new assignment starts from the committed offsets: its positions are not ours to move."""
    consumer = consumer_of(client, fetch_of(client.assignment, (TP0, 10, 3)))
    client.assignment = Assignment({TP0: 13})
    asyncio.run(drained(consumer))
    assert consumer.app.delivery.offsets == {}
    assert client.sought == {}


def test_a_position_that_somebody_moved_since_is_left_alone(client: Client) -> None:
    consumer = consumer_of(client, fetch_of(client.assignment, (TP0, 10, 3), (TP1, 4, 1)))
    consumer.flow_active = False
    client.assignment.positions[TP0] = 500  # the broker's retention removed what was there: the client was reset
    asyncio.run(drained(consumer))
    assert client.sought == {TP1: 4}


def test_no_read_offset_outlives_a_rebalance() -> None:
    """Faust drops what lies below it; what a write that was given up left uncommitted must be read again."""
    offsets = NoReadOffsets()
    offsets[TP0] = 99
    assert offsets[TP0] is None


async def test_fetches_wait_for_company_while_records_flow_and_for_the_first_record_where_none_comes() -> None:
    fetcher = SimpleNamespace(_fetch_min_bytes=1, _fetch_max_wait_ms=1_500)
    thread = thread_of(Client(Assignment({})))
    thread.consumer = SimpleNamespace(delivery=SimpleNamespace(pace=Pace(max_records=1, extra=0, fetch_s=0.2)))
    consumer = SimpleNamespace(_fetcher=fetcher)
    thread._adapt(consumer, flowing=True)
    assert (fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms) == (FLOWING_BYTES, 200)
    thread._adapt(consumer, flowing=False)
    assert (fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms) == (1, int(QUIET_S * 1000))


async def test_what_the_broker_removed_unread_is_told_and_committed_over(client: Client) -> None:
    consumer = consumer_of(client, Fetch())
    consumer._committed_offset, written = {}, []

    async def committed_offsets() -> dict[TP, int]:
        return {TP0: 10, TP1: 4}

    async def first_offsets(partitions: Any) -> dict[TP, int]:
        return dict(zip(partitions, (12, 4), strict=True))

    async def commit(offsets: dict[TP, int]) -> bool:
        written.append(offsets)
        return True

    consumer._thread.committed_offsets, consumer._thread.first_offsets = committed_offsets, first_offsets
    consumer._commit = commit
    await consumer.perform_seek()
    assert consumer.app.delivery.gone == [(Partition(*TP0), 10, 12)]
    assert written == [{TP0: 12}]
    assert consumer._committed_offset == {TP0: 12, TP1: 4}
