"""The vocabulary: one committed row change, and the record that carried it. Pure; imports nothing of ours, does no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

Row = Mapping[str, Any]
"""Column name → value: None, bool, int, float, str, bytes, Decimal, date, time, aware datetime, timedelta, list.

A column that the source did not send (an unchanged TOAST value) is absent, which is not the same as None.
Timestamps without a zone are naive datetimes; infinite timestamps are the strings 'infinity' and '-infinity'."""


class Op(StrEnum):
    """What happened to the row; the values are Debezium's."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"
    """A snapshot's row: it exists, nothing is known of when it was written."""


class Kind(StrEnum):
    """How a change came to be on its topic."""

    STREAMED = "streamed"
    SNAPSHOT = "snapshot"
    """Initial or incremental snapshot: version 0, creates what is missing, never overwrites, counts for no rule."""
    REPAIR = "repair"
    """A re-read under the repair origin: an ordinary version, counts for no rule."""


@dataclass(frozen=True, slots=True, order=True)
class TableId:
    """A table of the source, as PostgreSQL names it."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


# What is made for every record is a named tuple: frozen dataclasses take several times as long to make.
class Origin(NamedTuple):
    """Where a change was read."""

    topic: str
    partition: int
    offset: int
    kind: Kind = Kind.STREAMED


class Change(NamedTuple):
    """One committed row change.

    Attributes:
        source: which database; LSNs of two databases never compare.
        key: the record key's columns, in declared order.
        before: the row before, None for a create or a snapshot row. Tables are REPLICA IDENTITY FULL: it is whole,
            but for unchanged TOAST values.
        after: the row after, None for a delete.
            Both hold only what the route that gets the change says it reads (processors.sinks.base.Route).
        version: orders the changes of one key, see `pack_version`; 0 for a snapshot row.
        committed_at: aware; the commit in PostgreSQL: the rule's clock starts here.
        transaction: PostgreSQL's 32-bit transaction id, 0 where unknown (snapshots).
    """

    source: str
    table: TableId
    op: Op
    key: Row
    before: Row | None
    after: Row | None
    version: int
    committed_at: datetime
    transaction: int
    origin: Origin

    @property
    def row(self) -> Row:
        """The row as it is now, or, for a delete, as it last was."""
        row = self.after if self.after is not None else self.before
        return self.key if row is None else row

    @property
    def deleted(self) -> bool:
        """Whether the row is gone after this change."""
        return self.op is Op.DELETE


class Record(Protocol):
    """One Kafka record as it was fetched; aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, set by the producer."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class CheckedRecord(NamedTuple):
    """A record whose framing, schema id and subject are known good, still undecoded.

    Attributes:
        value: the record's whole value: byte 0, the 4-byte schema id, the Avro body. Never empty.
        schema_id: the registry's id of the writer schema.
        schema: the writer schema, as the registry keeps it (parsed JSON).
        shared: the columns of its rows that every sink may hold: classified, and not Restricted.
    """

    record: Record
    table: TableId
    schema_id: int
    schema: Mapping[str, Any]
    shared: frozenset[str] = frozenset()

    @property
    def value(self) -> bytes:
        """The record's value, which a checked record always has."""
        return self.record.value or b""


class Stamp(NamedTuple):
    """What the rules and the cache need of a record, read without decoding its rows.

    Attributes:
        committed_us: microseconds since the epoch, PostgreSQL's clock.
        rows_end: where in the record's value the rows end; 0 where that is not known, and all of it must be decoded.
    """

    op: Op
    kind: Kind
    committed_us: int
    transaction: int
    lsn: int
    rows_end: int = 0

    @property
    def committed_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self.committed_us // 1000


NOT_SENT = "downriver:not-sent:5f0c6a4e9b7d4e21a3c8d1f6027be954"
"""What the connectors write for an unchanged TOAST value (their `unavailable.value.placeholder`): random, so that no
user's text can be it."""

EPOCH_BITS, LSN_BITS = 6, 56
MAX_VERSION = (1 << (EPOCH_BITS + LSN_BITS + 1)) - 1


def pack_version(epoch: int, lsn: int, *, deleted: bool) -> int:
    """Pack what orders the changes of one key into 63 bits: epoch (6), LSN (56), and 0 for a delete, 1 otherwise.

    The last bit makes the create half of a key change win over its delete half: the two share one LSN.

    Args:
        epoch: 1..63; raised when the source was restored or promoted.
        lsn: the row's own LSN (Debezium's `source.lsn`), 0 < lsn < 2**56.

    Raises:
        ValueError: epoch or lsn out of range.
    """
    if not 1 <= epoch < 1 << EPOCH_BITS:
        msg = f"epoch {epoch} is not within 1..{(1 << EPOCH_BITS) - 1}"
        raise ValueError(msg)
    if not 0 < lsn < 1 << LSN_BITS:
        msg = f"lsn {lsn} is not within 1..2**{LSN_BITS}-1"
        raise ValueError(msg)
    return epoch << (LSN_BITS + 1) | lsn << 1 | (not deleted)


def lsn_of(version: int) -> int:
    """Return the LSN packed into `version`; 0 for a snapshot row's version 0."""
    return version >> 1 & ((1 << LSN_BITS) - 1)
