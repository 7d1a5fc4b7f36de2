"""Delivery: decode, route, write, retry in place, dead-letter, acknowledge. The one module that does it, for every sink.

For each claim of batches:
1. prepare in a thread (wait while the registry is away);
2. write until every command has its final verdict (wait while the sink is away);
3. write dead letters and wait until the broker has them;
4. hand the batches to Visibility, which acknowledges them once readers see them and the figures are published.
A record counts as delivered when all its commands are applied or stale, or it is a dead letter, or it means nothing.
Whatever ends the process between two steps, nothing unconfirmed is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError

from processors.engine.attempts import write_until_decided
from processors.engine.backlog import Backlog
from processors.engine.batch import Batch, Partition, divide
from processors.engine.contract import Stop
from processors.engine.deadletter import DeadLetters
from processors.engine.ledger import Ledger
from processors.engine.metrics import Metrics
from processors.engine.prepare import Contract, Decoder, Prepared, Refused, TopicPlan, prepare
from processors.engine.visible import Recorder, Visibility, Written
from processors.engine.waiting import Waits
from processors.sinks.base import Pace, Sink, SinkUnavailable
from schemas.registry import RegistryAway

log = structlog.get_logger(__name__)
STOPPED_S = 2.0
"""How often a stopped partition is looked at again."""
GATHER_S = 0.003
"""What is fetched at once is submitted partition by partition: so long after the first the others are there, too, and make
one claim with it instead of one each."""
GRACE_S = 4.0
"""How long a revoked partition's write may go on: below the broker's rebalance timeout, so that the group moves on."""


class FullRecorder(Recorder, Protocol):
    """What is needed of processors.propagation.recorder.Recorder."""

    async def restore(self, partitions: Iterable[tuple[str, int]]) -> None: ...
    def dropped(self, partitions: Iterable[tuple[str, int]]) -> None: ...
    def dead_letter(self, topic: str, partition: int, offset: int) -> None: ...


class Deliverer:
    """Everything between the consumer and the sink. Lives on the event loop; implements the transport's Delivery.

    Args:
        plans: topic → what to do with its records.
        rank: topic → priority of its lane, 0 first.
        ended: called once, from the loop, when the delivery can't go on; with the reason.
        contract: tells which records must wait for a person's decision; None: none must.
    """

    def __init__(
        self,
        *,
        sink: Sink[Any],
        plans: Mapping[str, TopicPlan],
        rank: Callable[[str], int],
        decoder: Decoder,
        recorder: FullRecorder,
        dead_letters: DeadLetters,
        metrics: Metrics,
        waits: Waits,
        pace: Pace,
        max_bytes: int,
        ended: Callable[[BaseException], None],
        contract: Contract | None = None,
    ) -> None:
        self.ledger = Ledger()
        self.stopped: dict[Partition, Stop] = {}
        self._contract = contract
        self.waits = waits
        self.pace = pace
        self.backlog = Backlog(rank, max_bytes)
        self.partitions: set[Partition] = set()
        self.progress_at = time.monotonic()
        self._sink = sink
        self._plans = plans
        self._rank = rank
        self._decoder = decoder
        self._recorder = recorder
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._ended = ended
        self._visibility = Visibility(
            sink, recorder, self.ledger, waits, lambda partition: partition in self.partitions
        )
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing: dict[asyncio.Task[None], set[Partition]] = {}
        self._started: dict[int, float] = {}
        self._restored: dict[Partition, asyncio.Task[None]] = {}
        self._opened = asyncio.Event()
        self._closed: set[Partition] = set()
        self._stopping = False

    # -- the transport's side

    def is_open(self, partition: Partition) -> bool:
        """See transport.Delivery."""
        return not self._stopping and partition not in self._closed and self.backlog.is_open(partition)

    def fetched(self, batch: Batch) -> None:
        """See transport.Delivery. What is fetched while its partition is being revoked is not kept."""
        if batch.partition not in self._closed:
            self.backlog.fetched(batch)

    def submit(self, batch: Batch) -> None:
        """Take a batch from the agent."""
        if batch.partition not in self._closed:
            self.backlog.submit(batch)
        self._metrics.held_bytes.labels(self._sink.name).set(self.backlog.held)

    async def assign(self, partitions: set[Partition]) -> None:
        """Take over the partitions; their figures are fetched while fetching starts, and writing waits for them."""
        self.partitions = partitions
        self._closed.clear()
        self._metrics.assigned.labels(self._sink.name).set(len(partitions))
        self.progress_at = time.monotonic()
        log.info("assigned", sink=self._sink.name, partitions=_spell(partitions))
        if partitions:
            task = self._spawn(self._restore(partitions))
            self._restored = dict.fromkeys(partitions, task)

    def removed(self, partition: Partition, committed: int, first: int) -> None:
        """See transport.Delivery. Told and counted: the sink lacks these changes until it is compared and repaired."""
        self._metrics.removed.labels(self._sink.name, partition.topic).inc(first - committed)
        log.error(
            "removed_unread",
            sink=self._sink.name,
            topic=partition.topic,
            partition=partition.partition,
            committed=committed,
            first=first,
            reason="the broker removed records that this group had not read: the topic's retention is too short",
            way_on="`downriver verify` says what the sink lacks; `downriver connectors reread TABLE` sends rows again",
        )

    async def revoke(self, partitions: set[Partition]) -> None:
        """Let writes under way finish for GRACE_S, give back the rest."""
        self._closed |= partitions
        self.backlog.forget(partitions)
        deadline = time.monotonic() + GRACE_S
        writing = {task for task, claimed in self._writing.items() if claimed & partitions}
        if writing:
            _, late = await asyncio.wait(writing, timeout=GRACE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
                log.info("given_back", sink=self._sink.name, writes=len(late), reason="the partitions were revoked")
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.5)):
                await self._visibility.idle()
        except TimeoutError:
            log.info("given_back", sink=self._sink.name, reason="what was written was not shown in time")
        self._recorder.dropped(partitions)
        self.partitions -= partitions
        for partition in partitions & self.stopped.keys():
            del self.stopped[partition]
            self._metrics.stopped.labels(self._sink.name, partition.topic).set(0)
        log.info("revoked", sink=self._sink.name, partitions=_spell(partitions))

    async def drain(self) -> None:
        """Stop: what is under way finishes or is given back; nothing new is started."""
        self._stopping = True
        if self.partitions:
            await self.revoke(set(self.partitions))

    # -- life

    def start(self) -> None:
        """Start the writers. Opening the sink waits for its server."""
        ranks = frozenset(self._rank(topic) for topic in self._plans)
        self._spawn(self._open())
        self._spawn(self._visibility.run())
        self._spawn(self._visibility.publish())
        for rank in ranks:  # a lane of its own for each: a flood in one neither delays nor starves another
            self._spawn(self._writer(frozenset({rank})))
        for _ in range(self.pace.extra):
            self._spawn(self._writer(ranks))

    async def stop(self) -> None:
        """Stop all tasks and close the sink. Call `drain` first."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._opened.is_set():
            await self._sink.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                log.exception("delivery_ended", sink=self._sink.name)
                self._ended(error)

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _open(self) -> None:
        wait = self.waits.begin(self._sink.name)
        while True:
            try:
                await self._sink.open()
                break
            except SinkUnavailable as error:
                await wait.failed(str(error))
        wait.over()
        self._opened.set()
        log.info("sink_open", sink=self._sink.name)

    async def _restore(self, partitions: set[Partition]) -> None:
        wait = self.waits.begin("Kafka (to read the figures)")
        while True:
            try:
                await self._recorder.restore(partitions)
                break
            except KafkaError as error:
                await wait.failed(str(error) or type(error).__name__)
        wait.over()

    # -- writing

    async def _writer(self, ranks: frozenset[int]) -> None:
        await self._opened.wait()
        while True:
            claim = await self._claim(ranks)
            task = asyncio.current_task()
            inner = asyncio.get_running_loop().create_task(self._deliver(claim))
            self._writing[inner] = {batch.partition for batch in claim}
            try:
                await asyncio.shield(inner)
            except asyncio.CancelledError:
                if task is not None and task.cancelling():
                    inner.cancel()
                    await asyncio.wait({inner})
                    raise
            finally:
                self._writing.pop(inner, None)

    async def _claim(self, ranks: frozenset[int]) -> list[Batch]:
        """Wait for batches of the ranks whose linger time is over, and claim them."""
        while True:
            now = time.monotonic()
            due = {rank: self._started.get(rank, 0.0) + self.pace.linger_s for rank in ranks}
            ready = [rank for rank, at in due.items() if at <= now]
            later_s = min((at - now for at in due.values() if at > now), default=None)
            if not ready and later_s is not None:
                await asyncio.sleep(later_s)
                continue
            if claim := self.backlog.claim(self.pace.max_records, ready):
                self._started[self._rank(claim[0].partition.topic)] = now
                return claim
            with contextlib.suppress(TimeoutError):  # a rank that was not due may be now
                async with asyncio.timeout(later_s):  # wait_for of 3.11 may swallow a cancellation
                    await self.backlog.changed()
                await asyncio.sleep(GATHER_S)

    async def _deliver(self, claim: Sequence[Batch]) -> None:
        """Deliver the claim; on any end its partitions are free again, what was not delivered stays unacknowledged."""
        by_partition: dict[Partition, list[Batch]] = {}
        for batch in claim:
            by_partition.setdefault(batch.partition, []).append(batch)
        try:
            for restored in {self._restored[partition] for partition in by_partition if partition in self._restored}:
                await asyncio.shield(restored)
            began = time.perf_counter()
            records = [record for batch in claim for record in batch.records]
            prepared = await self._prepare(records)
            self._metrics.skipped.labels(self._sink.name).inc(prepared.skipped)
            self._metrics.coalesced.labels(self._sink.name).inc(prepared.coalesced)
            self._stop(prepared, by_partition)
            await self._write(records, prepared, by_partition)
            lane = claim[0].partition.topic.partition(".")[0]
            self._metrics.write_seconds.labels(self._sink.name, lane).observe(time.perf_counter() - began)
            self._metrics.batch_records.labels(self._sink.name).observe(len(records))
        finally:
            for partition, batches in by_partition.items():
                self.backlog.release(partition, batches)
            self._metrics.held_bytes.labels(self._sink.name).set(self.backlog.held)

    async def _prepare(self, records: Sequence[Any]) -> Prepared:
        wait = self.waits.begin("the schema registry")
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    return await loop.run_in_executor(
                        self._threads, prepare, records, self._plans, self._decoder, self._contract
                    )
                except RegistryAway as error:
                    await wait.failed(str(error))
        finally:
            wait.over()

    def _stop(self, prepared: Prepared, by_partition: dict[Partition, list[Batch]]) -> None:
        """Set aside what must wait for a decision; what comes before it in its partition is delivered, the rest stays.

        Nothing of it is acknowledged, so whoever reads the partition next, after whatever end, begins with it.
        """
        for partition, batches in by_partition.items():
            found = prepared.stopped.get(partition)
            if found is None:
                if self.stopped.pop(partition, None) is not None:
                    self._tell_stopped(partition.topic)
                continue
            offset, stop = found
            division = divide(batches, offset)
            if division.cut is not None:
                self.ledger.split(division.cut, division.parts)
            by_partition[partition] = list(division.before)
            self.backlog.stop(partition, division.after)
            asyncio.get_running_loop().call_later(STOPPED_S, self.backlog.resume, partition)
            if self.stopped.get(partition) != stop:
                new = stop not in self.stopped.values()
                self.stopped[partition] = stop
                if new:
                    log.error(
                        "table_stopped", sink=self._sink.name, topic=stop.topic, reason=stop.reason, way_on=stop.way_on
                    )
                self._tell_stopped(partition.topic)

    def _tell_stopped(self, topic: str) -> None:
        """Set the gauge, and log a topic that goes on."""
        held = sum(1 for partition in self.stopped if partition.topic == topic)
        self._metrics.stopped.labels(self._sink.name, topic).set(held)
        if not held:
            log.info("table_goes_on", sink=self._sink.name, topic=topic)

    async def _write(
        self, records: Sequence[Any], prepared: Prepared, by_partition: dict[Partition, list[Batch]]
    ) -> None:
        """Write all commands; each partition is released as soon as none of its commands is open."""
        owners = prepared.owners
        homes = [_partition(records[owner]) for owner in owners]
        open_commands = Counter(homes)
        dead: dict[Partition, list[Refused]] = {}
        for refused in prepared.refused:
            dead.setdefault(_partition(refused.record), []).append(refused)
        await self._finish([p for p in by_partition if not open_commands[p]], by_partition, prepared, dead, 1)
        rejected_records: set[int] = set()
        async for decided in write_until_decided(self._sink, prepared.commands, self.waits):
            open_commands.subtract(homes[index] for index in decided.indexes)
            for outcome, count in Counter(verdict.outcome for verdict in decided.verdicts).items():
                self._metrics.commands.labels(self._sink.name, outcome.value).inc(count)
            for index, verdict in decided.rejected():
                owner = owners[index]
                if owner not in rejected_records:
                    rejected_records.add(owner)
                    dead.setdefault(homes[index], []).append(Refused(records[owner], verdict.reason))
            if decided.attempt > 1:
                self._metrics.retried.labels(self._sink.name).inc()
            done = [p for p, count in open_commands.items() if not count and p in by_partition]
            await self._finish(done, by_partition, prepared, dead, decided.attempt)

    async def _finish(
        self,
        done: Sequence[Partition],
        by_partition: dict[Partition, list[Batch]],
        prepared: Prepared,
        dead: dict[Partition, list[Refused]],
        attempt: int,
    ) -> None:
        """Dead-letter what must be, then hand the partitions' batches on to Visibility and set the partitions free."""
        refused = [item for partition in done for item in dead.get(partition, ())]
        if refused:
            await self._bury(refused, attempt)
        for partition in done:
            batches = by_partition.pop(partition)
            for batch in batches:
                self._metrics.records.labels(self._sink.name, partition.topic).inc(len(batch.records))
            if batches:  # none where all of the claim must wait for a decision
                self._visibility.written(Written(batches, prepared.samples.get(partition, ())))
            self.backlog.release(partition, batches)
        if done:
            self.progress_at = time.monotonic()

    async def _bury(self, refused: Sequence[Refused], attempt: int) -> None:
        wait = self.waits.begin("Kafka (to write dead letters)")
        while True:
            try:
                await self._dead_letters.write(refused, attempt)
                break
            except KafkaError as error:
                await wait.failed(str(error) or type(error).__name__)
        wait.over()
        for item in refused:
            record = item.record
            self._metrics.dead_letters.labels(self._sink.name, record.topic).inc()
            self._recorder.dead_letter(record.topic, record.partition, record.offset)
            log.error(
                "dead_letter",
                sink=self._sink.name,
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=item.reason[:300],
            )


def _partition(record: Any) -> Partition:
    return Partition(record.topic, record.partition)


def _spell(partitions: Iterable[Partition]) -> dict[str, list[int]]:
    """Return the partitions by topic, for the log."""
    by_topic: dict[str, list[int]] = {}
    for topic, number in sorted(partitions):
        by_topic.setdefault(topic, []).append(number)
    return by_topic
