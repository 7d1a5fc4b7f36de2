"""The analytics sink under migrations: its tables grow with the first row that needs it, and readers see it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import clickhouse_connect
import pytest

from processors.sinks.analytics.sink import AnalyticsSink
from processors.sinks.base import APPLIED
from tests.support.analytics import Bench, bench_in, one_registry, own_front, stored
from tests.support.avro import Registry
from tests.support.clickhouse import Front
from tests.support.columns import COLUMNS, decimal_type, optional, sample


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with own_front(tmp_path_factory.mktemp("analytics")) as running:
        yield running


@pytest.fixture(scope="module")
def registry() -> Iterator[tuple[Registry, str]]:
    with one_registry() as kept:
        yield kept


@pytest.fixture
async def growing(front: Front, registry: tuple[Registry, str]) -> AsyncIterator[Bench]:
    """A bench whose tables may be changed: they are gone afterwards."""
    async with bench_in("analytics_growing", front, registry) as made:
        yield replace(made, open=True)
    client = clickhouse_connect.get_client(host="127.0.0.1", port=front.port, autogenerate_session_id=False)
    client.command("DROP DATABASE analytics_growing")
    client.close()


async def test_a_column_grows_to_hold_what_its_source_may_hold_now(growing: Bench) -> None:
    old = sample("order_items", unit_price=Decimal("12.34"), quantity=2)
    await growing.write(growing.record("order_items", "c", after=old, lsn=8))
    growing.capture.columns["order_items"] = COLUMNS["order_items"] | {
        "unit_price": optional(decimal_type(20, 4)),
        "quantity": {"type": "long"},
    }
    rows = [
        sample("order_items", order_id=str(uuid.uuid4())) | {"unit_price": price, "quantity": quantity}
        for price, quantity in ((Decimal("1234567890123456.1234"), 1), (None, 2**40))
    ]
    await growing.write(*(growing.record("order_items", "c", after=row, lsn=16) for row in rows))
    by_order = {str(row["order_id"]): row for row in growing.current("order_items")}
    assert by_order == {row["order_id"]: stored(row) for row in (old, *rows)}
    assert {row["unit_price"] for row in growing.history("order_items")} == {row["unit_price"] for row in (old, *rows)}


async def test_a_new_column_reaches_history_current_state_and_readers(growing: Bench) -> None:
    before = sample("orders")
    await growing.write(growing.record("orders", "c", after=before, lsn=8))
    growing.capture.columns["orders"] = COLUMNS["orders"] | {
        "channel": optional("string"),
        "weight": {"type": {"type": "int", "connect.default": 5}, "default": 5},
    }
    new = sample("orders", id=str(uuid.uuid4())) | {"channel": "shop", "weight": 7}
    await growing.write(growing.record("orders", "c", after=new, lsn=16))
    shown = {str(row["id"]): row for row in growing.current("orders")}
    assert shown[new["id"]] == stored(new)
    # nothing is sent for rows that are there already: they are unknown, not zero and not a default
    assert shown[before["id"]] == stored(before) | {"channel": None, "weight": None}
    # a late record of the old schema still goes in, and the change of the new column is kept as history
    late = sample("orders", id=str(uuid.uuid4()))
    growing.capture.columns["orders"] = COLUMNS["orders"]
    await growing.write(growing.record("orders", "c", after=late, lsn=12))
    assert {str(row["id"]) for row in growing.current("orders")} == {before["id"], new["id"], late["id"]}
    assert [(row["_op"], row["channel"]) for row in growing.history("orders")] == [
        ("c", None),
        ("c", None),
        ("c", "shop"),
    ]


async def test_a_column_that_the_source_dropped_reads_null_from_then_on(growing: Bench) -> None:
    old = sample("orders")
    await growing.write(growing.record("orders", "c", after=old, lsn=8))
    growing.capture.columns["orders"] = {name: type_ for name, type_ in COLUMNS["orders"].items() if name != "currency"}
    new = {name: value for name, value in sample("orders", id=str(uuid.uuid4())).items() if name != "currency"}
    await growing.write(growing.record("orders", "c", after=new, lsn=16))
    assert {str(row["id"]): row["currency"] for row in growing.current("orders")} == {
        old["id"]: old["currency"],
        new["id"]: None,
    }


async def test_another_worker_finds_the_table_grown(growing: Bench) -> None:
    growing.capture.columns["orders"] = COLUMNS["orders"] | {"channel": optional("string")}
    other = AnalyticsSink(growing.settings)
    await other.open()
    try:
        rows = [sample("orders", id=str(uuid.uuid4())) | {"channel": str(number)} for number in range(2)]
        records = [growing.record("orders", "c", after=row) for row in rows]
        one, two = await asyncio.gather(growing.sink.write(records[:1]), other.write(records[1:]))
        assert [*one, *two] == [APPLIED, APPLIED]
        assert {row["channel"] for row in growing.current("orders")} == {"0", "1"}
    finally:
        await other.close()


async def test_other_temporal_types_of_debezium(growing: Bench) -> None:
    """None of the shop's columns has them; a migration may add one that does."""
    bench = growing
    bench.capture.columns["orders"] = COLUMNS["orders"] | {
        "ms": optional({"type": "long", "connect.name": "io.debezium.time.Timestamp"}),
        "us": optional({"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}),
        "day": optional({"type": "int", "connect.name": "io.debezium.time.Date"}),
    }
    values: list[dict[str, Any]] = [
        {"ms": 1, "us": -1, "day": -1},
        {"ms": 9_223_372_036_825_200_000 // 1000, "us": 9_223_372_036_825_200_000, "day": 2**31 - 1},
        {"ms": -9_223_372_036_832_400, "us": -9_223_372_036_832_400_000, "day": -(2**31)},
        {"ms": None, "us": None, "day": None},
    ]
    rows = [sample("orders") | given for given in values]
    await bench.write(*(bench.record("orders", "c", after=row, lsn=8 + 8 * n) for n, row in enumerate(rows)))
    earliest, latest = datetime(1900, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    got = bench.rows("SELECT ms, us, toString(day) AS day FROM orders_history FINAL ORDER BY _version")
    assert [list(row.values()) for row in got] == [
        [
            datetime(1970, 1, 1, 0, 0, 0, 1000, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            "1969-12-31",
        ],
        [latest.replace(microsecond=999_000), latest, "2299-12-31"],
        [earliest, earliest, "1900-01-01"],
        [None, None, None],
    ]
