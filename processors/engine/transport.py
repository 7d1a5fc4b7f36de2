"""Faust's aiokafka driver on a short lead: one Faust message per fetched record batch, and our own offset accounting.

What Faust does by default, and why it is replaced, is in docs/decisions/0001; tests/unit/test_faust_defaults.py and
tests/integration/test_faust_on_kafka.py hold each of those defaults against the installed version. This file is used by
faust only; it knows no sink.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Protocol, cast

import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faust import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from processors.engine.batch import Batch, Partition
from processors.engine.ledger import Ledger

log = structlog.get_logger(__name__)
faust_logger = logging.getLogger("faust.transport.downriver")
"""For what mode says of its services; the class attribute must be one that mode did not make itself."""
SCHEME = "downriver"
CLOSED_POLL_S = 0.1
"""How long a fetch waits while some partition is held back: its turn must come soon after it is opened again."""
OPEN_POLL_S = 1.0


class Delivery(Protocol):
    """What the transport tells the delivery, and asks of it. All calls come on the event loop."""

    ledger: Ledger

    def is_open(self, partition: Partition) -> bool:
        """Whether the partition may be fetched from."""

    def fetched(self, batch: Batch) -> None:
        """A batch left the client; it will be submitted unless its partition is revoked first."""

    async def revoke(self, partitions: set[Partition]) -> None:
        """The partitions are about to go: finish or give back what is under way, soon."""

    async def assign(self, partitions: set[Partition]) -> None:
        """These are the worker's partitions now."""

    async def drain(self) -> None:
        """The worker stops: finish or give back everything."""


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """The thread that owns the aiokafka client. A commit that fails is tried again, not a reason to crash."""

    logger = faust_logger
    skipped: Mapping[TP, int] = {}  # replaced as a whole, never changed
    """Of the last fetch: partition → the offset up to which it read, where that is past the last record it returned."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Read committed records only: with Faust's default, those of an aborted transaction would be delivered."""
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer

    def highwater(self, tp: TP) -> int | None:
        """Return the offset up to which the partition may be read: an open transaction is no lag of ours."""
        return cast("int | None", self._ensure_consumer().last_stable_offset(tp))

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109
        max_records: int | None = None,
    ) -> Any:
        """Fetch; a partition where only offsets without records were passed is returned with an empty list.

        Transaction markers, aborted records and compacted ones leave offsets that no record holds. At the end of a
        partition nothing but the client's position tells of them, and without it the lag would never reach zero.
        """
        before = _positions(consumer, active_partitions)
        records = dict(await super()._fetch_records(consumer, active_partitions, timeout, max_records))
        skipped = {}
        for tp, position in _positions(consumer, active_partitions).items():
            found = records.get(tp)
            if found is None and tp in before and position > before[tp]:
                records[tp] = []
            if tp in records and (not found or position > found[-1].offset + 1):
                skipped[tp] = position
        self.skipped = skipped
        return records

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        mine = consumer.assignment()
        wanted = {
            tp: offset
            for partition, offset in offsets.items()
            if (tp := driver.TopicPartition(partition.topic, partition.partition)) in mine
        }
        try:
            await consumer.commit(wanted)
        except (CommitFailedError, IllegalStateError) as error:
            log.info("commit_refused", reason=str(error), effect="the new owner reads these records again")
            return False
        except KafkaError as error:
            log.warning("commit_failed", reason=str(error) or type(error).__name__, effect="tried again")
            return False
        return True


