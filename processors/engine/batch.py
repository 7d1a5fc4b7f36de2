"""A batch: consecutive records of one partition, as one fetch gave them. Pure; knows neither faust nor Kafka's client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from processors.change import Record


class Partition(NamedTuple):
    """A topic's partition; equal and hashed alike to faust's TP and aiokafka's TopicPartition."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Consecutive records of one partition. Compared by identity: the same offsets may be fetched twice.

    Attributes:
        next_offset: the offset after the last record: what may be committed once all of them are delivered. Offsets
            between the records that hold none (compacted away, transaction markers) need no acknowledgement.
        size: bytes of keys and values.
    """

    partition: Partition
    records: Sequence[Record]
    next_offset: int
    size: int = field(default=0)

    @classmethod
    def of(cls, partition: Partition, records: Sequence[Record]) -> Batch:
        """Make a batch of what one fetch gave for one partition; `records` are not empty and in offset order."""
        size = sum(len(record.key or b"") + len(record.value or b"") for record in records)
        return cls(partition, records, records[-1].offset + 1, size)
