"""What a Debezium schema says of its table's columns, and what becomes of them from one schema to the next. Pure.

Avro's own rules (schemas.compatibility) ask whether bytes can be read. They don't see that a column was dropped, that
money got other decimals or that a time got a zone: readers go on and hold something else. These steps see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

ZEROES = frozenset(
    {"", "1970-01-01T00:00:00.000000Z", "00000000-0000-0000-0000-000000000000", "\0", "CURRENT_USER", "SESSION_USER"}
)
"""What Debezium sends as the default of a column whose default is a function, now() or lower('A') (tried), besides 0 and
false. Nothing tells it from a default that is really that, so a zero says nothing of the rows that are already there."""
DECIMAL = "org.apache.kafka.connect.data.Decimal"
ENUM = "io.debezium.data.Enum"
TEXTS = {"", "io.debezium.data.Json", "io.debezium.data.Xml", ENUM}
"""Strings that any text column can take: what was JSON or one of a few words may become any text."""
INTEGERS = ("int16", "int", "long")
FLOATS = ("float", "double")


class Kind(StrEnum):
    """What became of a column."""

    ADDED = "added"
    DROPPED = "dropped"
    RENAMED = "renamed"
    """Schemas show a column dropped and another added; only the database knows that it is the same one."""
    WIDENED = "widened"
    """Its type takes every value that it took before, and more."""
    NARROWED = "narrowed"
    """Its type takes fewer values; those that come fit what readers have."""
    RETYPED = "retyped"
    """Its type is another one: what readers hold and what comes don't compare."""
    NULLABLE = "may be null"
    REQUIRED = "never null"
    DEFAULT = "other default"


STOPS = frozenset({Kind.DROPPED, Kind.RENAMED, Kind.RETYPED})
"""What a reader of the column can't go on with by itself."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column as its Avro field has it.

    Attributes:
        base: the Avro type, `int16` for a smallint, `decimal`.
        name: the Kafka Connect name of its type, empty for none.
        default: as Avro has it; None for none, and for a zero, which may only stand in for a function.
        size: precision and scale of a decimal.
        allowed: the words of an enum.
    """

    base: str
    name: str = ""
    nullable: bool = False
    default: Any = None
    size: tuple[int, int] | None = None
    allowed: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """The type in words: `long`, `decimal(10,2)`, `string (ZonedTimestamp)`."""
        if self.size is not None:
            return f"decimal({self.size[0]},{self.size[1]})"
        if self.allowed:
            return f"enum({', '.join(self.allowed)})"
        short = self.name.rpartition(".")[2]
        return f"{self.base} ({short})" if short else self.base

    def __str__(self) -> str:
        return self.type + (" null" if self.nullable else "")


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one column; `before` and `after` in words, empty where there is none. `to`: its new name."""

    column: str
    kind: Kind
    before: str
    after: str
    to: str = ""

    def __str__(self) -> str:
        if self.kind is Kind.RENAMED:
            return f"{self.column}: renamed to {self.to}"
        change = " → ".join(part for part in (self.before, self.after) if part)
        return f"{self.column}: {self.kind} ({change})"


def row_record(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record that holds the columns: the row of an envelope, or the schema itself (a record key)."""
    for field in schema.get("fields", ()):
        if field.get("name") == "before":
            for branch in field["type"] if isinstance(field["type"], list) else [field["type"]]:
                if isinstance(branch, Mapping) and branch.get("type") == "record":
                    return branch
    return schema


def columns(schema: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns of an envelope's row, or of a record key."""
    return {str(field["name"]): column(field) for field in row_record(schema).get("fields", ())}


def column(field: Mapping[str, Any]) -> Column:
    """Read one field."""
    type_ = field["type"]
    branches = type_ if isinstance(type_, list) else [type_]
    inner = next((branch for branch in branches if branch != "null"), "null")
    nullable = len(branches) > 1 and "null" in branches
    if not isinstance(inner, Mapping):
        return Column(str(inner), nullable=nullable, default=known(field.get("default")))
    name = str(inner.get("connect.name", ""))
    parameters = inner.get("connect.parameters", {})
    base = str(inner.get("connect.type") or inner["type"])
    size = None
    if inner.get("logicalType") == "decimal":
        base, size = "decimal", (int(inner["precision"]), int(inner.get("scale", 0)))
    elif base == "array":
        base = f"array of {column({'type': inner['items']})}"
    elif base == "record":
        base = name or str(inner["name"])
    default = field.get("default")
    return Column(
        base,
        "" if size or base == name else name,
        nullable,
        known(default),
        size,
        tuple(parameters["allowed"].split(",")) if name == ENUM and parameters.get("allowed") else (),
    )


def known(default: Any) -> Any:
    """Return the default if it is surely one, else None."""
    return default if default and default not in ZEROES else None


def steps(before: Mapping[str, Column], after: Mapping[str, Column]) -> list[Step]:
    """Return what became of every column that is not the same in both."""
    found = [Step(name, Kind.DROPPED, str(was), "") for name, was in before.items() if name not in after]
    found += [Step(name, Kind.ADDED, "", str(now)) for name, now in after.items() if name not in before]
    for name, was in before.items():
        if name in after:
            found += [Step(name, kind, str(was), str(after[name])) for kind in changes(was, after[name])]
    return found


def changes(was: Column, now: Column) -> list[Kind]:
    """Return what became of a column that is in both: its type first, then whether it may be NULL."""
    found = []
    if (type_ := _type_change(was, now)) is not None:
        found.append(type_)
    if was.nullable != now.nullable:
        found.append(Kind.NULLABLE if now.nullable else Kind.REQUIRED)
    if not found and was.default != now.default:
        found.append(Kind.DEFAULT)
    return found


def _type_change(was: Column, now: Column) -> Kind | None:
    if (was.base, was.name, was.size, was.allowed) == (now.base, now.name, now.size, now.allowed):
        return None
    for order in (INTEGERS, FLOATS):
        if was.base in order and now.base in order and was.name == now.name == "":
            return Kind.WIDENED if order.index(was.base) < order.index(now.base) else Kind.NARROWED
    if was.size and now.size:
        grows = now.size[1] >= was.size[1] and now.size[0] - now.size[1] >= was.size[0] - was.size[1]
        shrinks = now.size[1] <= was.size[1] and now.size[0] - now.size[1] <= was.size[0] - was.size[1]
        return Kind.WIDENED if grows else Kind.NARROWED if shrinks else Kind.RETYPED
    if was.base == now.base == "string" and {was.name, now.name} <= TEXTS:
        if was.allowed and now.allowed:
            return Kind.WIDENED if set(was.allowed) <= set(now.allowed) else Kind.NARROWED
        if "" in {was.name, now.name}:
            return Kind.WIDENED if now.name == "" else Kind.NARROWED
    return Kind.RETYPED
