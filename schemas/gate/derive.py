"""The Avro schema that Debezium 3.7 will send for a table, derived from the catalogs. Pure.

Holds for the settings of our connector files: decimals precise, times adaptive, no unknown types. Proven against the real
connector, type by type and default by default (tests/integration/test_schemas_gate.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from schemas.gate.catalog import PgColumn
from schemas.rows import ENUM, row_record

Type = str | dict[str, Any]


class Underivable(Exception):
    """A type that this module does not know: Debezium leaves such a column out, or sends it in a form of its own."""


def _named(type_: str, name: str, **parameters: str) -> dict[str, Any]:
    extra = {"connect.parameters": parameters} if parameters else {}
    return {"type": type_, "connect.version": 1} | extra | {"connect.name": name}


_PLAIN: Mapping[str, Type] = {
    "bool": "boolean",
    "int2": {"type": "int", "connect.type": "int16"},
    "int4": "int",
    "int8": "long",
    "oid": "long",
    "float4": "float",
    "float8": "double",
    "bytea": "bytes",
    **dict.fromkeys(
        (
            *("text", "varchar", "bpchar", "name", "citext"),
            *("inet", "cidr", "macaddr", "macaddr8"),
            *("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"),
        ),
        "string",
    ),
    "uuid": _named("string", "io.debezium.data.Uuid"),
    "json": _named("string", "io.debezium.data.Json"),
    "jsonb": _named("string", "io.debezium.data.Json"),
    "xml": _named("string", "io.debezium.data.Xml"),
    "tsvector": _named("string", "io.debezium.data.Tsvector"),
    "date": _named("int", "io.debezium.time.Date"),
    "timetz": _named("string", "io.debezium.time.ZonedTime"),
    "timestamptz": _named("string", "io.debezium.time.ZonedTimestamp"),
    "interval": _named("long", "io.debezium.time.MicroDuration"),
}
_VARIABLE: dict[str, Any] = {
    "type": "record",
    "name": "VariableScaleDecimal",
    "namespace": "io.debezium.data",
    "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
    "connect.doc": "Variable scaled decimal",
    "connect.version": 1,
    "connect.name": "io.debezium.data.VariableScaleDecimal",
}
_EPOCH = date(1970, 1, 1)
_LITERAL = re.compile(r"'((?:[^']|'')*)'::.+", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_CALL = re.compile(r"[\w.\"]+\(.*\)|CURRENT_(DATE|TIMESTAMP|TIME)(\(\d\))?|LOCALTIME(STAMP)?(\(\d\))?", re.DOTALL)
_NO_DEFAULT = frozenset({"bytea", "inet", "cidr", "macaddr", "macaddr8", "xml", "tsvector", "oid"})
"""Types whose defaults Debezium does not send (tried: bytea, inet)."""


def fields(columns: Sequence[PgColumn], excluded: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Return the Avro fields of the columns; `excluded` ones and stored generated ones are never sent.

    Raises:
        Underivable: naming the column and its type.
    """
    seen: set[str] = set()
    return [
        _spelled_once(field(column), seen) for column in columns if column.name not in excluded and not column.generated
    ]


def field(column: PgColumn) -> dict[str, Any]:
    """Return one column's Avro field. Raises Underivable."""
    type_ = _type(column)
    value = default(column)
    if value is not None:
        type_ = _with_default({"type": type_} if isinstance(type_, str) else dict(type_), value)
    if column.required:
        made = {"name": column.name, "type": type_}
        return made if value is None else made | {"default": value}
    union = ["null", type_] if value is None else [type_, "null"]
    return {"name": column.name, "type": union, "default": value}


