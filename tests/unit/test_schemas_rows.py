"""What becomes of a column from one schema to the next: the schemas are those that Debezium registered (tried)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.rows import STOPS, Column, Kind, changes, columns, steps

UUID = {"type": "string", "connect.version": 1, "connect.name": "io.debezium.data.Uuid"}
JSON = {"type": "string", "connect.version": 1, "connect.name": "io.debezium.data.Json"}
ZONED = {"type": "string", "connect.version": 1, "connect.name": "io.debezium.time.ZonedTimestamp"}
MICROS = {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}
INT16 = {"type": "int", "connect.default": 5, "connect.type": "int16"}


def enum(*words: str) -> dict[str, Any]:
    return {
        "type": "string",
        "connect.parameters": {"allowed": ",".join(words)},
        "connect.name": "io.debezium.data.Enum",
    }


def decimal(precision: int, scale: int) -> dict[str, Any]:
    return {
        "type": "bytes",
        "scale": scale,
        "precision": precision,
        "connect.name": "org.apache.kafka.connect.data.Decimal",
        "logicalType": "decimal",
    }


def envelope(**fields: Any) -> Mapping[str, Any]:
    row = {
        "type": "record",
        "name": "Value",
        "fields": [
            field if isinstance(field, dict) and "name" in field else {"name": name, "type": field}
            for name, field in fields.items()
        ],
    }
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": "shop_catalog.public.products",
        "fields": [
            {"name": "before", "type": ["null", row], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
        ],
    }


@pytest.mark.parametrize(
    ("was", "now", "kinds"),
    [
        ("int", "long", [Kind.WIDENED]),
        ("long", INT16, [Kind.NARROWED]),
        (INT16, "int", [Kind.WIDENED]),
        ("float", "double", [Kind.WIDENED]),
        ("int", "string", [Kind.RETYPED]),
        ("int", "double", [Kind.RETYPED]),
        ("string", UUID, [Kind.RETYPED]),
        (JSON, "string", [Kind.WIDENED]),
        ("string", JSON, [Kind.NARROWED]),
        (MICROS, ZONED, [Kind.RETYPED]),
        (decimal(10, 2), decimal(12, 2), [Kind.WIDENED]),
        (decimal(12, 2), decimal(10, 2), [Kind.NARROWED]),
        (decimal(12, 2), decimal(12, 4), [Kind.RETYPED]),
        (enum("sad", "ok"), enum("sad", "ok", "happy"), [Kind.WIDENED]),
        (enum("sad", "ok"), enum("ok"), [Kind.NARROWED]),
        (enum("sad"), "string", [Kind.WIDENED]),
        ("int", ["null", "int"], [Kind.NULLABLE]),
        (["null", "int"], "int", [Kind.REQUIRED]),
        (["null", "int"], "long", [Kind.WIDENED, Kind.REQUIRED]),
        (UUID, UUID, []),
        (
            ["null", {"type": "array", "items": ["null", "string"]}],
            ["null", {"type": "array", "items": "int"}],
            [Kind.RETYPED],
        ),
    ],
)
def test_what_became_of_a_column(was: Any, now: Any, kinds: list[Kind]) -> None:
    before, after = columns(envelope(x=was)), columns(envelope(x=now))
    assert [step.kind for step in steps(before, after)] == kinds


def test_a_rename_looks_like_a_drop_and_an_addition() -> None:
    found = steps(
        columns(envelope(id="int", brand=["null", "string"])), columns(envelope(id="int", maker=["null", "string"]))
    )
    assert [(step.column, step.kind) for step in found] == [("brand", Kind.DROPPED), ("maker", Kind.ADDED)]
    assert [str(step) for step in found] == ["brand: dropped (string null)", "maker: added (string null)"]


def test_the_default_of_a_function_is_none() -> None:
    zoned = {"name": "x", "type": ZONED, "default": "1970-01-01T00:00:00.000000Z"}
    constant = {"name": "y", "type": {"type": "int", "connect.default": 7}, "default": 7}
    read = columns(envelope(x=zoned, y=constant))
    assert (read["x"].default, read["y"].default) == (None, 7)


def test_another_default_changes_no_type() -> None:
    assert changes(Column("int", default=1), Column("int", default=2)) == [Kind.DEFAULT]
    assert changes(Column("int", default=1), Column("long", default=2)) == [Kind.WIDENED]


def test_types_in_words() -> None:
    read = columns(envelope(a=decimal(10, 2), b=["null", ZONED], c=enum("x", "y"), d={"type": "array", "items": "int"}))
    assert [str(column) for column in read.values()] == [
        "decimal(10,2)",
        "string (ZonedTimestamp) null",
        "enum(x, y)",
        "array of int",
    ]


TYPES = st.sampled_from(
    [
        Column("int16"),
        Column("int"),
        Column("long"),
        Column("float"),
        Column("double"),
        Column("string"),
        Column("string", "io.debezium.data.Uuid"),
        Column("string", "io.debezium.data.Json"),
        Column("string", "io.debezium.data.Enum", allowed=("a",)),
        Column("string", "io.debezium.data.Enum", allowed=("a", "b")),
        Column("decimal", size=(10, 2)),
        Column("decimal", size=(12, 2)),
        Column("decimal", size=(12, 4)),
        Column("boolean"),
    ]
)


@given(TYPES, TYPES)
def test_widening_is_narrowing_seen_from_the_other_side(one: Column, other: Column) -> None:
    there, back = changes(one, other), changes(other, one)
    assert (Kind.WIDENED in there) == (Kind.NARROWED in back)
    assert (Kind.RETYPED in there) == (Kind.RETYPED in back)
    assert (not there) == (one == other)


@given(TYPES, TYPES, TYPES)
def test_two_steps_that_readers_follow_are_one_that_they_follow(one: Column, two: Column, three: Column) -> None:
    if changes(one, two) == changes(two, three) == [Kind.WIDENED]:
        assert not STOPS & set(changes(one, three))
