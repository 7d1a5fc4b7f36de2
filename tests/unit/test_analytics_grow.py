"""What a table of the store needs to hold a schema: nothing for the pinned ones, and never less than it holds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from processors.sinks.analytics.avro import envelope
from processors.sinks.analytics.grow import Growth, Parts, growth, statements, wider
from processors.sinks.analytics.migrate import read
from processors.sinks.analytics.raw import BOOKKEEPING
from processors.tables import TABLES
from processors.tables.base import Table
from schemas.contracts import load
from tests.support.avro import source_schema
from tests.unit.test_schemas_rows import INT16, JSON, MICROS, UUID, ZONED, decimal, enum

COLUMN = re.compile(r"^    (\w+) +(.+?)(?: CODEC\(.*\))?,?$", re.MULTILINE)


def held(table: str) -> dict[str, str]:
    """Return the columns that the migrations give a history table."""
    for migration in read():
        for statement in migration.statements:
            if f"EXISTS {table}_history (" in statement:
                return dict(COLUMN.findall(statement))
    raise AssertionError(table)


def fields(**types: Any) -> Any:
    row = [
        type_ if isinstance(type_, dict) and "name" in type_ else {"name": name, "type": type_}
        for name, type_ in types.items()
    ]
    schema = {
        "type": "record",
        "name": "Envelope",
        "namespace": "t",
        "fields": [
            {"name": "before", "type": ["null", {"type": "record", "name": "Value", "fields": row}]},
            {"name": "after", "type": ["null", "Value"]},
            {"name": "source", "type": source_schema()},
        ],
    }
    return envelope(schema).columns


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id.name)
def test_the_stores_tables_hold_what_is_pinned(table: Table) -> None:
    """Else a start would alter tables that nobody changed."""
    (value,) = load().of([f"{table.topic('shop')}-value"])
    assert value.schema is not None
    columns = {name: field for name, field in envelope(value.schema).columns.items() if name in table.shared}
    stored = {name: type_ for name, type_ in held(table.id.name).items() if name not in BOOKKEEPING}
    assert growth(stored, columns, table.key) == Growth({}, {})


@pytest.mark.parametrize(
    ("type_", "added"),
    [
        ("int", "Nullable(Int32)"),
        (["null", "long"], "Nullable(Int64)"),
        ("boolean", "Nullable(Bool)"),
        ("double", "Nullable(Float64)"),
        ("string", "Nullable(String)"),
        (UUID, "Nullable(UUID)"),
        (JSON, "Nullable(String)"),
        (enum("a", "b"), "Nullable(String)"),
        (ZONED, "Nullable(DateTime64(6, 'UTC'))"),
        (["null", MICROS], "Nullable(DateTime64(6, 'UTC'))"),
        ({"type": "int", "connect.name": "io.debezium.time.Date"}, "Nullable(Date32)"),
        (["null", decimal(5, 2)], "Nullable(Decimal(5, 2))"),
        (["null", {"type": "array", "items": ["null", "string"]}], "Array(Nullable(String))"),
        ({"name": "x", "type": {"type": "int", "connect.default": 5}, "default": 5}, "Nullable(Int32)"),
    ],
)
def test_a_new_column(type_: Any, added: str) -> None:
    assert growth({}, fields(x=type_)).added == {"x": added}


def test_a_numeric_without_precision_has_no_column() -> None:
    variable = {
        "type": "record",
        "name": "VariableScaleDecimal",
        "namespace": "io.debezium.data",
        "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
    }
    assert growth({}, fields(x=["null", variable])) == Growth({}, {})


@pytest.mark.parametrize(
    ("column", "type_", "wanted"),
    [
        ("Int32", "long", "Int64"),
        ("Int64", "int", "Int64"),
        ("Nullable(Int32)", "long", "Nullable(Int64)"),
        ("Int32", ["null", "int"], "Nullable(Int32)"),
        ("Nullable(Int32)", "int", "Nullable(Int32)"),
        ("UInt8", INT16, "UInt8"),
        ("UInt8", "int", "Int32"),
        ("Decimal(10, 2)", decimal(12, 2), "Decimal(12, 2)"),
        ("Decimal(12, 2)", decimal(10, 2), "Decimal(12, 2)"),
        ("Decimal(12, 2)", decimal(12, 4), "Decimal(14, 4)"),
        ("Decimal(76, 0)", decimal(76, 2), "Decimal(76, 0)"),
        ("LowCardinality(String)", ["null", "string"], "LowCardinality(Nullable(String))"),
        ("LowCardinality(Nullable(String))", "string", "LowCardinality(Nullable(String))"),
        ("Array(Nullable(String))", ["null", {"type": "array", "items": "string"}], "Array(Nullable(String))"),
        ("DateTime64(6, 'UTC')", ["null", ZONED], "Nullable(DateTime64(6, 'UTC'))"),
        ("Float32", "double", "Float64"),
        ("Int32", "string", "String"),
        ("UUID", "string", "String"),
        ("String", "int", "String"),
        ("Nullable(String)", UUID, "Nullable(String)"),
        ("Int32", MICROS, "Int32"),
    ],
)
def test_a_column_that_must_hold_more(column: str, type_: Any, wanted: str) -> None:
    field = fields(x=type_)["x"]
    assert wider(column, field) == wanted
    assert wider(wanted, field) == wanted


def test_a_column_that_the_source_lacks_can_be_null() -> None:
    columns = {
        "id": "UUID",
        "sku": "String",
        "tags": "Array(String)",
        "kind": "LowCardinality(String)",
        "at": "Nullable(Date32)",
    }
    assert growth(columns, {}, ["id"]) == Growth(
        {}, {"sku": "Nullable(String)", "kind": "LowCardinality(Nullable(String))"}
    )


def test_a_key_is_never_changed() -> None:
    assert growth({"id": "Int32"}, fields(id="long"), ["id"]) == Growth({}, {})


MARKS = {"_version": "UInt64", "_is_deleted": "UInt8", "_committed_at": "DateTime64(6, 'UTC')"}
HELD = {"id": "UUID", "size": "Int32"}
WHOLE = Parts(HELD | {"_op": "String"} | MARKS, HELD | MARKS, HELD, ("id",))
GREW = [
    "ALTER TABLE `t_current` ADD COLUMN IF NOT EXISTS `brand` Nullable(String)",
    "ALTER TABLE `t_current` MODIFY COLUMN `size` Int64",
    "ALTER TABLE `t_history` ADD COLUMN IF NOT EXISTS `brand` Nullable(String)",
    "ALTER TABLE `t_history` MODIFY COLUMN `size` Int64",
    "ALTER TABLE `t_to_current` MODIFY QUERY"
    " SELECT `id`, `size`, `brand`, `_version`, `_is_deleted`, `_committed_at` FROM `t_history`",
    "CREATE OR REPLACE VIEW `t` AS SELECT `id`, `size`, `brand` FROM `t_current` FINAL WHERE _is_deleted = 0",
]


def test_all_four_parts_grow_readers_last() -> None:
    assert statements("t", WHOLE, fields(id=UUID, size="long", brand=["null", "string"])) == GREW


def test_a_table_that_holds_it_all_is_left_alone() -> None:
    assert statements("t", WHOLE, fields(id=UUID, size="int")) == []


@pytest.mark.parametrize("done", range(1, len(GREW)))
def test_a_worker_that_was_killed_in_between_is_followed_up(done: int) -> None:
    """Whatever was done, what is left is done by the next one, and readers are given the column at last."""
    wide = HELD | {"size": "Int64", "brand": "Nullable(String)"}
    history = (wide if done >= 4 else HELD | {"brand": "Nullable(String)"} if done == 3 else HELD) | MARKS
    current = (wide if done >= 2 else HELD | {"brand": "Nullable(String)"}) | MARKS
    left = statements(
        "t", Parts(history, current, HELD, ("id",)), fields(id=UUID, size="long", brand=["null", "string"])
    )
    assert left == [*GREW[min(done, 4) : 4], *GREW[4:]]
