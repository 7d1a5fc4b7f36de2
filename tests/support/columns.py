"""The captured columns of every table as Debezium's Avro types, and believable rows. Knows no record and no server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

COMMITTED = datetime(2026, 11, 21, 12, 0, 0, 123_456, tzinfo=UTC)
"""The commit time of a record whose test does not care."""


def named(type_: str, name: str, **attributes: Any) -> dict[str, Any]:
    """Return a type that carries a Kafka Connect name."""
    return {"type": type_, "connect.version": 1, "connect.name": name} | attributes


def decimal_type(precision: int, scale: int) -> dict[str, Any]:
    """Return the type of a numeric(precision, scale) column."""
    return {
        "type": "bytes",
        "scale": scale,
        "precision": precision,
        "connect.version": 1,
        "connect.parameters": {"scale": str(scale), "connect.decimal.precision": str(precision)},
        "connect.name": "org.apache.kafka.connect.data.Decimal",
        "logicalType": "decimal",
    }


UUID = named("string", "io.debezium.data.Uuid")
JSONB = named("string", "io.debezium.data.Json")
TIMESTAMPTZ = named("string", "io.debezium.time.ZonedTimestamp")
DATE = named("int", "io.debezium.time.Date")
SMALLINT = {"type": "int", "connect.type": "int16"}
TEXTS = {"type": "array", "items": ["null", "string"]}
MONEY = decimal_type(10, 2)


def optional(type_: Any) -> dict[str, Any]:
    """Return the field of a column that may be NULL."""
    return {"type": ["null", type_], "default": None}


def required(type_: Any) -> dict[str, Any]:
    """Return the field of a NOT NULL column."""
    return {"type": type_}


_TIMES = {"created_at": required(TIMESTAMPTZ), "updated_at": required(TIMESTAMPTZ)}
COLUMNS: dict[str, dict[str, dict[str, Any]]] = {
    "users": {
        "id": required(UUID),
        "email": required("string"),
        "status": required("string"),
        "country": optional("string"),
        **_TIMES,
        "deleted_at": optional(TIMESTAMPTZ),
        "purge_after": optional(TIMESTAMPTZ),
    },
    "addresses": {
        "id": required(UUID),
        "user_id": required(UUID),
        "kind": required("string"),
        "country": optional("string"),
        "is_default": required("boolean"),
    },
    "products": {
        "id": required(UUID),
        "sku": required("string"),
        "name": required("string"),
        "description": optional("string"),
        "category": required("string"),
        "tags": optional(TEXTS),
        "attributes": optional(JSONB),
        "price": required(MONEY),
        "currency": required("string"),
        "status": required("string"),
        **_TIMES,
    },
    "inventory": {
        "product_id": required(UUID),
        "warehouse_id": required("int"),
        "quantity": required("int"),
        "reserved": required("int"),
        "updated_at": required(TIMESTAMPTZ),
    },
    "reviews": {
        "id": required(UUID),
        "product_id": required(UUID),
        "user_id": optional(UUID),
        "rating": required(SMALLINT),
        "title": optional("string"),
        "body": optional("string"),
        "status": required("string"),
        **_TIMES,
    },
    "orders": {
        "id": required(UUID),
        "user_id": required(UUID),
        "status": required("string"),
        "total": required(MONEY),
        "currency": required("string"),
        "ordered_at": required(TIMESTAMPTZ),
        "updated_at": required(TIMESTAMPTZ),
    },
    "order_items": {
        "order_id": required(UUID),
        "product_id": required(UUID),
        "quantity": required("int"),
        "unit_price": required(MONEY),
    },
    "payments": {
        "id": required(UUID),
        "order_id": required(UUID),
        "method": required("string"),
        "amount": required(MONEY),
        "status": required("string"),
        "created_at": required(TIMESTAMPTZ),
    },
}
"""Captured columns of every table → their Avro field, without the name."""


def sample(name: str, /, **values: Any) -> dict[str, Any]:
    """Return a whole row of the table `name` with believable values, `values` replacing some."""
    of_column: dict[str, Any] = {
        "email": "ann@example.com",
        "rating": 4,
        "price": Decimal("19.90"),
        "total": Decimal("39.80"),
        "unit_price": Decimal("19.90"),
        "amount": Decimal("39.80"),
        "tags": ["red", "new"],
        "attributes": '{"colour": "red"}',
        "deleted_at": None,
        "purge_after": None,
        "is_default": True,
        "currency": "EUR",
        "country": "DE",
        "category": "audio",
        "warehouse_id": 1,
        "quantity": 10,
        "reserved": 2,
    }
    row: dict[str, Any] = {}
    for position, column in enumerate(COLUMNS[name]):
        if column in of_column:
            row[column] = of_column[column]
        elif column == "id" or column.endswith("_id"):
            row[column] = f"00000000-0000-4000-8000-{position:012d}"
        elif column.endswith("_at"):
            row[column] = COMMITTED - timedelta(minutes=position)
        elif column == "user_id":
            row[column] = "00000000-0000-4000-8000-0000000000ff"
        else:
            row[column] = f"{column} of {name}"
    return row | values
