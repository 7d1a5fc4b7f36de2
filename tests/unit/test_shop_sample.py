"""Sample rows: the same every time, whole, and with the edges that break things."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from decimal import Decimal
from functools import cache
from typing import Any

import pytest

from shop.names import TABLES
from shop.sample import edges
from shop.sample.rows import COLUMNS, Plan, Sample, items


@cache
def sample(size: int, seed: int = 1, *, far_times: bool = False) -> dict[str, list[dict[str, Any]]]:
    made = Sample(Plan(size, seed, far_times))
    return {table: [dict(zip(COLUMNS[table], row, strict=True)) for row in made.rows(table)] for table in TABLES}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 100])
def test_counts_are_what_the_plan_says(size: int) -> None:
    assert {table: len(rows) for table, rows in sample(size).items()} == Plan(size, 1).counts()


def test_one_means_one_row_of_everything() -> None:
    assert Plan(1, 1).counts() == dict.fromkeys(TABLES, 1)


def test_proportions_of_a_larger_shop() -> None:
    assert Plan(10_000, 1).counts() == {
        "users": 5_000,
        "addresses": 6_250,
        "products": 10_000,
        "inventory": 30_000,
        "reviews": 30_000,
        "orders": 5_000,
        "order_items": 9_999,
        "payments": 5_000,
        "outbox": 5_000,
    }


def test_the_same_seed_gives_the_same_rows() -> None:
    again = Sample(Plan(100, 1))
    for table in TABLES:
        assert [dict(zip(COLUMNS[table], row, strict=True)) for row in again.rows(table)] == sample(100)[table]


def test_another_seed_shares_no_key_with_the_first() -> None:
    for table, unique in (
        ("products", "id"),
        ("products", "sku"),
        ("users", "id"),
        ("users", "email"),
        ("orders", "id"),
    ):
        first, second = ({row[unique] for row in sample(100, seed)[table]} for seed in (1, 2))
        assert not first & second, f"{table}.{unique}"


@pytest.mark.parametrize("size", [1, 100])
def test_every_reference_points_to_a_row(size: int) -> None:
    rows = sample(size)
    references = (
        ("addresses", "user_id", "users"),
        ("inventory", "product_id", "products"),
        ("reviews", "product_id", "products"),
        ("reviews", "user_id", "users"),
        ("orders", "user_id", "users"),
        ("order_items", "order_id", "orders"),
        ("order_items", "product_id", "products"),
        ("payments", "order_id", "orders"),
    )
    for table, column, parent in references:
        known = {row["id"] for row in rows[parent]} | {None}
        assert {row[column] for row in rows[table]} <= known, f"{table}.{column}"


def test_keys_are_unique() -> None:
    keys = dict.fromkeys(TABLES, ("id",)) | {
        "inventory": ("product_id", "warehouse_id"),
        "order_items": ("order_id", "product_id"),
    }
    for table, key in keys.items():
        twice = [value for value, n in Counter(tuple(r[c] for c in key) for r in sample(100)[table]).items() if n > 1]
        assert not twice, table


def test_an_order_costs_what_its_items_cost() -> None:
    rows = sample(100)
    cost: Counter[str] = Counter()
    for item in rows["order_items"]:
        cost[item["order_id"]] += int(Decimal(item["unit_price"]) * 100) * item["quantity"]
    ordinary = rows["orders"][len(edges.ORDERS) :]
    assert {order["id"]: int(Decimal(order["total"]) * 100) for order in ordinary} == {
        order["id"]: cost[order["id"]] for order in ordinary
    }
    assert [items(number) for number in range(4)] == [1, 2, 3, 1]


def test_deleted_users_say_when() -> None:
    for user in sample(100)["users"]:
        assert (user["status"] == "deleted") == (user["deleted_at"] is not None)


def test_edges_are_there_from_a_hundred_on() -> None:
    rows = sample(100)
    assert [row["quantity"] for row in rows["inventory"][:2]] == [edges.INT_MAX, edges.INT_MAX]
    assert rows["inventory"][0]["product_id"] == rows["inventory"][1]["product_id"]
    assert {row["price"] for row in rows["products"]} >= {"0.00", "0.01", edges.MONEY_MAX}
    assert rows["products"][0]["tags"] is None
    assert any("{curly}" in row["email"] for row in rows["users"])
    assert max(len(row["email"]) for row in rows["users"]) > 300
    assert all("@example.com" in row["email"].lower() or "example.com" in row["email"] for row in rows["users"])
    assert not any("{curly}" in row["email"] for row in sample(7)["users"])


def test_every_nullable_column_is_null_somewhere() -> None:
    nullable = {
        "users": (
            "name",
            "phone",
            "password_hash",
            "date_of_birth",
            "country",
            "metadata",
            "deleted_at",
            "purge_after",
        ),
        "addresses": ("street", "city", "zip", "country"),
        "products": ("description", "tags", "attributes"),
        "reviews": ("user_id", "title", "body"),
        "payments": ("provider_ref",),
        "outbox": ("payload", "correlation_id", "causation_id", "user_id"),
    }
    for table, columns in nullable.items():
        for column in columns:
            assert any(row[column] is None for row in sample(100)[table]), f"{table}.{column}"


def test_json_columns_hold_json() -> None:
    for table, column in (("users", "metadata"), ("products", "attributes"), ("outbox", "payload")):
        for row in sample(100)[table]:
            if row[column] is not None:
                json.loads(row[column])


def test_far_times_are_filled_in_only_when_asked_for() -> None:
    def times(*, far: bool) -> set[str]:
        return {row["purge_after"] for row in sample(100, far_times=far)["users"] if row["purge_after"]}

    assert "infinity" in times(far=True)
    assert "infinity" not in times(far=False)


def test_incompressible_text_has_its_length_and_hardly_shrinks() -> None:
    text = edges.incompressible(12_000, 5)
    assert len(text) == 12_000
    assert text != edges.incompressible(12_000, 6)
    # zlib squeezes out the two unused bits of each letter; PostgreSQL's compressors find repetitions only
    assert len(zlib.compress(text.encode(), 9)) > 8_000