class Consumer(driver.Consumer):  # type: ignore[misc]
    """One message per fetched record batch; commits the longest delivered prefix."""

    logger = faust_logger

    @property
    def delivery(self) -> Delivery:
        """The delivery of the app that this consumer feeds."""
        return cast("Delivery", self.app.delivery)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        """Fetch; yield one message per partition that had records, its value the whole Batch."""
        records, active = await self._wait_next_records(OPEN_POLL_S)
        skipped = self._thread.skipped
        generation = self.app.consumer_generation_id
        if not records or self.should_stop:
            return
        for tp, found in records.items():
            if not self.flow_active or self.app.consumer_generation_id != generation:
                return  # a rebalance: all of it is read again from the committed offsets
            if not (active is None or tp in active or tp in self._buffered_partitions):
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            next_offset = skipped.get(tp) or found[-1].offset + 1
            batch = Batch.of(Partition(tp.topic, tp.partition), found, next_offset)
            read = self._read_offset[tp]
            if read is not None and batch.next_offset <= read:
                continue  # Faust drops these a few lines later, unseen: they must not enter the ledger
            self.delivery.ledger.taken(batch)
            self.delivery.fetched(batch)
            yield (
                tp,
                ConsumerMessage(
                    topic=tp.topic,
                    partition=tp.partition,
                    offset=batch.next_offset - 1,
                    timestamp=batch.oldest_ms / 1000,
                    timestamp_type=0,
                    headers=(),
                    key=None,
                    value=batch,
                    checksum=None,
                    serialized_key_size=0,
                    serialized_value_size=batch.size,
                    tp=tp,
                    generation_id=generation,
                ),
            )

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        if active_partitions is None:
            return await super()._getmany(active_partitions, timeout)
        wanted = {tp for tp in active_partitions if self.delivery.is_open(Partition(tp.topic, tp.partition))}
        if not wanted:
            await asyncio.sleep(CLOSED_POLL_S)
            return {}
        return await super()._getmany(wanted, timeout if len(wanted) == len(active_partitions) else CLOSED_POLL_S)

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit, of every assigned partition, the longest delivered prefix. A failed commit is tried again later."""
        offsets = {
            tp: offset
            for tp in self.assignment()
            if (offset := self.delivery.ledger.committable(Partition(tp.topic, tp.partition))) is not None
            and offset != self._committed_offset.get(tp)
        }
        if not offsets or not await self._commit(offsets):
            return False
        self._committed_offset.update(offsets)
        self.app.monitor.on_tp_commit(offsets)
        return True

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """A batch knows the offset after its last record: nothing between records needs an acknowledgement."""

    def _new_offset(self, tp: TP) -> int | None:
        return self.delivery.ledger.committable(Partition(tp.topic, tp.partition))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish or give back what is under way, commit while the partitions are still ours, then let go."""
        partitions = partitions_of(revoked)
        await self.delivery.revoke(partitions)
        await self.force_commit()
        self.delivery.ledger.forget(partitions)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Start from the committed offsets with nothing remembered."""
        partitions = partitions_of(assigned)
        self.delivery.ledger.forget(partitions)
        await self.delivery.assign(partitions)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_stop(self) -> None:
        """Finish or give back everything, then commit (Faust's part). A start that was refused has nothing of either."""
        if self.started:
            await self.delivery.drain()
            await super().on_stop()


class Transport(driver.Transport):  # type: ignore[misc]
    """Give it to `faust.App` by the scheme `downriver://`."""

    Consumer = Consumer


class BatchSchema(Schema):  # type: ignore[misc]
    """Hands the batch on as it is: nothing is decoded before the delivery does it."""

    def compile(self, app: Any, **_: Any) -> Any:
        """Return Faust's decoding function, which here only wraps."""
        create_event = app.create_event

        async def decode(message: Any, **_: Any) -> Any:
            return create_event(None, message.value, message.headers, message)

        return decode


def _positions(consumer: Any, partitions: Iterable[TP]) -> dict[TP, int]:
    """Return how far the client has read, of the partitions where it knows. Call it in the consumer's thread."""
    subscription = consumer._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    if assignment is None:
        return {}
    states = {tp: assignment.state_value(tp) for tp in partitions}
    return {tp: state.position for tp, state in states.items() if state is not None and state.has_valid_position}


def partitions_of(tps: Iterable[TP]) -> set[Partition]:
    """Return faust's TPs as Partitions."""
    return {Partition(tp.topic, tp.partition) for tp in tps}
