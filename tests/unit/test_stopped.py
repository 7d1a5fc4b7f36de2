"""A table that waits for a decision: nothing of it is lost or acknowledged, and nobody else waits with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from processors.change import CheckedRecord, Stamp
from processors.engine import deliver
from processors.engine.backlog import Backlog
from processors.engine.batch import Batch, divide
from processors.engine.contract import Stop
from processors.engine.ledger import Ledger
from processors.engine.metrics import Metrics
from tests.support.records import FakeRecord
from tests.unit.test_deliver import House, P, Q

STOP = Stop(P.topic, "a migration took brand away", "accept it")


@dataclass
class Waiting:
    """Stops records that say so, until it is told to let them through."""

    accepted: bool = False
    asked: list[int] = field(default_factory=list)

    def stopped(self, checked: CheckedRecord, stamp: Stamp) -> Stop | None:
        self.asked.append(checked.record.offset)
        return STOP if b"stop" in checked.value and not self.accepted else None


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    monkeypatch.setattr(deliver, "STOPPED_S", 0.01)
    return Waiting()


@pytest.fixture
async def house(contract: Waiting) -> AsyncIterator[House]:
    made = House()
    made.deliverer._contract = contract
    made.registry = CollectorRegistry()  # type: ignore[attr-defined]
    made.deliverer._metrics = Metrics(made.registry, "memory")  # type: ignore[attr-defined]
    made.deliverer.start()
    await made.deliverer.assign({P, Q})
    yield made
    await made.deliverer.stop()
    assert made.ended == []


def shown(house: House) -> dict[str, str]:
    """Return what the sink holds, id → v."""
    return {key.split("'")[3]: (value or "").split("'")[3] for key, (_, value) in house.sink.rows.items()}


def stopped(house: House) -> float | None:
    labels = {"sink": "memory", "topic": P.topic}
    found: float | None = house.registry.get_sample_value("downriver_stopped_partitions", labels)  # type: ignore[attr-defined]
    return found


async def test_what_comes_before_is_delivered_and_what_follows_waits(house: House) -> None:
    house.feed(b"a=1", b"b=2", b"c=stop", b"d=4")
    house.feed(b"e=5", offset=4)
    await house.committable(2)
    assert shown(house) == {"a": "1", "b": "2"}
    assert dict(house.deliverer.stopped) == {P: STOP}
    assert stopped(house) == 1
    assert house.producer.sent == []  # no dead letters


async def test_nobody_else_waits_and_it_goes_on_where_it_stopped(house: House, contract: Waiting) -> None:
    house.feed(b"a=stop", b"b=2")
    await house.until(lambda: house.deliverer.stopped)
    house.feed(b"q=1", partition=Q)
    await house.committable(1, Q)
    assert house.deliverer.ledger.committable(P) is None
    assert not house.deliverer.is_open(P)
    assert house.deliverer.is_open(Q)
    contract.accepted = True
    await house.committable(2)
    assert shown(house) == {"a": "stop", "b": "2", "q": "1"}
    assert house.deliverer.stopped == {}
    assert house.deliverer.is_open(P)
    assert stopped(house) == 0


async def test_the_figures_don_t_pass_it(house: House, contract: Waiting) -> None:
    house.feed(b"a=1", b"b=stop")
    await house.committable(1)
    assert [seen[:3] for seen in house.recorder.seen] == [(P.topic, P.partition, 1)]
    contract.accepted = True
    await house.committable(2)
    assert [seen[:3] for seen in house.recorder.seen] == [(P.topic, P.partition, 1), (P.topic, P.partition, 2)]


async def test_a_revoked_partition_takes_its_stop_along(house: House) -> None:
    house.feed(b"a=stop")
    await house.until(lambda: house.deliverer.stopped)
    await house.deliverer.revoke({P})
    assert house.deliverer.stopped == {}
    assert house.deliverer.ledger.committable(P) is None
    assert stopped(house) == 0
    await asyncio.sleep(0.05)  # what was to be looked at again is not there any more
    assert shown(house) == {}


def batches(sizes: Sequence[int]) -> list[Batch]:
    made, offset = [], 0
    for size in sizes:
        records = [FakeRecord(P.topic, P.partition, offset + n, 0, b"k", b"v" * (offset + n)) for n in range(size)]
        offset += size
        made.append(Batch(P, records, offset, sum(1 + len(record.value or b"") for record in records)))
    return made


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any), st.data())
def test_a_division_loses_nothing_and_keeps_the_order(sizes: list[int], data: st.DataObject) -> None:
    listed = batches(sizes)
    offset = data.draw(st.sampled_from([record.offset for batch in listed for record in batch.records]))
    division = divide(listed, offset)
    parts = [*division.before, *division.after]
    assert [record for batch in parts for record in batch.records] == [r for batch in listed for r in batch.records]
    assert all(record.offset < offset for batch in division.before for record in batch.records)
    assert division.after[0].records[0].offset == offset
    assert sum(batch.size for batch in parts) == sum(batch.size for batch in listed)
    ledger = Ledger()
    for batch in listed:
        ledger.taken(batch)
    if division.cut is not None:
        ledger.split(division.cut, division.parts)
    for batch in division.before:
        ledger.delivered(batch)
    assert ledger.committable(P) == (
        offset if any(batch.records for batch in division.before) else ledger.committable(P)
    )
    for batch in division.after:
        ledger.delivered(batch)
    assert ledger.committable(P) == listed[-1].next_offset


def test_what_a_stopped_table_holds_closes_no_other_door() -> None:
    backlog = Backlog({P.topic: 1, Q.topic: 1}.__getitem__, 1_000)
    (batch,) = [Batch(P, [FakeRecord(P.topic)], 1, 5_000)]
    backlog.fetched(batch)
    backlog.submit(batch)
    assert not backlog.is_open(Q)
    (claimed,) = backlog.claim(10)
    backlog.stop(P, [claimed])
    backlog.release(P, [])
    assert backlog.is_open(Q)
    assert not backlog.is_open(P)
    assert backlog.claim(10) == []
    backlog.resume(P)
    assert backlog.claim(10) == [batch]
