"""How to read the records of one topic under one schema: checked once, used for every record.

What is read comes from strangers: a schema that could make a small record a huge value, or recurse, is refused here;
a record that does not fit is Undecodable, whatever the Avro library raises.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastavro import parse_schema, schemaless_reader

from processors.decode.errors import OtherKey, Undecodable
from processors.decode.glance import Glance
from processors.decode.tail import Tail
from processors.decode.values import Convert, converter
from processors.tables.base import Class, Table

HEADER = 5
"""Byte 0 and the schema's id, 4 bytes, big-endian: the Confluent wire format."""
MINIMUM = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
"""Bytes of each primitive type's shortest value."""


@dataclass(slots=True)
class RowPlan:
    """What to do to a decoded row: columns to convert, and columns that must not be there and are dropped.

    Attributes:
        gone: columns that the table file knows and the schema lacks: NULL, which is not the same as "not sent".
    """

    convert: tuple[tuple[str, Convert], ...]
    dropped: tuple[str, ...]
    holds_int_array: bool
    gone: tuple[str, ...] = ()

    def finish(self, row: dict[str, Any], unavailable: Sequence[Any] | None) -> dict[str, Any]:
        """Return `row` (changed in place) as a Row. `unavailable`: the placeholders to look for, None to skip that."""
        if unavailable is not None:
            for name in [name for name, value in row.items() if value in unavailable]:
                del row[name]
        for name in self.dropped:
            row.pop(name, None)
        for name in self.gone:
            row[name] = None
        name = ""
        try:
            for name, convert in self.convert:
                value = row.get(name)
                if value is not None:
                    row[name] = convert(value)
        except Exception as error:
            msg = f"column {name} holds what its type does not allow ({_said(error)})"
            raise Undecodable(msg) from error
        return row


@dataclass(slots=True)
class ValuePlan:
    """Reads envelopes.

    Attributes:
        shared: the columns that every sink may hold.
        alone: the schema of a row, None if the rows are not where an envelope usually has them.
        tail: the way to the stamp without decoding the rows, learned from a record; None: not learned, or impossible.
        learned_from: the database and the connector's version of that record.
        glances: columns → what reads them alone, None if that can't be.
    """

    schema_id: int
    schema: Mapping[str, Any]
    parsed: Mapping[str, Any]
    row: RowPlan
    shared: frozenset[str] = frozenset()
    alone: Mapping[str, Any] | None = None
    tail: Tail | None = None
    learned_from: tuple[Any, Any] | None = None
    glances: dict[frozenset[str], Glance | None] = field(default_factory=dict)

    def glance(self, columns: frozenset[str]) -> Glance | None:
        """Return what reads these columns alone, None if that can't be."""
        if columns not in self.glances:
            named = {each["name"]: each for each in _named_types(self.parsed)}
            self.glances[columns] = None if self.alone is None else Glance.of(self.alone, named, columns)
        return self.glances[columns]


@dataclass(slots=True)
class KeyPlan:
    """Reads record keys; `glance` reads the usual ones faster."""

    parsed: Mapping[str, Any]
    row: RowPlan
    glance: Glance | None


def value_plan(topic: str, table: Table, schema_id: int, schema: Mapping[str, Any]) -> ValuePlan:
    """Return the plan for envelopes of that topic.

    Raises:
        Undecodable: the schema is not that of this topic's envelopes.
        OtherKey: its rows lack the key's columns.
    """
    parsed = _parse(schema, schema_id, f"{topic}.Envelope")
    fields = {each["name"]: each["type"] for each in parsed["fields"]}
    rows = [branch for branch in fields.get("before", ()) if isinstance(branch, Mapping)]
    if len(rows) != 1 or not {"after", "source", "op"} <= set(fields):
        msg = f"schema {schema_id} is not a Debezium envelope: it lacks before, after, source or op"
        raise Undecodable(msg)
    columns = _names(rows[0])
    if missing := [name for name in table.key if name not in columns]:
        msg = f"schema {schema_id} has no {', '.join(missing)} in its rows, the key of {table.id}"
        raise OtherKey(msg)
    usual = [each["name"] for each in parsed["fields"][:2]] == ["before", "after"]
    usual = usual and all(len(each["type"]) == 2 and each["type"][0] == "null" for each in parsed["fields"][:2])
    row = _row_plan(rows[0], table)
    row.gone = tuple(name for name in table.columns if name not in table.excluded and name not in columns)
    shared = frozenset(name for name in columns if table.class_of(name) is not Class.RESTRICTED)
    return ValuePlan(schema_id, schema, parsed, row, shared, parse_schema(rows[0]) if usual else None)


def key_plan(topic: str, table: Table, schema_id: int, schema: Mapping[str, Any]) -> KeyPlan:
    """Return the plan for record keys of that topic.

    Raises:
        Undecodable: the schema is not that of this topic's keys.
        OtherKey: it holds other columns than the table's key.
    """
    parsed = _parse(schema, schema_id, f"{topic}.Key")
    names = [each["name"] for each in parsed["fields"]]
    if set(names) != set(table.key):
        msg = f"the record key holds {', '.join(names)}; the key of {table.id} is {', '.join(table.key)}"
        raise OtherKey(msg)
    in_order = tuple(names) == table.key
    return KeyPlan(parsed, _row_plan(parsed, table), Glance.of(parsed, {}, names) if in_order else None)


