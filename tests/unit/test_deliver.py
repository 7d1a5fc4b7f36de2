"""Delivery: nothing is committable that is not written, shown and published; whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from prometheus_client import CollectorRegistry

from processors.change import Change, CheckedRecord, Kind, Op, Origin, Record, Stamp, TableId
from processors.decode import Undecodable
from processors.engine.batch import Batch, Partition
from processors.engine.deadletter import DeadLetters
from processors.engine.deliver import Deliverer
from processors.engine.metrics import Metrics
from processors.engine.prepare import Rows, Sample, TopicPlan
from processors.engine.waiting import WaitedTooLong, Waits
from processors.sinks.base import Pace, Verdict, rejected
from schemas.registry import RegistryAway
from tests.support.memory import MemoryRoute, MemorySink, Put, away
from tests.support.records import FakeRecord

P = Partition("shop_inventory.public.inventory", 0)
Q = Partition("shop_catalog.public.products", 0)
TABLE = TableId("public", "inventory")


@dataclass
class FakeDecoder:
    """Values are `key=text`; `bad` can't be decoded; None is a tombstone."""

    away: int = 0

    def check(self, record: Record) -> CheckedRecord | None:
        if self.away:
            self.away -= 1
            msg = "the registry does not answer"
            raise RegistryAway(msg)
        if record.value == b"bad":
            msg = "the magic byte is 98"
            raise Undecodable(msg)
        return None if record.value is None else CheckedRecord(record, TABLE, 1, {})

    def stamp(self, checked: CheckedRecord) -> Stamp:
        return Stamp(Op.UPDATE, Kind.STREAMED, 1_000_000, 7, checked.record.offset + 1)

    def glance(self, checked: CheckedRecord, stamp: Stamp, columns: frozenset[str]) -> Any:
        raise NotImplementedError  # MemoryRoute reads rows

    def whole(self, checked: CheckedRecord) -> bool:
        raise NotImplementedError

    def partial(self, checked: CheckedRecord, stamp: Stamp, rows: Any) -> Change:
        raise NotImplementedError

    def change(self, checked: CheckedRecord, stamp: Stamp, *, before: bool = True) -> Change:
        record = checked.record
        key, _, text = checked.value.decode().partition("=")
        origin = Origin(record.topic, record.partition, record.offset)
        at = datetime.fromtimestamp(1, UTC)
        return Change("shop", TABLE, Op.UPDATE, {"id": key}, None, {"v": text}, record.offset + 1, at, 7, origin)


class AllRules:
    columns: frozenset[str] = frozenset()

    def needs_row(self, stamp: Stamp) -> bool:
        return False

    def counts(self, stamp: Stamp, rows: Any) -> Sequence[str]:
        return ("inventory",)


@dataclass
class FakeRecorder:
    seen: list[tuple[str, int, int, list[Sample]]] = field(default_factory=list)
    dead: list[tuple[str, int]] = field(default_factory=list)
    flushes: int = 0
    fail: int = 0
    restored: set[tuple[str, int]] = field(default_factory=set)

    async def restore(self, partitions: Iterable[tuple[str, int]]) -> None:
        self.restored |= set(partitions)

    def dropped(self, partitions: Iterable[tuple[str, int]]) -> None:
        self.restored -= set(partitions)

    def visible(self, topic: str, partition: int, position: int, samples: Sequence[Sample], at_s: float) -> None:
        assert (topic, partition) in self.restored
        self.seen.append((topic, partition, position, list(samples)))

    def dead_letter(self, topic: str, partition: int, offset: int) -> None:
        self.dead.append((topic, partition))

    async def flush(self) -> None:
        if self.fail:
            self.fail -= 1
            raise KafkaConnectionError
        self.flushes += 1


