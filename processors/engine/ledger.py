"""How far each partition may be committed: never past a batch that is fetched and not yet delivered.

Takes the place of Faust's own accounting, which commits past messages still in flight and takes the offsets inside a
batch for a gap that needs no acknowledgement (docs/decisions/0001). Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from processors.engine.batch import Batch, Partition


class Ledger:
    """The longest delivered prefix of every partition. Used from one thread, the event loop's."""

    def __init__(self) -> None:
        self._taken: dict[Partition, deque[Batch]] = {}
        self._delivered: set[Batch] = set()
        self._safe: dict[Partition, int] = {}

    def taken(self, batch: Batch) -> None:
        """Note that the batch was fetched. Batches of a partition are taken in offset order."""
        self._taken.setdefault(batch.partition, deque()).append(batch)

    def split(self, batch: Batch, parts: Sequence[Batch]) -> None:
        """Note that the batch is delivered in parts, in this order; ignored if it was forgotten meanwhile."""
        queue = self._taken.get(batch.partition)
        if queue is not None and batch in queue:
            place = queue.index(batch)
            del queue[place]
            for part in reversed(parts):
                queue.insert(place, part)

    def delivered(self, batch: Batch) -> None:
        """Note that every record of the batch is applied, stale or dead-lettered.

        A batch that was forgotten meanwhile (its partition was revoked) changes nothing: its offsets are another
        worker's now, or were fetched again.
        """
        queue = self._taken.get(batch.partition)
        if queue is None or batch not in queue:
            return
        self._delivered.add(batch)
        while queue and queue[0] in self._delivered:
            first = queue.popleft()
            self._delivered.discard(first)
            self._safe[first.partition] = first.next_offset

    def committable(self, partition: Partition) -> int | None:
        """Return the offset that may be committed: everything below it is delivered. None: nothing yet."""
        return self._safe.get(partition)

    def in_flight(self, partition: Partition) -> int:
        """Return how many batches of the partition are fetched and not yet part of the delivered prefix."""
        return len(self._taken.get(partition, ()))

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop all that is known of the partitions: they were revoked, or will be read again from the committed offset."""
        for partition in partitions:
            for batch in self._taken.pop(partition, ()):
                self._delivered.discard(batch)
            self._safe.pop(partition, None)