def envelope(like: Mapping[str, Any], row: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return a value schema with these fields in its row, for the rest like an envelope of the same topic."""
    old = row_record(like)
    new = dict(old) | {"fields": list(row)}
    return dict(like) | {
        "fields": [
            dict(each) | {"type": [new if branch is old else branch for branch in each["type"]]}
            if isinstance(each["type"], list)
            else each
            for each in like["fields"]
        ]
    }


def key(like: Mapping[str, Any], columns: Sequence[PgColumn], names: Sequence[str]) -> Mapping[str, Any]:
    """Return a key schema of these columns. Raises Underivable."""
    known = {column.name: column for column in columns}
    return dict(like) | {"fields": [field(known[name]) for name in names if name in known]}


def default(column: PgColumn) -> Any:
    """Return the default as Debezium sends it, None for none.

    A default that is a function is sent as the zero of its type, which is nobody's value: `schemas.rows` takes it for none.
    """
    text = column.default
    if text is None or column.of_domain or column.element or column.type in _NO_DEFAULT:
        return None
    if column.type == "numeric" and column.modifier == -1:
        return None
    literal = _LITERAL.fullmatch(text)
    value = literal[1].replace("''", "'") if literal else text
    if not literal and _CALL.fullmatch(text):
        return _zero(column)
    if not literal and column.type in {"text", "varchar", "bpchar"}:
        return value if re.fullmatch(r"\w+", value) else None
    try:
        return _value(column, value)
    except (ValueError, ArithmeticError):
        return None


def untrue(column: PgColumn) -> bool:
    """Tell whether a NULL in the column is sent as its default: Connect's converters take one for the other (KAFKA-8713)."""
    said = default(column) is not None or (column.type == "interval" and column.default is not None)
    return said and not column.required and not column.generated


def _type(column: PgColumn) -> Type:
    if column.element is not None:
        inner = PgColumn(
            0, column.name, column.element, column.modifier, enum=column.element_enum, labels=column.labels
        )
        items = _type(inner)
        return {"type": "array", "items": items if column.element_enum else ["null", items]}
    if column.enum:
        return _named("string", ENUM, allowed=",".join(column.labels))
    if column.type in _PLAIN:
        return _PLAIN[column.type]
    made = _sized(column)
    if made is None:
        msg = f"{column.name}: the type {column.shown or column.type} is not known here"
        raise Underivable(msg)
    return made


def _sized(column: PgColumn) -> Type | None:
    """Return the type of what has a precision or a length."""
    modifier = column.modifier
    short = 0 <= modifier <= 3
    made: Type | None = None
    match column.type:
        case "numeric" if modifier == -1:
            made = _VARIABLE
        case "numeric":
            precision, scale = (modifier - 4) >> 16, ((modifier - 4) & 0x7FF ^ 1024) - 1024
            made = _decimal(precision, scale, {"scale": str(scale), "connect.decimal.precision": str(precision)})
        case "money":
            made = _decimal(64, 2, {"scale": "2"})
        case "timestamp":
            made = _named("long", "io.debezium.time." + ("Timestamp" if short else "MicroTimestamp"))
        case "time":
            made = _named("int" if short else "long", "io.debezium.time." + ("Time" if short else "MicroTime"))
        case "bit" if modifier == 1:
            made = "boolean"
        case "bit" | "varbit":
            made = _named("bytes", "io.debezium.data.Bits", length=str(modifier if modifier > 0 else 2**31 - 1))
    return made


def _decimal(precision: int, scale: int, parameters: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "bytes",
        "scale": scale,
        "precision": precision,
        "connect.version": 1,
        "connect.parameters": parameters,
        "connect.name": "org.apache.kafka.connect.data.Decimal",
        "logicalType": "decimal",
    }


def _with_default(type_: dict[str, Any], value: Any) -> dict[str, Any]:
    """Put the default where the converter puts it: before the names of the type."""
    made: dict[str, Any] = {}
    for name, attribute in type_.items():
        if name in {"connect.name", "connect.type"}:
            made["connect.default"] = value
        made[name] = attribute
    return made if "connect.default" in made else made | {"connect.default": value}


def _zero(column: PgColumn) -> Any:
    """Return what Debezium sends as the default where it is a function."""
    return _bytes(Decimal(0), column) if column.type == "numeric" else _ZEROES.get(column.type)


def _value(column: PgColumn, text: str) -> Any:
    """Return a literal as Debezium sends it; None for a type whose literals are not read here (interval, bit, money)."""
    if column.type == "numeric":
        return _bytes(Decimal(text), column)
    read = _READ.get(column.type)
    value: Any = None if read is None else read(text)
    if column.type in {"timestamp", "time"} and 0 <= column.modifier <= 3:
        return value // 1000
    return text if column.enum else value


def _instant(text: str) -> str:
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _micros(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001  # it has none


def _micros_of_day(text: str) -> int:
    return (datetime.fromisoformat(f"1970-01-01T{text}") - datetime(1970, 1, 1)) // timedelta(microseconds=1)  # noqa: DTZ001


_ZEROES: Mapping[str, Any] = {
    "bool": False,
    "timestamptz": "1970-01-01T00:00:00.000000Z",
    "uuid": "00000000-0000-0000-0000-000000000000",
    **dict.fromkeys(("int2", "int4", "int8", "date", "time", "timestamp", "interval"), 0),
    **dict.fromkeys(("float4", "float8"), 0.0),
    **dict.fromkeys(("text", "varchar", "bpchar"), ""),
}
_READ: Mapping[str, Callable[[str], Any]] = {
    "bool": lambda text: text == "true",
    **dict.fromkeys(("int2", "int4", "int8"), int),
    **dict.fromkeys(("float4", "float8"), float),
    "date": lambda text: (date.fromisoformat(text) - _EPOCH).days,
    "timestamptz": _instant,
    "timestamp": _micros,
    "time": _micros_of_day,
    **dict.fromkeys(("text", "varchar", "bpchar", "name", "citext", "uuid", "json", "jsonb"), str),
}


def _bytes(value: Decimal, column: PgColumn) -> str:
    """Return a decimal as Avro writes it into JSON: its unscaled value's bytes, each as a character."""
    made = _sized(column)
    assert isinstance(made, dict)  # noqa: S101  # only a numeric with a precision comes here
    unscaled = int(value.scaleb(made["scale"]).to_integral_value())
    length = (unscaled + (unscaled < 0)).bit_length() // 8 + 1
    return unscaled.to_bytes(length, "big", signed=True).decode("latin-1")


def _spelled_once(made: dict[str, Any], seen: set[str]) -> dict[str, Any]:
    """Refer to a named type by its name from its second use on, as Avro demands."""

    def walk(type_: Any) -> Any:
        if isinstance(type_, list):
            return [walk(each) for each in type_]
        if isinstance(type_, dict) and type_.get("type") == "array":
            return type_ | {"items": walk(type_["items"])}
        if isinstance(type_, dict) and type_.get("type") == "record":
            full = f"{type_['namespace']}.{type_['name']}"
            if full in seen:
                return full
            seen.add(full)
        return type_

    return made | {"type": walk(made["type"])}
