"""Faust's aiokafka driver on a short lead: one Faust message per fetched record batch, and our own offset accounting.

What Faust does by default, and why it is replaced, is in docs/decisions/0001; tests/unit/test_faust_defaults.py and
tests/integration/test_faust_on_kafka.py hold each of those defaults against the installed version. This file is used by
faust only; it knows no sink.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

import structlog
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faust import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from processors.change import Record
from processors.engine.batch import Batch, Partition
from processors.engine.ledger import Ledger
from processors.sinks.base import Pace

log = structlog.get_logger(__name__)
faust_logger = logging.getLogger("faust.transport.downriver")
"""For what mode says of its services; the class attribute must be one that mode did not make itself."""
SCHEME = "downriver"
CLOSED_POLL_S = 0.1
"""How long a fetch waits while some partition is held back: its turn must come soon after it is opened again."""
OPEN_POLL_S = 1.0
FLOWING_BYTES = 256 * 1024
"""While records flow, a fetch waits for so many bytes, `Pace.fetch_s` long at most."""
QUIET_S = 0.5
"""How long the broker holds back a fetch while nothing comes. A rebalance may have to wait for it."""


class Delivery(Protocol):
    """What the transport tells the delivery, and asks of it. All calls come on the event loop."""

    ledger: Ledger
    pace: Pace

    def is_open(self, partition: Partition) -> bool:
        """Whether the partition may be fetched from."""

    def fetched(self, batch: Batch) -> None:
        """A batch left the client; it will be submitted unless its partition is revoked first."""

    def removed(self, partition: Partition, committed: int, first: int) -> None:
        """The broker removed what nobody had read: the offsets from `committed` to below `first`."""

    async def revoke(self, partitions: set[Partition]) -> None:
        """The partitions are about to go: finish or give back what is under way, soon."""

    async def assign(self, partitions: set[Partition]) -> None:
        """These are the worker's partitions now."""

    async def drain(self) -> None:
        """The worker stops: finish or give back everything."""


