"""What ClickHouse must be told to read an Avro schema: its structure, complete and in ClickHouse's types. Pure.

A structure that leaves out a field of a nested record is refused by ClickHouse, and dotted names below a nullable record
silently read as NULL (tried, docs/decisions), so the tuples here always hold every field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_PRIMITIVES = {
    "boolean": "Bool",
    "int": "Int32",
    "long": "Int64",
    "float": "Float32",
    "double": "Float64",
    "bytes": "String",
    "string": "String",
    "enum": "String",
}


Names = dict[str, Mapping[str, Any]]
"""The named types seen so far: Avro spells a type out once and then refers to it."""


class UnreadableSchema(Exception):
    """The schema holds something that has no ClickHouse type, or is not an envelope; the message names the field."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record.

    Attributes:
        type: as ClickHouse reads it, such as `Nullable(Decimal(10, 2))`.
        name: the Kafka Connect name of its type, such as `io.debezium.time.ZonedTimestamp`, empty for none.
        nullable: whether the value read can be NULL (an array never is: ClickHouse reads a missing one as empty).
        decimal: precision and scale, None for what is not a decimal.
        small: whether it is a smallint, which Avro has no type for.
    """

    type: str
    name: str = ""
    nullable: bool = False
    decimal: tuple[int, int] | None = None
    small: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """A Debezium envelope: the row's columns, the same before and after, and the fields of its source block."""

    columns: Mapping[str, Field]
    source: Mapping[str, Field]


def envelope(schema: Mapping[str, Any]) -> Envelope:
    """Read a value schema as the registry keeps it.

    Raises:
        UnreadableSchema: no envelope, or a type that ClickHouse can't read.
    """
    names: Names = {}
    parts: dict[str, Mapping[str, Field]] = {}
    for field in schema.get("fields", ()):
        record = _record(field["type"], names, str(schema.get("namespace", "")))
        if record is not None and field["name"] in ("before", "after", "source"):
            parts[field["name"]] = _fields(record, names)
    missing = [name for name in ("before", "after", "source") if name not in parts]
    if missing or parts["before"] != parts["after"]:
        what = f"lacks {', '.join(missing)}" if missing else "has different rows before and after"
        msg = f"schema {schema.get('name', '?')} is no Debezium envelope: it {what}"
        raise UnreadableSchema(msg)
    return Envelope(parts["after"], parts["source"])


def quote(name: str) -> str:
    """Return a name as a ClickHouse identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _record(type_: Any, names: Names, namespace: str) -> Mapping[str, Any] | None:
    """Return the record in a type or in its union, and remember it; None if there is none."""
    for branch in type_ if isinstance(type_, list) else [type_]:
        if isinstance(branch, Mapping) and branch.get("type") == "record":
            _remember(branch, names, namespace)
            return branch
        if isinstance(branch, str) and branch in names:
            return names[branch]
    return None


def _remember(type_: Mapping[str, Any], names: Names, namespace: str) -> None:
    """Know a type by its name, and by its full name."""
    space = type_.get("namespace", namespace)
    names[str(type_["name"])] = names[f"{space}.{type_['name']}"] = type_


def _fields(record: Mapping[str, Any], names: Names) -> dict[str, Field]:
    return {str(field["name"]): _field(str(field["name"]), field["type"], names) for field in record["fields"]}


def _field(path: str, type_: Any, names: Names) -> Field:
    if isinstance(type_, list):
        branches = [branch for branch in type_ if branch != "null"]
        if len(branches) != 1:
            msg = f"field {path}: a union of {len(branches)} types has no column type"
            raise UnreadableSchema(msg)
        inner = _field(path, branches[0], names)
        if len(branches) == len(type_) or inner.type.startswith(("Array(", "Map(")):
            return inner
        return replace(inner, type=f"Nullable({inner.type})", nullable=True)
    if isinstance(type_, str):
        if type_ in names:
            return _field(path, names[type_], names)
        if type_ not in _PRIMITIVES:
            msg = f"field {path}: Avro type {type_} is not known"
            raise UnreadableSchema(msg)
        return Field(_PRIMITIVES[type_])
    return _complex(path, type_, names)


def _complex(path: str, type_: Mapping[str, Any], names: Names) -> Field:
    kind, name = type_.get("type"), str(type_.get("connect.name", ""))
    if "name" in type_:
        _remember(type_, names, "")
    if type_.get("logicalType") == "decimal":
        precision, scale = int(type_["precision"]), int(type_.get("scale", 0))
        return Field(f"Decimal({precision}, {scale})", name, decimal=(precision, scale))
    if kind == "array":
        return Field(f"Array({_field(path, type_['items'], names).type})", name)
    if kind == "map":
        return Field(f"Map(String, {_field(path, type_['values'], names).type})", name)
    if kind == "fixed":
        return Field(f"FixedString({int(type_['size'])})", name)
    if kind == "record":
        return Field(tuple_of(_fields(type_, names)), name)
    inner = _field(path, kind, names)
    return replace(inner, name=name or inner.name, small=type_.get("connect.type") == "int16")


def tuple_of(fields: Mapping[str, Field]) -> str:
    """Return the type of a record with all of these fields."""
    return "Tuple(" + _listed(fields) + ")"


def structure(read: Envelope, source: Sequence[str]) -> str:
    """Return what `input()` must be told: op, both rows complete, and these fields of the source block, dotted.

    Dots are safe for the source block alone: it is never null.
    """
    row = tuple_of(read.columns)
    dotted = {f"source.{name}": read.source[name] for name in source}
    return f"before Nullable({row}), after Nullable({row}), op String, {_listed(dotted)}"


def _listed(fields: Mapping[str, Field]) -> str:
    return ", ".join(f"{quote(name)} {field.type}" for name, field in fields.items())