@dataclass
class FakeProducer:
    sent: list[tuple[str, bytes | None, bytes | None, dict[str, bytes]]] = field(default_factory=list)
    fail: int = 0

    async def send(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None,
        timestamp_ms: int | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.fail:
            self.fail -= 1
            done.set_exception(KafkaConnectionError())
        else:
            self.sent.append((topic, key, value, dict(headers)))
            done.set_result(None)
        return done


class House:
    """A deliverer with doubles around it."""

    def __init__(self, pace: Pace | None = None, waits: Waits | None = None) -> None:
        self.sink = MemorySink()
        self.decoder = FakeDecoder()
        self.recorder = FakeRecorder()
        self.producer = FakeProducer()
        self.ended: list[BaseException] = []
        plan = TopicPlan(MemoryRoute(), Rows.BOTH, AllRules(), frozenset(), frozenset())
        self.deliverer = Deliverer(
            sink=self.sink,
            plans={P.topic: plan, Q.topic: plan},
            rank={P.topic: 0, Q.topic: 1}.__getitem__,
            decoder=self.decoder,
            recorder=self.recorder,
            dead_letters=DeadLetters(self.producer.send, "memory"),
            metrics=Metrics(CollectorRegistry(), "memory"),
            waits=waits or Waits(0.001, 0.01),
            pace=pace or self.sink.pace,
            max_bytes=1_000_000,
            ended=self.ended.append,
        )

    def feed(self, *values: bytes | None, partition: Partition = P, offset: int = 0) -> Batch:
        records = [
            FakeRecord(partition.topic, partition.partition, offset + index, index, b"key", value)
            for index, value in enumerate(values)
        ]
        batch = Batch.of(partition, records)
        self.deliverer.ledger.taken(batch)
        self.deliverer.fetched(batch)
        self.deliverer.submit(batch)
        return batch

    def replace_sink(self, sink: MemorySink) -> None:
        self.sink = self.deliverer._sink = sink

    async def committable(self, offset: int, partition: Partition = P) -> None:
        async with asyncio.timeout(5):
            while self.deliverer.ledger.committable(partition) != offset:
                await asyncio.sleep(0.001)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    made.deliverer.start()
    await made.deliverer.assign({P, Q})
    yield made
    await made.deliverer.stop()
    assert made.sink.closed == 1


async def test_a_batch_is_written_shown_published_and_then_committable(house: House) -> None:
    house.feed(b"a=1", b"b=2")
    await house.committable(2)
    assert [value for _, value in house.sink.rows.values()] == ["[('v', '1')]", "[('v', '2')]"]
    assert house.recorder.seen == [(*P, 2, [("inventory", 1_000, 0), ("inventory", 1_000, 1)])]
    assert house.recorder.flushes == 1


async def test_an_away_sink_keeps_the_batch_uncommitted_until_it_is_back(house: House) -> None:
    house.sink.faults = [away] * 5
    house.feed(b"a=1")
    await house.until(lambda: len(house.sink.writes) >= 3)
    assert house.deliverer.ledger.committable(P) is None
    await house.committable(1)
    assert len(house.sink.rows) == 1


async def test_an_away_registry_is_waited_for(house: House) -> None:
    house.decoder.away = 4
    house.feed(b"a=1")
    await house.committable(1)
    assert (len(house.sink.rows), house.producer.sent) == (1, [])


async def test_what_cant_be_decoded_is_a_dead_letter_and_the_rest_goes_on(house: House) -> None:
    house.feed(b"a=1", b"bad", b"b=2")
    await house.committable(3)
    [(topic, key, value, headers)] = house.producer.sent
    assert (topic, key, value) == (P.topic + ".dlq", b"key", b"bad")
    assert headers == {
        "downriver.dlq.error": b"the magic byte is 98",
        "downriver.dlq.topic": P.topic.encode(),
        "downriver.dlq.partition": b"0",
        "downriver.dlq.offset": b"1",
        "downriver.dlq.sink": b"memory",
        "downriver.dlq.attempt": b"1",
    }
    assert (len(house.sink.rows), house.recorder.dead) == (2, [tuple(P)])


async def test_a_dead_letter_is_confirmed_before_its_record_is_committable(house: House) -> None:
    house.producer.fail = 3
    house.feed(b"bad")
    await house.until(lambda: house.producer.fail == 0 or house.deliverer.ledger.committable(P))
    await house.committable(1)
    assert len(house.producer.sent) == 1


async def test_a_rejected_command_is_a_dead_letter_with_the_stores_reason(house: House) -> None:
    def refuse(batch: Sequence[Put]) -> Sequence[Verdict]:
        return [rejected("mapper_parsing_exception") for _ in batch]

    house.sink.faults = [refuse]
    house.feed(b"a=1")
    await house.committable(1)
    assert house.producer.sent[0][3]["downriver.dlq.error"] == b"mapper_parsing_exception"


async def test_tombstones_mean_nothing_and_are_committed(house: House) -> None:
    house.feed(None, None)
    await house.committable(2)
    assert house.sink.writes == []


async def test_offsets_without_records_are_shown_and_committed(house: House) -> None:
    batch = Batch.of(P, (), next_offset=7)  # a marker, an aborted transaction, a hole at the partition's end
    house.deliverer.ledger.taken(batch)
    house.deliverer.fetched(batch)
    house.deliverer.submit(batch)
    await house.committable(7)
    assert (house.recorder.seen, house.sink.writes) == ([(*P, 7, [])], [])


async def test_figures_that_cant_be_published_hold_back_the_commit(house: House) -> None:
    house.recorder.fail = 3
    house.feed(b"a=1")
    await house.until(lambda: house.recorder.fail < 3)
    await house.committable(1)
    assert house.recorder.flushes == 1


async def test_a_stuck_partition_leaves_the_other_alone(house: House) -> None:
    class Stuck(MemorySink):
        async def write(self, batch: Sequence[Put]) -> Sequence[Verdict]:
            if any("stuck" in (put.value or "") for put in batch):
                return away(batch) or ()
            return await super().write(batch)

    house.replace_sink(Stuck())
    house.feed(b"s=stuck", partition=Q)
    house.feed(b"a=1", partition=P)
    await house.committable(1, P)
    assert house.deliverer.ledger.committable(Q) is None


async def test_a_revoked_partition_is_given_back_unwritten_and_uncommitted(house: House) -> None:
    house.sink.faults = [away] * 10_000
    house.feed(b"a=1")
    await house.until(lambda: house.sink.writes)
    await house.deliverer.revoke({P})
    house.deliverer.ledger.forget([P])
    written = len(house.sink.writes)
    house.sink.faults = []
    house.feed(b"b=2")  # fetched between the revocation and the assignment: dropped
    await asyncio.sleep(0.05)
    assert (len(house.sink.writes), house.sink.rows, house.deliverer.ledger.committable(P)) == (written, {}, None)
    house.deliverer.ledger.forget([P])
    await house.deliverer.assign({P, Q})
    house.feed(b"a=1")
    await house.committable(1)


async def test_a_revoked_partitions_write_may_finish_and_is_then_committable(house: House) -> None:
    gate = asyncio.Event()

    class Slow(MemorySink):
        async def write(self, batch: Sequence[Put]) -> Sequence[Verdict]:
            await gate.wait()
            return await super().write(batch)

    house.replace_sink(Slow())
    house.feed(b"a=1")
    await house.until(lambda: house.deliverer._writing)
    asyncio.get_running_loop().call_later(0.05, gate.set)
    await house.deliverer.revoke({P})
    assert house.deliverer.ledger.committable(P) == 1


async def test_a_wait_past_the_limit_ends_the_worker() -> None:
    made = House(waits=Waits(0.001, 0.01, limit_s=0.02))
    made.sink.faults = [away] * 10_000
    made.deliverer.start()
    await made.deliverer.assign({P})
    made.feed(b"a=1")
    await made.until(lambda: made.ended)
    assert isinstance(made.ended[0], WaitedTooLong)
    assert made.deliverer.ledger.committable(P) is None
    await made.deliverer.stop()


async def test_a_busy_first_lane_does_not_starve_the_others(house: House) -> None:
    gate = asyncio.Event()

    class Slow(MemorySink):
        async def write(self, batch: Sequence[Put]) -> Sequence[Verdict]:
            if any("hot" in (put.value or "") for put in batch):
                await gate.wait()
            return await super().write(batch)

    house.replace_sink(Slow())
    hot = [Partition(P.topic, number) for number in range(8)]  # more than there are writers to take them
    await house.deliverer.assign({*hot, Q})
    for partition in hot:
        house.feed(b"h=hot", partition=partition)
        await asyncio.sleep(0)
    house.feed(b"a=1", partition=Q)
    await house.committable(1, Q)
    gate.set()
    await house.committable(1, P)


async def test_what_comes_during_the_linger_joins_the_next_claim() -> None:
    made = House(pace=Pace(max_records=100, extra=0, linger_s=0.2))
    made.deliverer.start()
    await made.deliverer.assign({P, Q})
    made.feed(b"a=1")
    await made.committable(1)
    for offset in range(1, 6):
        made.feed(b"a=2", offset=offset)
        await asyncio.sleep(0.001)
    await made.committable(6)
    assert [len(batch) for batch in made.sink.writes] == [1, 5]
    await made.deliverer.stop()


async def test_order_within_a_partition_is_kept_over_many_claims() -> None:
    made = House(pace=Pace(max_records=3, extra=4))
    made.deliverer.start()
    await made.deliverer.assign({P, Q})
    for start in range(0, 100, 2):
        made.feed(b"a=%d" % start, b"a=%d" % (start + 1), offset=start)
    await made.committable(100)
    versions = [put.version for batch in made.sink.writes for put in batch]
    assert versions == sorted(versions)
    assert len(versions) == 100
    await made.deliverer.stop()


async def test_partitions_that_are_fetched_at_once_make_one_claim(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processors.engine.deliver.GATHER_S", 0.2)
    every = [Partition(P.topic, number) for number in range(8)]
    await house.deliverer.assign({*every, Q})
    for partition in every:  # as the agent does it: one message of the fetch after the other
        house.feed(b"%d=1" % partition.partition, partition=partition)
        await asyncio.sleep(0)
    for partition in every:
        await house.committable(1, partition)
    assert [len(batch) for batch in house.sink.writes] == [8]


async def test_many_writes_share_a_publication_and_a_revocation_does_not_wait_for_its_pace(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processors.engine.visible.PUBLISH_S", 60.0)
    house.feed(b"a=1")
    await house.committable(1)
    for offset in range(1, 6):
        house.feed(b"a=2", offset=offset)
        await house.until(lambda offset=offset: house.recorder.seen[-1][2] == offset + 1)
    assert house.recorder.flushes == 1, "readers see all of it, nothing is committable yet"
    assert house.deliverer.ledger.committable(P) == 1
    await house.deliverer._visibility.idle()
    assert (house.recorder.flushes, house.deliverer.ledger.committable(P)) == (2, 6)
