"""What a change of products, inventory or reviews becomes for search: keys, versions, values as exact text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from processors.change import Change, Op, Origin, Row, TableId
from processors.sinks.base import Route
from processors.sinks.search.mapping import KINDS
from processors.sinks.search.route import Part, ProductRoute, ReviewRoute, ReviewRow, StockRoute, json_ready

MOMENT = datetime(2026, 11, 21, 12, 0, 0, 123_456, tzinfo=UTC)


def change(key: Row, before: Row | None, after: Row | None, version: int = 9) -> Change:
    op = Op.DELETE if after is None else Op.CREATE if before is None else Op.UPDATE
    return Change("shop", TableId("public", "t"), op, key, before, after, version, MOMENT, 1, Origin("t", 0, 0))


def test_a_product_is_its_searched_columns_as_exact_values() -> None:
    row = {
        "id": "p1",
        "sku": "S",
        "name": "Größe 漢 🎧",
        "description": None,
        "category": "audio",
        "tags": ["a", None],
        "attributes": '{"weight": 1.10}',
        "price": Decimal("12.30"),
        "currency": "EUR",
        "status": "active",
        "created_at": MOMENT.astimezone(timezone(timedelta(hours=5))),
        "updated_at": "infinity",
    }
    assert ProductRoute().commands(change({"id": "p1"}, None, row)) == [
        Part(
            "p1",
            "product",
            "",
            9,
            {
                "sku": "S",
                "name": "Größe 漢 🎧",
                "description": None,
                "category": "audio",
                "tags": ["a", None],
                "attributes": '{"weight": 1.10}',
                "price": "12.30",
                "currency": "EUR",
                "status": "active",
                "created_at": "2026-11-21T12:00:00.123456Z",
                "updated_at": "infinity",
            },
        )
    ]


def test_a_value_that_was_not_sent_is_taken_from_before_and_else_left_out() -> None:
    before = {"id": "p1", "name": "old", "description": "long"}
    [part] = ProductRoute().commands(change({"id": "p1"}, before, {"id": "p1", "name": "new"}))
    assert part.fields == {"name": "new", "description": "long"}


def test_a_delete_has_no_fields() -> None:
    row = {"product_id": "p", "warehouse_id": "w", "quantity": 4, "reserved": 1}
    key = {"product_id": "p", "warehouse_id": "w"}
    assert StockRoute().commands(change(key, row, None, 6)) == [Part("p", "stock", "w", 6, None)]
    assert StockRoute().commands(change(key, None, row, 7)) == [
        Part("p", "stock", "w", 7, {"quantity": 4, "reserved": 1})
    ]


def test_a_review_is_addressed_by_its_record_key() -> None:
    row = {"id": "r", "product_id": "p", "user_id": "u", "rating": 5, "status": "approved"}
    key = {"product_id": "p", "id": "r"}
    [command] = ReviewRoute().commands(change(key, None, row))
    assert command == ReviewRow("p", "r", 9, {"user_id": "u", "rating": 5, "status": "approved"})
    assert command.document == "p:r"


@pytest.mark.parametrize("route", [ProductRoute(), StockRoute(), ReviewRoute()])
def test_they_are_routes_of_search(route: Route) -> None:
    assert isinstance(route, Route)
    assert route.sink == "search"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("1E+3"), "1000"),
        (Decimal("0.00"), "0.00"),
        (Decimal("99999999.99"), "99999999.99"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
        (7, 7),
        (True, True),
        (None, None),
    ],
)
def test_values_are_kept_exactly(value: Any, text: Any) -> None:
    assert json_ready(value) == text


ADDED = {
    "brand": "acme",
    "weight": 5,
    "vat": Decimal("19.00"),
    "sold": False,
    "seen_at": datetime(2026, 1, 2, tzinfo=UTC),
    "labels": ["a", None],
    "nothing": None,
    "stock": "a name that documents have already",
}


@pytest.mark.parametrize("route", [ProductRoute(), ReviewRoute()])
def test_columns_that_a_migration_added_are_shown_as_what_they_are(route: ProductRoute | ReviewRoute) -> None:
    key = {"id": "p", "product_id": "p"}
    (command,) = route.commands(change(key, None, key | {"status": "active"} | ADDED))
    assert command.fields == {
        "status": "active",
        "brand": "acme",
        "weight": 5,
        "vat": "19.00",
        "sold": False,
        "seen_at": "2026-01-02T00:00:00.000000Z",
        "labels": ["a", None],
    }
    assert command.extra == {
        "brand": "word",
        "weight": "whole",
        "vat": "number",
        "sold": "boolean",
        "seen_at": "moment",
        "labels": "word",
    }
    assert set(command.extra.values()) <= set(KINDS)


def test_an_added_column_that_was_not_sent_is_as_before() -> None:
    (command,) = ProductRoute().commands(change({"id": "p"}, {"id": "p", "brand": "acme"}, {"id": "p", "name": "n"}))
    assert (command.fields, command.extra) == ({"name": "n", "brand": "acme"}, {"brand": "word"})
