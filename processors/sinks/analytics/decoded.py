"""Decoded rows as columns of a history table. Pure: the same values that `raw` has ClickHouse compute, in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from processors.change import Op
from processors.sinks.analytics.avro import Field
from processors.sinks.analytics.route import AnalyticsRow

EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
"""What DateTime64(6) holds (ClickHouse docs); anything outside, infinity included, is stored as the nearer end."""


def columns_of(rows: Sequence[AnalyticsRow], columns: Mapping[str, str]) -> tuple[list[str], list[list[Any]]]:
    """Return names and values, column by column, of what `columns` (name → type) of the history table the rows fill.

    A column that no row holds is left out, and so gets the table's default.
    """
    held = {name for row in rows for name in row.row}
    stored = [name for name in columns if name in held]
    values = {name: [value(row.row.get(name), columns[name]) for row in rows] for name in stored}
    values |= {
        "_op": [str(row.op) for row in rows],
        "_kind": [str(row.kind) for row in rows],
        "_version": [row.version for row in rows],
        "_is_deleted": [int(row.op is Op.DELETE) for row in rows],
        "_committed_at": [_clamped(row.committed_at) for row in rows],
        "_transaction": [row.transaction for row in rows],
        "_before": [old_values(row, stored) for row in rows],
    }
    return list(values), list(values.values())


def fields(rows: Sequence[AnalyticsRow], columns: Mapping[str, str]) -> dict[str, Field]:
    """Return what the rows hold as the fields of a schema would say it: for a table that must grow to hold them.

    A column of the table (`columns`) that was not sent is as it is; a new one that holds NULL alone has no type yet, and
    waits for its first value.
    """
    found = {name: Field("") for name in columns}
    for name in {name for row in rows for name in row.row}:
        values = [row.row[name] for row in rows if name in row.row]
        known = [value for value in values if value is not None]
        type_, name_, size = _type(known)
        if name in columns and size is None and not type_.startswith("Int"):
            type_, name_ = "", ""  # text may be a uuid: the table's column knows better
        found[name] = Field(type_, name_, len(known) < len(values), size)
    return found


def _type(values: Sequence[Any]) -> tuple[str, str, tuple[int, int] | None]:
    """Return ClickHouse's type of the values, Kafka Connect's name of it, and the size of decimals."""
    first = values[0] if values else None
    made: tuple[str, str, tuple[int, int] | None] = ("", "", None)
    match first:
        case bool():
            made = ("Bool", "", None)
        case int():
            small = all(-(2**31) <= value < 2**31 for value in values)
            made = ("Int32" if small else "Int64", "", None)
        case float():
            made = ("Float64", "", None)
        case Decimal():
            scale = max(-int(value.as_tuple().exponent) for value in values if value.is_finite())
            whole = max(len(value.as_tuple().digits) + int(value.as_tuple().exponent) for value in values)
            size = max(whole, 1) + scale, scale
            made = (f"Decimal({size[0]}, {size[1]})", "", size)
        case datetime():
            made = ("String", "io.debezium.time.ZonedTimestamp", None)
        case date():
            made = ("Int32", "io.debezium.time.Date", None)
        case str():
            made = ("String", "", None)
        case list():
            made = ("Array(Nullable(String))", "", None)
    return made


def old_values(row: AnalyticsRow, columns: Sequence[str]) -> dict[str, str | None]:
    """Return the old values, as text, of those `columns` that an update changed; empty for all that is no update."""
    if row.op is not Op.UPDATE or row.before is None:
        return {}
    return {
        name: text(row.before[name])
        for name in columns
        if name in row.before and name in row.row and row.before[name] != row.row[name]
    }


def text(held: Any) -> str | None:
    """Return a value as the source's envelope writes it: times in ISO 8601 with Z, decimals with their scale."""
    if held is None or isinstance(held, str):
        return held
    if isinstance(held, datetime) and held.tzinfo is not None:
        return held.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(held, bool):
        return str(held).lower()
    if isinstance(held, datetime | date):
        return held.isoformat()
    return f"{held:f}" if isinstance(held, Decimal) else str(held)


def value(held: Any, type_: str) -> Any:
    """Return a value as the client wants it for a column of that type."""
    if "DateTime64" in type_:
        if isinstance(
            held, str
        ):  # infinity, or beyond the years 1 to 9999: a plus says later, a minus or year 0 before
            return LATEST if held == "infinity" or held.startswith("+") else EARLIEST
        if isinstance(held, datetime):
            return _clamped(held)
    if type_.startswith("Array(") and held is None:
        return []
    return held


def _clamped(moment: datetime) -> datetime:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return min(max(aware, EARLIEST), LATEST)
