"""The backlog: bounded, by priority, one writer a partition."""

from __future__ import annotations

import pytest

from processors.engine.backlog import Backlog
from processors.engine.batch import Batch, Partition
from tests.support.records import FakeRecord

RANKS = {"inventory": 0, "catalog": 1}


def batch(topic: str, partition: int = 0, offset: int = 0, count: int = 1, at_ms: int = 0, size: int = 100) -> Batch:
    records = [FakeRecord(topic, partition, offset + index, at_ms) for index in range(count)]
    return Batch(Partition(topic, partition), records, offset + count, size)


@pytest.fixture
def backlog() -> Backlog:
    return Backlog(RANKS.__getitem__, max_bytes=8_000)


def put(backlog: Backlog, *batches: Batch) -> None:
    for item in batches:
        backlog.fetched(item)
        backlog.submit(item)


def test_the_first_lane_goes_first_even_when_younger(backlog: Backlog) -> None:
    flood, hot = batch("catalog", at_ms=1), batch("inventory", at_ms=9)
    put(backlog, flood, hot)
    assert backlog.claim(100) == [hot]
    assert backlog.claim(100) == [flood]


def test_a_claim_takes_several_partitions_of_one_lane_oldest_first(backlog: Backlog) -> None:
    late, early = batch("catalog", 0, at_ms=5), batch("catalog", 1, at_ms=2)
    put(backlog, late, early)
    assert backlog.claim(100) == [early, late]


def test_a_claim_ends_at_the_record_limit_but_never_empty(backlog: Backlog) -> None:
    first, second = batch("catalog", 0, count=10), batch("catalog", 0, offset=10, count=10)
    put(backlog, first, second)
    assert backlog.claim(5) == [first]


def test_a_partition_has_one_writer_at_a_time(backlog: Backlog) -> None:
    first, second = batch("catalog"), batch("catalog", offset=1)
    put(backlog, first)
    assert backlog.claim(100) == [first]
    put(backlog, second)
    assert backlog.claim(100) == []
    backlog.release(first.partition, [first])
    assert backlog.claim(100) == [second]


def test_ranks_limit_what_a_writer_may_take(backlog: Backlog) -> None:
    put(backlog, batch("catalog"))
    assert backlog.claim(100, ranks=[0]) == []


def test_a_full_partition_closes_and_leaves_the_others_open(backlog: Backlog) -> None:
    put(backlog, batch("catalog", 0, size=1_000))
    assert not backlog.is_open(Partition("catalog", 0))
    assert backlog.is_open(Partition("catalog", 1))


def test_a_flood_leaves_the_door_open_for_the_first_lane(backlog: Backlog) -> None:
    for partition in range(8):
        put(backlog, batch("catalog", partition, size=1_000))
    assert not backlog.is_open(Partition("catalog", 9))
    put(backlog, batch("inventory", 0, size=10))
    assert backlog.is_open(Partition("inventory", 0))


def test_bytes_are_held_from_the_fetch_until_the_release(backlog: Backlog) -> None:
    item = batch("catalog", size=300)
    backlog.fetched(item)
    assert backlog.held == 300
    backlog.submit(item)
    backlog.claim(100)
    assert backlog.held == 300
    backlog.release(item.partition, [item])
    assert backlog.held == 0


def test_what_is_forgotten_is_neither_written_nor_held(backlog: Backlog) -> None:
    item = batch("catalog")
    put(backlog, item)
    backlog.forget([item.partition])
    assert (backlog.held, backlog.claim(100)) == (0, [])
    backlog.submit(item)
    assert backlog.claim(100) == []


async def test_changed_wakes_a_waiting_writer(backlog: Backlog) -> None:
    assert backlog.claim(100) == []
    put(backlog, batch("catalog"))
    await backlog.changed()
    assert len(backlog.claim(100)) == 1


def test_a_batch_without_records_is_claimed_like_any_other(backlog: Backlog) -> None:
    passed = Batch.of(Partition("catalog", 0), (), next_offset=9)
    put(backlog, passed)
    assert backlog.claim(100) == [passed]
