"""How a table of the store follows the source: columns added and widened, never narrowed, never dropped. Pure.

A migration of the source reaches the store by the schema of its first row. What can't be followed without losing or
inventing a value is not followed here: workers stop before it (processors.engine.contract).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from processors.sinks.analytics.avro import Field, quote
from processors.sinks.analytics.raw import BOOKKEEPING

_BITS = re.compile(r"U?Int(\d+)")
_DECIMAL = re.compile(r"Decimal\((\d+), ?(\d+)\)")
_TIMES = ("Timestamp", "MicroTimestamp", "NanoTimestamp", "ZonedTimestamp")


ABSENT = Field("", nullable=True)
"""Stands for a column that a schema lacks."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The columns (name → type) of what a table is made of. `key`: those that the current state is sorted by."""

    history: Mapping[str, str]
    current: Mapping[str, str]
    view: Mapping[str, str]
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """What a table needs: columns to add and columns to modify, name → type."""

    added: Mapping[str, str]
    modified: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.added or self.modified)


def growth(columns: Mapping[str, str], fields: Mapping[str, Field], key: Sequence[str] = ()) -> Growth:
    """Return what a table with `columns` (name → type) needs to hold every value of `fields`, and NULL for what they lack.

    Args:
        columns: without the table's own bookkeeping.
        fields: only those that the store may hold.
        key: columns of the sorting key, which can't be changed.
    """
    new = {name: new_type(field) for name, field in fields.items() if name not in columns}
    modified = {
        name: type_
        for name, field in fields.items()
        if name in columns and name not in key and (type_ := wider(columns[name], field)) != columns[name]
    }
    # a column that the source has no more: rows without it must not read as zero
    modified |= {
        name: type_
        for name, held in columns.items()
        if name not in fields and name not in key and (type_ := wider(held, ABSENT)) != held
    }
    return Growth({name: type_ for name, type_ in new.items() if type_ is not None}, modified)


def new_type(field: Field) -> str | None:
    """Return the type of a new column, None for what ClickHouse has no column type for (a numeric without precision).

    Always nullable: the source sends nothing for rows that were there before, and they read NULL until they are read
    again. The default in the schema is no help: for now() it says 1970, for lower('A') nothing (tried).
    """
    inner = _inner(field)
    if not inner or inner.startswith(("Array(", "Map(")):
        return inner or None
    return f"Nullable({inner})"


def wider(column: str, field: Field) -> str:
    """Return the type that holds what the column holds and what the field may hold; the column's own if that does."""
    if column.startswith(("Array(", "Map(")):
        return column
    low = column.startswith("LowCardinality(")
    inner = column.removeprefix("LowCardinality(").removesuffix(")") if low else column
    nullable = inner.startswith("Nullable(")
    inner = inner.removeprefix("Nullable(").removesuffix(")") if nullable else inner
    inner = _wider(inner, field)
    if nullable or field.nullable:
        inner = f"Nullable({inner})"
    return f"LowCardinality({inner})" if low and "String" in inner else inner


def _inner(field: Field) -> str | None:
    """Return the column type of a field that is there, without Nullable."""
    short = field.name.rpartition(".")[2]
    if field.name.startswith(("io.debezium.time.", "org.apache.kafka.connect.data.")) and short in _TIMES:
        return "DateTime64(6, 'UTC')"
    if field.name.endswith(".Date"):
        return "Date32"
    if field.name == "io.debezium.data.Uuid":
        return "UUID"
    if field.name == "io.debezium.data.Enum":
        return "String"
    read = field.type.removeprefix("Nullable(").removesuffix(")") if field.type.startswith("Nullable(") else field.type
    if read.startswith("Tuple(") or (field.decimal is not None and field.decimal[0] > 76):
        return None
    return read


def _wider(inner: str, field: Field) -> str:
    wanted = _inner(field) if field is not ABSENT else None
    if not wanted or inner in {wanted, "String"}:
        return inner
    have, want = _BITS.fullmatch(inner), _BITS.fullmatch(wanted)
    if have and want:
        # a smallint, which Avro reads as 32 bits, fits into whatever its column's author chose for it
        return wanted if int(want[1]) > int(have[1]) and not field.small else inner
    have, want = _DECIMAL.fullmatch(inner), _DECIMAL.fullmatch(wanted)
    if have and want:
        scale = max(int(have[2]), int(want[2]))
        whole = max(int(have[1]) - int(have[2]), int(want[1]) - int(want[2]))
        return f"Decimal({whole + scale}, {scale})" if whole + scale <= 76 else inner
    if (inner, wanted) == ("Float32", "Float64"):
        return wanted
    return "String" if wanted == "String" else inner


def statements(table: str, parts: Parts, fields: Mapping[str, Field]) -> list[str]:
    """Return the statements that make the table's parts hold these fields, each of which can be repeated; none if they do.

    Readers come last: a worker that is killed in between leaves a view that lacks the column, so the next one goes on.
    """
    history = {name: type_ for name, type_ in parts.history.items() if name not in BOOKKEEPING}
    current = {name: type_ for name, type_ in parts.current.items() if name not in BOOKKEEPING}
    missing = growth(history, fields, parts.key)
    behind = growth(current, fields, parts.key)
    held = current | dict(behind.added) | dict(behind.modified)
    made: list[str] = []
    for part, grows in ((f"{table}_current", behind), (f"{table}_history", missing)):
        made += [
            f"ALTER TABLE {quote(part)} ADD COLUMN IF NOT EXISTS {quote(name)} {type_}"
            for name, type_ in grows.added.items()
        ]
        made += [
            f"ALTER TABLE {quote(part)} MODIFY COLUMN {quote(name)} {type_}" for name, type_ in grows.modified.items()
        ]
    if made or any(parts.view.get(name) != type_ for name, type_ in held.items()):
        # both keep the types that they were made with: a NULL would not get through (tried)
        listed = ", ".join(quote(name) for name in held)
        kept = "`_version`, `_is_deleted`, `_committed_at`"
        selected = f"SELECT {listed}, {kept} FROM {quote(table + '_history')}"  # noqa: S608  # quoted names of columns
        made.append(f"ALTER TABLE {quote(table + '_to_current')} MODIFY QUERY {selected}")
        selected = f"SELECT {listed} FROM {quote(table + '_current')} FINAL WHERE _is_deleted = 0"  # noqa: S608
        made.append(f"CREATE OR REPLACE VIEW {quote(table)} AS {selected}")
    return made
