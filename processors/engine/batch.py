"""A batch: consecutive records of one partition, as one fetch gave them. Pure; knows neither faust nor Kafka's client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from processors.change import Record

RECORD_BYTES = 350
"""What aiokafka's record takes besides its key and value, measured."""


class Partition(NamedTuple):
    """A topic's partition; equal and hashed alike to faust's TP and aiokafka's TopicPartition."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive records of one partition. Compared by identity: the same offsets may be fetched twice.

    Attributes:
        records: may be empty: then the batch only says that nothing is to be read below `next_offset`.
        next_offset: the offset that was reached: what may be committed once all records are delivered. Offsets among
            and after the records that hold none (compacted away, aborted, transaction markers) need no acknowledgement.
        size: bytes that the records take in memory, about.
    """

    partition: Partition
    records: Sequence[Record]
    next_offset: int
    size: int = field(default=0)

    @classmethod
    def of(cls, partition: Partition, records: Sequence[Record], next_offset: int | None = None) -> Batch:
        """Make a batch of what one fetch gave for one partition; `records` are in offset order.

        Args:
            next_offset: default: the offset after the last record, of which there must be one then.
        """
        size = sum([len(record.key or b"") + len(record.value or b"") + RECORD_BYTES for record in records])
        return cls(partition, records, records[-1].offset + 1 if next_offset is None else next_offset, size)

    @property
    def oldest_ms(self) -> int:
        """When the first record was produced, in milliseconds since the epoch; 0 without records."""
        return self.records[0].timestamp if self.records else 0


@dataclass(frozen=True, slots=True)
class Division:
    """Consecutive batches of one partition, divided at an offset.

    Attributes:
        before, after: the batches below it, and from it on.
        cut: the batch that the offset lies in, None if it lies between two; `parts` it was cut into, in order.
    """

    before: Sequence[Batch]
    after: Sequence[Batch]
    cut: Batch | None = None
    parts: Sequence[Batch] = ()


def divide(batches: Sequence[Batch], offset: int) -> Division:
    """Divide at the offset of one of their records."""
    place = next(index for index, batch in enumerate(batches) if batch.records and batch.records[-1].offset >= offset)
    cut, within = batches[place], 0
    while cut.records[within].offset < offset:
        within += 1
    if not within:
        return Division(batches[:place], batches[place:])
    first = Batch.of(cut.partition, cut.records[:within], offset)
    rest = Batch(cut.partition, cut.records[within:], cut.next_offset, cut.size - first.size)
    return Division([*batches[:place], first], [rest, *batches[place + 1 :]], cut, (first, rest))
