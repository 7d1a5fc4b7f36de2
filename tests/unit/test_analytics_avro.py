"""Avro schemas as ClickHouse structures."""

from __future__ import annotations

from typing import Any

import pytest

from processors.sinks.analytics.avro import Field, UnreadableSchema, envelope, structure
from tests.support.avro import envelope_schema
from tests.support.columns import COLUMNS, optional, required


def read(**columns: Any) -> dict[str, Field]:
    return dict(envelope(envelope_schema("shop_catalog.public.things", columns)).columns)


def test_a_product_s_envelope() -> None:
    columns = envelope(envelope_schema("shop_catalog.public.products", COLUMNS["products"])).columns
    assert {name: field.type for name, field in columns.items()} == {
        "id": "String",
        "sku": "String",
        "name": "String",
        "description": "Nullable(String)",
        "category": "String",
        "tags": "Array(Nullable(String))",
        "attributes": "Nullable(String)",
        "price": "Decimal(10, 2)",
        "currency": "String",
        "status": "String",
        "created_at": "String",
        "updated_at": "String",
    }
    assert columns["price"].decimal == (10, 2)
    assert columns["created_at"].name == "io.debezium.time.ZonedTimestamp"
    assert columns["id"].name == "io.debezium.data.Uuid"


def test_every_kind_of_column() -> None:
    columns = read(
        small=required({"type": "int", "connect.type": "int16"}),
        big=optional("long"),
        real=optional("float"),
        double=required("double"),
        flag=optional("boolean"),
        blob=optional("bytes"),
        numbers=required({"type": "array", "items": "long"}),
        labels=optional({"type": "map", "values": ["null", "string"]}),
        code=required({"type": "fixed", "name": "Code", "size": 4}),
        scaled=optional(
            {
                "type": "record",
                "name": "VariableScaleDecimal",
                "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
            }
        ),
        scaled_too=optional("VariableScaleDecimal"),
    )
    assert {name: field.type for name, field in columns.items()} == {
        "small": "Int32",
        "big": "Nullable(Int64)",
        "real": "Nullable(Float32)",
        "double": "Float64",
        "flag": "Nullable(Bool)",
        "blob": "Nullable(String)",
        "numbers": "Array(Int64)",
        "labels": "Map(String, Nullable(String))",
        "code": "FixedString(4)",
        "scaled": "Nullable(Tuple(`scale` Int32, `value` String))",
        "scaled_too": "Nullable(Tuple(`scale` Int32, `value` String))",
    }


def test_the_structure_holds_every_field_of_a_row_and_the_source_s_by_name() -> None:
    got = structure(
        envelope(envelope_schema("t", {"id": required("int"), "a b`c": optional("string")})), ["lsn", "ts_ms"]
    )
    row = r"Tuple(`id` Int32, `a b\`c` Nullable(String))"
    assert (
        got
        == f"before Nullable({row}), after Nullable({row}), op String, `source.lsn` Nullable(Int64), `source.ts_ms` Int64"
    )


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            {"type": "record", "name": "Flat", "fields": [{"name": "id", "type": "int"}]},
            "Flat is no Debezium envelope: it lacks before",
        ),
        (envelope_schema("t", {"a": required(["null", "int", "string"])}), "field a: a union of 2 types"),
        (envelope_schema("t", {"a": required("uuidish")}), "field a: Avro type uuidish is not known"),
    ],
)
def test_what_it_can_t_read_is_named(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableSchema, match=message):
        envelope(schema)