def read(data: bytes, parsed: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Decode one framed record, which must end where its data end.

    Raises:
        Undecodable: it does not.
    """
    body = io.BytesIO(data)
    body.seek(HEADER)
    try:
        decoded: dict[str, Any] = schemaless_reader(body, parsed, None)
    except (
        Exception
    ) as error:  # EOFError, IndexError, UnicodeDecodeError, OverflowError, MemoryError: fastavro has no own
        msg = f"the {what} is not Avro of its schema ({_said(error)})"
        raise Undecodable(msg) from error
    if body.tell() != len(data):
        msg = f"the {what} has {len(data) - body.tell()} bytes behind its end: it is not Avro of its schema"
        raise Undecodable(msg)
    return decoded


def read_row(data: bytes, start: int, parsed: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Decode one row that starts there; return it and where it ends. Raises what it likes: decode the whole record then."""
    body = io.BytesIO(data)
    body.seek(start)
    decoded: dict[str, Any] = schemaless_reader(body, parsed, None)
    return decoded, body.tell()


def _parse(schema: Mapping[str, Any], schema_id: int, full_name: str) -> Mapping[str, Any]:
    """Parse a schema whose record must be called `full_name`; logical types are left out, `values` knows them better."""
    try:
        parsed: Mapping[str, Any] = parse_schema(_without_logical_types(schema))
        name = parsed["name"] if parsed["type"] == "record" else parsed["type"]
        if name == full_name:
            named = {each["name"]: each for each in _named_types(parsed)}
            _minimum(parsed, named, ())
    except Undecodable as error:
        msg = f"schema {schema_id} is refused: {error}"
        raise Undecodable(msg) from None
    except Exception as error:
        msg = f"schema {schema_id} is not an Avro record ({_said(error)})"
        raise Undecodable(msg) from error
    if name != full_name:
        msg = f"schema {schema_id} is that of {name}, and this topic holds {full_name}"
        raise Undecodable(msg)
    return parsed


def _row_plan(record: Mapping[str, Any], table: Table) -> RowPlan:
    fields = {each["name"]: each["type"] for each in record["fields"]}
    converters = {name: converter(type_) for name, type_ in fields.items()}
    known = {
        name for name in fields if table.class_of(name) is not Class.RESTRICTED or name in table.captured_restricted
    }
    return RowPlan(
        convert=tuple((name, convert) for name, convert in converters.items() if convert is not None and name in known),
        # governance: a column that nobody classified is Restricted, so it goes no further than this
        dropped=tuple(name for name in fields if name not in known),
        holds_int_array=any(_is_int_array(type_) for type_ in fields.values()),
    )


def _names(record: Mapping[str, Any]) -> list[str]:
    return [each["name"] for each in record["fields"]]


def _is_int_array(type_: Any) -> bool:
    branches = type_ if isinstance(type_, list) else [type_]
    arrays = [branch["items"] for branch in branches if isinstance(branch, Mapping) and branch["type"] == "array"]
    return any("string" not in (items if isinstance(items, list) else [items]) for items in arrays)


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, Mapping):
        return {name: _without_logical_types(value) for name, value in schema.items() if name != "logicalType"}
    if isinstance(schema, list):
        return [_without_logical_types(each) for each in schema]
    return schema


def _named_types(type_: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every record, enum and fixed that is defined within `type_`."""
    if isinstance(type_, list):
        for branch in type_:
            yield from _named_types(branch)
    elif isinstance(type_, Mapping):
        if "name" in type_:
            yield type_
        for part in (type_.get("items"), type_.get("values"), *(each["type"] for each in type_.get("fields", ()))):
            yield from _named_types(part)
        if not isinstance(type_["type"], str):
            yield from _named_types(type_["type"])


def _minimum(type_: Any, named: Mapping[str, Mapping[str, Any]], within: tuple[str, ...]) -> int:
    """Return the fewest bytes a value can take; refuse what could make few bytes a large or a deep value."""
    if isinstance(type_, list):
        return 1 + min(_minimum(branch, named, within) for branch in type_)
    if isinstance(type_, str):
        return MINIMUM[type_] if type_ in MINIMUM else _minimum(named[type_], named, within)
    return _minimum_of_structure(type_, named, within)


def _minimum_of_structure(
    type_: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]], within: tuple[str, ...]
) -> int:
    if "name" in type_:
        if type_["name"] in within:
            msg = f"record {type_['name']} holds itself"
            raise Undecodable(msg)
        within = (*within, type_["name"])
    if type_["type"] == "record":
        return sum(_minimum(each["type"], named, within) for each in type_["fields"])
    if type_["type"] == "array" and _minimum(type_["items"], named, within) == 0:
        raise Undecodable("it has an array whose items take no bytes")
    if type_["type"] == "map":
        _minimum(type_["values"], named, within)
    if type_["type"] in {"array", "map", "enum"}:
        return 1
    return int(type_["size"]) if type_["type"] == "fixed" else _minimum(type_["type"], named, within)


def _said(error: Exception) -> str:
    """Return what the error is, without its text, which may repeat the data."""
    return str(error) if type(error) is ValueError else type(error).__name__