class Fetch(dict[TP, Sequence[Record]]):
    """What one fetch took from the client: partition → records, none where it only passed offsets that hold no record.

    Attributes:
        assignment: the client's assignment it was made under; another object after every rebalance.
        start: partition → where the client stood before it.
        reached: partition → where it stands after it.
    """

    def __init__(self, assignment: Any = None) -> None:
        super().__init__()
        self.assignment = assignment
        self.start: dict[TP, int] = {}
        self.reached: dict[TP, int] = {}


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # faust ships no types
    """The thread that owns the aiokafka client. A commit that fails is tried again, not a reason to crash."""

    logger = faust_logger

    def _create_worker_consumer(self, transport: Any) -> Any:
        """Read committed records only: with Faust's default, those of an aborted transaction would be delivered."""
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = int(QUIET_S * 1000)
        return consumer

    def _adapt(self, consumer: Any, *, flowing: bool) -> None:
        """Let the next fetches wait for company while records flow, and for the first record where none comes."""
        fetcher = consumer._fetcher
        fetcher._fetch_min_bytes = FLOWING_BYTES if flowing else 1
        wait_s = self.consumer.delivery.pace.fetch_s if flowing else QUIET_S
        fetcher._fetch_max_wait_ms = int(wait_s * 1000)

    def highwater(self, tp: TP) -> int | None:
        """Return the offset up to which the partition may be read: an open transaction is no lag of ours."""
        return cast("int | None", self._ensure_consumer().last_stable_offset(tp))

    @property
    def assignment_now(self) -> Any:
        """The client's assignment, to be compared by identity; None without a subscription."""
        subscription = self._ensure_consumer()._subscription.subscription
        return None if subscription is None else subscription.assignment

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109
        max_records: int | None = None,
    ) -> Fetch:
        """Fetch; a partition where only offsets without records were passed is returned with an empty list.

        Transaction markers, aborted records and compacted ones leave offsets that no record holds. At the end of a
        partition nothing but the client's position tells of them, and without it the lag would never reach zero.
        """
        began = self.assignment_now
        before = _positions(began, active_partitions)
        records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        self._adapt(consumer, flowing=bool(records))
        fetch = Fetch(self.assignment_now)
        if fetch.assignment is not began:  # a rebalance while it waited: what was known of positions is void
            before = {}
        for tp, reached in _positions(fetch.assignment, active_partitions).items():
            found = records.get(tp, ())
            start = found[0].offset if found else before.get(tp, reached)
            if found or reached > start:
                fetch[tp], fetch.start[tp], fetch.reached[tp] = found, start, reached
        return fetch

    async def give_back(self, fetch: Fetch, partitions: Iterable[TP]) -> None:
        """Set the client back to where it stood before the fetch, unless it was moved since: nobody took the records."""
        await self.call_thread(self._give_back, fetch, partitions)

    async def _give_back(self, fetch: Fetch, partitions: Iterable[TP]) -> None:
        assignment = self.assignment_now
        if assignment is not fetch.assignment:
            return  # the positions of the new assignment start from the committed offsets
        for tp, position in _positions(assignment, partitions).items():
            if position == fetch.reached[tp]:
                self._ensure_consumer().seek(driver.TopicPartition(tp.topic, tp.partition), fetch.start[tp])

    async def committed_offsets(self) -> dict[TP, int]:
        """Return the committed offset of every assigned partition that has one; fewer if a rebalance came in between."""
        found: dict[TP, int] = await self.call_thread(self._committed_offsets)
        return found

    async def _committed_offsets(self) -> dict[TP, int]:
        consumer = self._ensure_consumer()
        partitions = list(consumer.assignment())
        found = await asyncio.gather(*(consumer.committed(tp) for tp in partitions), return_exceptions=True)
        return {
            TP(tp.topic, tp.partition): offset
            for tp, offset in zip(partitions, found, strict=True)
            if isinstance(offset, int)
        }

    async def first_offsets(self, partitions: Iterable[TP]) -> dict[TP, int]:
        """Return the first offset that the broker still has, of each partition; nothing if it does not answer."""
        found: dict[TP, int] = await self.call_thread(self._first_offsets, list(partitions))
        return found

    async def _first_offsets(self, partitions: Sequence[TP]) -> dict[TP, int]:
        if not partitions:
            return {}
        asked = [driver.TopicPartition(tp.topic, tp.partition) for tp in partitions]
        try:
            found = await self._ensure_consumer().beginning_offsets(asked)
        except KafkaError as error:
            log.warning("first_offsets_unknown", reason=str(error) or type(error).__name__, effect="asked next time")
            return {}
        return {TP(tp.topic, tp.partition): offset for tp, offset in found.items()}

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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = NoReadOffsets()

    @property
    def delivery(self) -> Delivery:
        """The delivery of the app that this consumer feeds."""
        return cast("Delivery", self.app.delivery)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Note the committed offsets, from which lag is told, and leave the client where it stands.

        On each assignment it starts from them by itself. Faust seeks once more when fetching may already have begun, and
        skips partitions without a commit: what was fetched in between was read twice, or never (docs/decisions/0001).
        """
        committed = await self._thread.committed_offsets()
        self._committed_offset.update(committed)
        removed = {
            tp: first
            for tp, first in (await self._thread.first_offsets(committed)).items()
            if first > committed[tp]  # the client starts from `first` without a word
        }
        for tp, first in removed.items():
            self.delivery.removed(Partition(tp.topic, tp.partition), committed[tp], first)
        if removed and await self._commit(removed):  # told once; and what is gone is no lag
            self._committed_offset.update(removed)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:  # noqa: ASYNC109
        """Fetch; yield one message per partition that had records, its value the whole Batch.

        A fetch may outlast a rebalance. What it took from the client and nobody may have now is given back.
        """
        fetch, _active = await self._wait_next_records(OPEN_POLL_S)
        if not fetch or self.should_stop:
            return
        generation = self.app.consumer_generation_id
        left = set(fetch)
        for tp, found in fetch.items():
            if not self.flow_active or self._thread.assignment_now is not fetch.assignment:
                break
            left.discard(tp)
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            batch = Batch.of(Partition(tp.topic, tp.partition), found, fetch.reached[tp])
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
        if left:
            await self._thread.give_back(fetch, left)

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


class NoReadOffsets(dict[TP, None]):
    """Takes the place of Faust's "read up to here": kept over a rebalance, it drops records that are to be read again."""

    def __missing__(self, tp: TP) -> None:
        return None

    def __setitem__(self, tp: TP, offset: Any) -> None:
        """Remember nothing: the client's position and the ledger are the truth."""


def _positions(assignment: Any, partitions: Iterable[TP]) -> dict[TP, int]:
    """Return how far the client has read, of the partitions where it knows. Call it in the consumer's thread."""
    if assignment is None:
        return {}
    states = {tp: assignment.state_value(tp) for tp in partitions}
    return {tp: state.position for tp, state in states.items() if state is not None and state.has_valid_position}


def partitions_of(tps: Iterable[TP]) -> set[Partition]:
    """Return faust's TPs as Partitions."""
    return {Partition(tp.topic, tp.partition) for tp in tps}
