"""What is fetched and waits to be written: bounded in bytes, taken by priority, one writer a partition. Pure but for one event.

Memory is bounded at the fetch: a partition that has enough waiting is not asked for more (`is_open`), so a partition
that is stuck stops itself and nobody else. The bound may be passed by what one fetch brings (worker.max_batch records).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from processors.engine.batch import Batch, Partition


@dataclass(slots=True)
class _Queue:
    """One partition's batches: `held` bytes are fetched and not released yet, whether queued or being written.

    `stopped`: none is handed out and no more is fetched, until `resume`.
    """

    batches: deque[Batch] = field(default_factory=deque)
    held: int = 0
    busy: bool = False
    stopped: bool = False


class Backlog:
    """Batches per partition, handed out in claims.

    Args:
        rank: topic → priority, 0 first.
        max_bytes: held by all partitions together. Partitions of rank 0 may hold a quarter more, so that a flood in the
            other lanes never closes the door to the lane that goes first.
    """

    def __init__(self, rank: Callable[[str], int], max_bytes: int) -> None:
        self._rank = rank
        self._max_bytes = max_bytes
        self._queues: dict[Partition, _Queue] = {}
        self._held = 0
        self._changed = asyncio.Event()

    def fetched(self, batch: Batch) -> None:
        """Count the batch's bytes from the moment it left the client, before it is submitted."""
        queue = self._queues.setdefault(batch.partition, _Queue())
        queue.held += batch.size
        self._held += batch.size

    def submit(self, batch: Batch) -> None:
        """Queue a fetched batch for writing; ignored if its partition was forgotten meanwhile."""
        if queue := self._queues.get(batch.partition):
            queue.batches.append(batch)
            self._changed.set()

    def is_open(self, partition: Partition) -> bool:
        """Return whether the partition may be asked for more: it, and all together, hold less than their share."""
        queue = self._queues.get(partition)
        if queue is not None and queue.stopped:
            return False
        held = queue.held if queue else 0
        first = self._rank(partition.topic) == 0
        limit = self._max_bytes * 5 // 4 if first else self._max_bytes
        active = sum(1 for other in self._queues.values() if other.held and not other.stopped)
        # what a stopped table holds, one fetch at most, must not close the door to the others
        stopped = sum(other.held for other in self._queues.values() if other.stopped)
        return held < limit // max(active + 1, 8) and self._held - stopped < limit

    @property
    def held(self) -> int:
        """Bytes fetched and not yet written."""
        return self._held

    def claim(self, max_records: int, ranks: Iterable[int] | None = None) -> list[Batch]:
        """Take batches of the best rank that has any (of `ranks`, if given), oldest first, about `max_records` of them.

        A partition whose batches are claimed is busy until `release`: the changes of one key are written in order.
        Returns an empty list if nothing is ready.
        """
        allowed = None if ranks is None else set(ranks)
        ready = [
            (rank, queue.batches[0].oldest_ms, partition)
            for partition, queue in self._queues.items()
            if queue.batches and not queue.busy and not queue.stopped
            for rank in (self._rank(partition.topic),)
            if allowed is None or rank in allowed
        ]
        if not ready:
            self._changed.clear()
            return []
        best = min(ready)[0]
        claimed: list[Batch] = []
        room = max_records
        for rank, _, partition in sorted(ready):
            if rank != best or room <= 0:
                break
            queue = self._queues[partition]
            queue.busy = True
            while queue.batches and (room > 0 or not claimed):
                batch = queue.batches.popleft()
                claimed.append(batch)
                room -= len(batch.records)
        return claimed

    def stop(self, partition: Partition, batches: Iterable[Batch]) -> None:
        """Put claimed batches back in front: they must wait, and what comes after them. `release` the claim all the same."""
        if queue := self._queues.get(partition):
            queue.batches.extendleft(reversed(list(batches)))
            queue.stopped = True

    def resume(self, partition: Partition) -> None:
        """Hand the partition's batches out again."""
        if queue := self._queues.get(partition):
            queue.stopped = False
            self._changed.set()

    async def changed(self) -> None:
        """Wait until a claim may find something that it did not find before."""
        await self._changed.wait()

    def release(self, partition: Partition, batches: Iterable[Batch]) -> None:
        """Give the partition free and its bytes back: its claimed batches are written, or given up."""
        if queue := self._queues.get(partition):
            size = sum(batch.size for batch in batches)
            queue.held -= size
            self._held -= size
            queue.busy = False
            self._changed.set()

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop everything of the partitions."""
        for partition in partitions:
            if queue := self._queues.pop(partition, None):
                self._held -= queue.held
        self._changed.set()
