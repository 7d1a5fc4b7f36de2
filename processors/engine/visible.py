"""From written to seen: waits until readers see what was written, records it, and only then lets it be committed.

The order is the point: shown by the sink, stamped, published to the compacted topic, then delivered in the ledger. So a
worker that is killed anywhere in between leaves a committed offset that is never ahead of the published figures: what it
did not publish is read again, and what it did publish is not counted twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiokafka.errors import KafkaError

from processors.sinks.base import Sink, SinkUnavailable

if TYPE_CHECKING:
    from processors.engine.batch import Batch, Partition
    from processors.engine.ledger import Ledger
    from processors.engine.prepare import Sample
    from processors.engine.waiting import Waits

log = structlog.get_logger(__name__)
PUBLISH_S = 0.25
"""Between two publications. Each writes the figures of every partition that moved; readers don't wait for them, only the
commit does, which comes once a second."""


class Recorder(Protocol):
    """What is needed of processors.propagation.recorder.Recorder."""

    def visible(self, topic: str, partition: int, position: int, samples: Sequence[Sample], at_s: float) -> None: ...
    async def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Written:
    """Batches of one partition, every record of them dealt with, and what the rules count among them."""

    batches: Sequence[Batch]
    samples: Sequence[Sample]

    @property
    def partition(self) -> Partition:
        """The partition the batches are of."""
        return self.batches[0].partition


class Visibility:
    """Follows what the writers wrote; one task, so that many writes share one refresh and one publication.

    Args:
        owned: whether a partition is still this worker's. What was written for one that is gone stays unsaid: its new
            owner reads it again and says it.
        clock: seconds since the epoch, the clock that PostgreSQL's commit times are compared with.
    """

    def __init__(
        self,
        sink: Sink[Any],
        recorder: Recorder,
        ledger: Ledger,
        waits: Waits,
        owned: Callable[[Partition], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._recorder = recorder
        self._ledger = ledger
        self._waits = waits
        self._owned = owned
        self._clock = clock
        self._written: list[Written] = []
        self._shown: list[Written] = []
        self._arrived = asyncio.Event()
        self._recorded = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurried = asyncio.Event()
        self._open = 0

    def written(self, written: Written) -> None:
        """Take over what was written; called in offset order for each partition."""
        self._written.append(written)
        self._open += 1
        self._idle.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Show and record, until cancelled. Raises WaitedTooLong."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            taken, self._written = self._written, []
            await self._show(taken)
            self._shown += taken
            self._recorded.set()

    async def publish(self) -> None:
        """Publish what was recorded and acknowledge it, at a pace of its own, until cancelled. Raises WaitedTooLong."""
        while True:
            await self._recorded.wait()
            self._recorded.clear()
            taken, self._shown = self._shown, []
            await self._publish(taken)
            self._open -= len(taken)
            if not self._open:
                self._idle.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PUBLISH_S):
                    await self._hurried.wait()

    async def _show(self, taken: Sequence[Written]) -> None:
        wait = self._waits.begin(f"{self._sink.name} (to show what was written)")
        while True:
            try:
                await self._sink.shown()
                break
            except SinkUnavailable as error:
                await wait.failed(str(error))
        wait.over()
        at_s = self._clock()
        for written in taken:
            if not self._owned(written.partition):
                continue
            topic, partition = written.partition
            self._recorder.visible(topic, partition, written.batches[-1].next_offset, written.samples, at_s)

    async def _publish(self, taken: Sequence[Written]) -> None:
        wait = self._waits.begin("Kafka (to publish the figures)")
        while True:
            try:
                await self._recorder.flush()
                break
            except KafkaError as error:
                await wait.failed(str(error) or type(error).__name__)
        wait.over()
        for written in taken:
            for batch in written.batches:
                self._ledger.delivered(batch)

    async def idle(self) -> None:
        """Wait until everything handed over so far is shown and in the ledger; it is published at once meanwhile."""
        self._hurried.set()
        try:
            await self._idle.wait()
        finally:
            self._hurried.clear()
