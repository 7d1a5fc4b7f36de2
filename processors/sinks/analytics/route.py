"""What a change means for the analytics store: a record as it is, or one decoded row. Pure; imports no client library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from processors.change import Change, CheckedRecord, Kind, Op, Row, TableId


class AnalyticsRecord(NamedTuple):
    """A record that ClickHouse decodes itself."""

    checked: CheckedRecord


@dataclass(frozen=True, slots=True)
class AnalyticsRow:
    """One decoded row change, holding no column but those that its route let through.

    Attributes:
        row: the row after the change; for a delete the row as it last was.
        before: the row before an update, None for every other change.
        version: see `processors.change.pack_version`; 0 for a snapshot row.
        committed_at: aware.
    """

    table: TableId
    op: Op
    row: Row
    before: Row | None
    version: int
    committed_at: datetime
    transaction: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class RawAnalytics:
    """Route a table to the analytics store undecoded. Only for tables without a Restricted column on their topic."""

    sink: str = "analytics"

    def raw(self, record: CheckedRecord) -> Sequence[AnalyticsRecord]:
        """Return the record itself: ClickHouse reads it by its schema."""
        return (AnalyticsRecord(record),)


@dataclass(frozen=True, slots=True)
class DecodedAnalytics:
    """Route a table to the analytics store decoded, with `columns` and nothing else (the key must be among them)."""

    columns: tuple[str, ...]
    sink: str = "analytics"

    def commands(self, change: Change) -> Sequence[AnalyticsRow]:
        """Return one row command that holds `columns` alone; a column that the source did not send stays absent."""
        before = self._only(change.before) if change.before is not None and change.op is Op.UPDATE else None
        return (
            AnalyticsRow(
                table=change.table,
                op=change.op,
                row=self._only(change.row),
                before=before,
                version=change.version,
                committed_at=change.committed_at,
                transaction=change.transaction,
                kind=change.origin.kind,
            ),
        )

    def _only(self, row: Row) -> Row:
        return {name: row[name] for name in self.columns if name in row}
