"""The analytics sink over HTTP: what a reader of ClickHouse then sees, value by value. It starts a front of its own."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from downriver.settings import Clickhouse, Settings, with_local_addresses
from processors.change import Change, CheckedRecord, Kind, Op, Origin, TableId, pack_version
from processors.sinks.analytics.route import AnalyticsRecord, AnalyticsRow
from processors.sinks.analytics.sink import AnalyticsSink
from processors.sinks.base import APPLIED, Outcome, Route, SinkUnavailable
from processors.tables import TABLES
from tests.support.analytics import Bench, bench_in, one_registry, own_front, stored
from tests.support.avro import Capture, Registry, table
from tests.support.clickhouse import Front, running_front, served
from tests.support.columns import COLUMNS, COMMITTED, MONEY, optional, sample

RAW = [captured.id.name for captured in TABLES if captured.id.name != "users"]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with own_front(tmp_path_factory.mktemp("analytics")) as running:
        yield running


@pytest.fixture(scope="module")
def registry() -> Iterator[tuple[Registry, str]]:
    with one_registry() as kept:
        yield kept


@pytest.fixture
async def bench(front: Front, registry: tuple[Registry, str]) -> AsyncIterator[Bench]:
    async with bench_in("analytics_test", front, registry) as made:
        yield made


@pytest.mark.parametrize("name", RAW)
async def test_every_raw_table_s_row_arrives_with_every_value(bench: Bench, name: str) -> None:
    row = sample(name)
    await bench.write(bench.record(name, "c", after=row, lsn=800))
    await bench.sink.shown()
    assert bench.current(name) == [stored(row)]
    (written,) = bench.history(name)
    assert {column: written[column] for column in row} == stored(row)
    assert {column: value for column, value in written.items() if column not in row} == {
        "_op": "c",
        "_kind": "streamed",
        "_version": pack_version(3, 800, deleted=False),
        "_is_deleted": 0,
        "_committed_at": COMMITTED,
        "_transaction": 771,
        "_before": {},
    }


async def test_extreme_values(bench: Bench) -> None:
    row = sample(
        "products",
        name="ü🚀\t\n\\'\" \x01",
        description="long " * 50_000,
        category="",
        tags=["", None, "a,b", "'"],
        attributes=None,
        price=Decimal("99999999.99"),
        created_at=datetime(1900, 1, 1, tzinfo=UTC),
        updated_at=datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    )
    smallest = sample("products", id=str(uuid.UUID(int=1)), price=Decimal("-0.01"), tags=[], description="")
    await bench.write(bench.record("products", "c", after=row), bench.record("products", "c", after=smallest))
    assert sorted(bench.current("products"), key=lambda got: str(got["id"])) == [stored(smallest), stored(row)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("infinity", datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("-infinity", datetime(1900, 1, 1, tzinfo=UTC)),
        ("+12345-01-01T00:00:00Z", datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("-0044-03-15T12:00:00Z", datetime(1900, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1900, 1, 1, tzinfo=UTC)),
        ("2300-01-01T00:00:00Z", datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("1969-12-31T23:59:59.999999Z", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2026-03-29T01:30:00.1Z", datetime(2026, 3, 29, 1, 30, 0, 100_000, tzinfo=UTC)),
        ("2026-03-29T01:30:00Z", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
    ],
)
async def test_times_arrive_exact_or_clamped(bench: Bench, text: str, read: datetime) -> None:
    await bench.write(bench.record("orders", "c", after=sample("orders", ordered_at=text)))
    assert bench.current("orders") == [stored(sample("orders", ordered_at=read))]


async def test_updates_deletes_and_what_changed(bench: Bench) -> None:
    old = sample("products", attributes=None)
    new = old | {"price": Decimal("20.00"), "tags": ["red"], "attributes": "{}", "updated_at": COMMITTED}
    await bench.write(
        bench.record("products", "c", after=old, lsn=80),
        bench.record("products", "u", before=old, after=new, lsn=88, origin="downriver_repair"),
        bench.record("products", "d", before=new, lsn=96, transaction=772),
    )
    assert bench.current("products") == []
    created, updated, deleted = bench.history("products")
    assert [change["_version"] for change in (created, updated, deleted)] == [
        pack_version(3, 80, deleted=False),
        pack_version(3, 88, deleted=False),
        pack_version(3, 96, deleted=True),
    ]
    assert updated["_before"] == {
        "price": "19.90",
        "tags": "['red','new']",
        "attributes": None,
        "updated_at": "2026-11-21T11:49:00.123456Z",
    }
    assert list(updated["_before"]) == [name for name in new if name in updated["_before"]], "in the table's order"
    assert (updated["_kind"], deleted["_kind"]) == ("repair", "streamed")
    assert (deleted["_op"], deleted["_is_deleted"], deleted["_transaction"], deleted["_before"]) == ("d", 1, 772, {})
    assert {name: deleted[name] for name in new} == stored(new)


async def test_any_order_and_any_redelivery_end_the_same(bench: Bench) -> None:
    rows = [sample("inventory", quantity=number) for number in range(6)]
    changes = [bench.record("inventory", "c", after=rows[0], lsn=8)]
    changes += [bench.record("inventory", "u", before=a, after=b, lsn=8 * b["quantity"] + 8) for a, b in pairwise(rows)]
    other = sample("inventory", warehouse_id=2)
    changes += [
        bench.record("inventory", "c", after=other, lsn=80),
        bench.record("inventory", "d", before=other, lsn=88),
    ]
    shuffled = random.Random(7)
    for _ in range(5):
        batch = shuffled.sample(changes, len(changes)) + shuffled.choices(changes, k=4)
        await bench.write(*batch[:5])
        await bench.write(*batch[5:])
    assert bench.current("inventory") == [stored(rows[5])]
    versions = [change["_version"] for change in bench.history("inventory")]
    assert versions == sorted({pack_version(3, 8 * number, deleted=number == 11) for number in (*range(1, 7), 10, 11)})
    assert bench.rows("SELECT count() AS n FROM inventory_history FINAL") == [{"n": len(changes)}]


async def test_a_row_comes_back_after_its_delete_and_a_key_change_keeps_the_create(bench: Bench) -> None:
    row = sample("orders")
    await bench.write(
        bench.record("orders", "d", before=row, lsn=16),
        bench.record("orders", "c", after=row | {"status": "back"}, lsn=24),
        # the halves of a key change share their LSN: here the key goes away and comes back in one
        bench.record("orders", "c", after=row | {"status": "moved"}, lsn=32),
        bench.record("orders", "d", before=row, lsn=32),
    )
    assert bench.current("orders") == [stored(row | {"status": "moved"})]


async def test_a_snapshot_creates_what_is_missing_and_never_overwrites(bench: Bench) -> None:
    streamed, missing = sample("reviews", rating=5), sample("reviews", id=str(uuid.UUID(int=9)), rating=1)
    await bench.write(
        bench.record("reviews", "c", after=streamed, lsn=8),
        bench.record("reviews", "r", after=streamed | {"rating": 2}, lsn=9_000, snapshot="true"),
        bench.record("reviews", "r", after=missing, lsn=None, transaction=None, snapshot="incremental"),
        bench.record("reviews", "r", after=missing, lsn=9_000, snapshot="last"),
    )
    assert sorted(bench.current("reviews"), key=lambda row: int(row["rating"])) == [stored(missing), stored(streamed)]
    assert [(change["_version"], change["_kind"], change["_transaction"]) for change in bench.history("reviews")] == [
        (0, "snapshot", 771),
        (0, "snapshot", 771),
        (pack_version(3, 8, deleted=False), "streamed", 771),
    ]


async def test_records_that_can_t_be_stored_are_dead_letters_alone(bench: Bench) -> None:
    good = [sample("orders", id=str(uuid.UUID(int=number))) for number in range(20)]
    batch = [bench.record("orders", "c", after=row) for row in good]
    placeholder = "downriver:not-sent:5f0c6a4e9b7d4e21a3c8d1f6027be954"
    value = batch[0].checked.value
    truncated = bench.capture.record("orders", "c", after=sample("orders"))
    bad = {
        3: (bench.record("orders", "c", after=sample("orders", id="no uuid")), "Cannot parse"),
        7: (bench.record("orders", "c", after=sample("orders"), lsn=0), "usable source.lsn"),
        11: (bench.record("orders", "u", before=sample("orders")), "the row that its op needs"),
        12: (bench.record("orders", "t"), "the row that its op needs"),
        13: (bench.record("orders", "c", after=sample("orders", status=placeholder)), "REPLICA IDENTITY FULL"),
        17: (bench.record("orders", "c", after=sample("orders", ordered_at="tomorrow")), "Cannot read DateTime"),
        19: (
            AnalyticsRecord(
                CheckedRecord(
                    type(truncated)(truncated.topic, 0, 0, 0, None, value[:-20]),
                    TableId("public", "orders"),
                    batch[0].checked.schema_id,
                    batch[0].checked.schema,
                )
            ),
            "AVRO",
        ),
    }
    mixed = [bad[place][0] if place in bad else command for place, command in enumerate(batch)]
    verdicts = await bench.sink.write(mixed)
    assert {place for place, verdict in enumerate(verdicts) if verdict.outcome is Outcome.REJECTED} == set(bad)
    for place, (_, reason) in bad.items():
        assert reason in verdicts[place].reason, place
    expected = [stored(row) for place, row in enumerate(good) if place not in bad]
    assert sorted(bench.current("orders"), key=lambda row: str(row["id"])) == expected


async def test_a_column_that_no_sink_may_hold_is_left_out_and_a_missing_one_is_null(bench: Bench) -> None:
    row = sample("payments")
    bench.capture.columns["payments"] = COLUMNS["payments"] | {
        "provider_ref": optional("string"),
        "fee": optional(MONEY),
    }
    await bench.write(
        bench.record("payments", "c", after=row | {"provider_ref": "secret", "fee": Decimal("0.50")}, lsn=8)
    )
    assert bench.current("payments") == [stored(row)]
    bench.capture.columns["products"] = {
        name: type_ for name, type_ in COLUMNS["products"].items() if name != "description"
    }
    product = sample("products")
    del product["description"]
    await bench.write(bench.record("products", "c", after=product, lsn=8))
    assert bench.current("products") == [stored(product | {"description": None})]


async def test_numbers_that_no_column_holds_are_refused_never_cut(bench: Bench) -> None:
    """A key's column can't be widened, and a decimal has at most 76 digits."""
    bench.capture.columns["inventory"] = COLUMNS["inventory"] | {"warehouse_id": {"type": "long"}}
    fitting = sample("inventory")
    batch = [
        bench.record("inventory", "c", after=fitting),
        bench.record("inventory", "c", after=fitting | {"warehouse_id": 2**31}),
    ]
    verdicts = await bench.sink.write(batch)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.APPLIED, Outcome.REJECTED]
    assert bench.current("inventory") == [stored(fitting)]


async def test_users_arrive_decoded_and_without_their_e_mail(bench: Bench) -> None:
    users = table("users")
    route = users.route("analytics")
    assert isinstance(route, Route)
    row = sample("users", status="active", deleted_at=None)
    gone = row | {"status": "deleted", "deleted_at": COMMITTED, "email": "other@example.com"}

    def change(op: Op, before: dict[str, Any] | None, after: dict[str, Any] | None, version: int) -> Change:
        origin = Origin("t", 0, version, Kind.STREAMED)
        return Change("shop", users.id, op, {"id": row["id"]}, before, after, version, COMMITTED, 5, origin)

    await bench.write(
        *route.commands(change(Op.CREATE, None, row, 9)), *route.commands(change(Op.UPDATE, row, gone, 11))
    )
    kept = {
        name: gone[name]
        for name in ("id", "status", "country", "created_at", "updated_at", "deleted_at", "purge_after")
    }
    assert bench.current("users") == [stored(kept)]
    assert [entry["_before"] for entry in bench.history("users")] == [{}, {"status": "active", "deleted_at": None}]
    await bench.write(*route.commands(change(Op.DELETE, gone, None, 12)))
    assert bench.current("users") == []


async def test_both_paths_store_the_same(bench: Bench) -> None:
    """The raw path computes in SQL what the decoded path computes in Python."""
    old = sample("orders")
    new = old | {"status": "shipped", "total": Decimal("40.00"), "updated_at": COMMITTED}
    raw = bench.record("orders", "u", before=old, after=new, lsn=80)
    await bench.write(raw)
    (from_raw,) = bench.history("orders")
    bench.reader.command("TRUNCATE TABLE orders_history")
    version = pack_version(3, 80, deleted=False)
    row = AnalyticsRow(TableId("public", "orders"), Op.UPDATE, new, old, version, COMMITTED, 771, Kind.STREAMED)
    await bench.write(row)
    assert bench.history("orders") == [from_raw]


async def test_several_workers_open_at_once_and_write_at_once(bench: Bench) -> None:
    fresh = bench.settings.clickhouse.model_copy(update={"database": f"t_{uuid.uuid4().hex}"})
    settings = bench.settings.model_copy(update={"clickhouse": fresh})
    sinks = [AnalyticsSink(settings) for _ in range(4)]
    try:
        await asyncio.gather(*(sink.open() for sink in sinks))
        rows = [sample("inventory", warehouse_id=number + 1) for number in range(24)]
        batches = [[bench.record("inventory", "c", after=row) for row in rows[start::8]] for start in range(8)]
        wrote = await asyncio.gather(*(sinks[n % 4].write(batch) for n, batch in enumerate(batches)))
        assert [verdict for verdicts in wrote for verdict in verdicts] == [APPLIED] * 24
        got = list(
            bench.reader.query(f"SELECT * FROM {fresh.database}.inventory ORDER BY warehouse_id").named_results()
        )
        assert got == [stored(row) for row in rows]
    finally:
        for sink in sinks:
            await sink.close()
        bench.reader.command(f"DROP DATABASE IF EXISTS {fresh.database}")


async def test_a_history_whose_current_part_failed_is_healed_by_the_repeat(bench: Bench) -> None:
    batch = [bench.record("orders", "c", after=sample("orders"))]
    bench.reader.command("RENAME TABLE orders_current TO orders_away")
    with pytest.raises(SinkUnavailable):
        await bench.sink.write(batch)
    bench.reader.command("RENAME TABLE orders_away TO orders_current")
    await bench.write(*batch)
    assert bench.current("orders") == [stored(sample("orders"))]
    assert len(bench.history("orders")) == 1


async def test_a_registry_that_is_away_decides_nothing(front: Front) -> None:
    capture = Capture()
    database = f"t_{uuid.uuid4().hex}"
    with served(capture.registry) as registry:
        pass  # gone again
    settings = with_local_addresses(
        Settings(clickhouse=Clickhouse(port=front.port, database=database, registry_url=registry))
    )
    sink = AnalyticsSink(settings)
    await sink.open()
    away = Bench(sink, capture, sink._store.client, settings)
    with pytest.raises(SinkUnavailable, match=f"127.0.0.1:{front.port}"):
        await sink.write([away.record("orders", "c", after=sample("orders"))])
    sink._store.client.command(f"DROP DATABASE {database}")
    await sink.close()


async def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    capture = Capture()
    rows = [sample("orders", id=str(uuid.UUID(int=number))) for number in range(3)]
    with served(capture.registry) as registry:
        with running_front(tmp_path) as front:
            settings = with_local_addresses(Settings(clickhouse=Clickhouse(port=front.port, registry_url=registry)))
            sink = AnalyticsSink(settings)
            bench = Bench(sink, capture, None, settings)  # type: ignore[arg-type]
            await sink.open()
            await bench.write(bench.record("orders", "c", after=rows[0]))
            front.process.kill()
            front.process.wait()
        later = [bench.record("orders", "c", after=row) for row in rows[1:]]
        with pytest.raises(SinkUnavailable, match=f"ClickHouse at 127.0.0.1:{front.port}"):
            await sink.write(later)
        with running_front(tmp_path, port=front.port):
            await bench.write(*later)
            reader = clickhouse_connect.get_client(
                host="127.0.0.1", port=front.port, tz_mode="aware", database="downriver"
            )
            got = list(reader.query("SELECT * FROM orders ORDER BY toString(id)").named_results())
            assert got == [stored(row) for row in rows]
            await sink.close()
    with pytest.raises(SinkUnavailable):
        await AnalyticsSink(settings).open()


async def test_commit_time_falls_back_to_milliseconds(bench: Bench) -> None:
    at = COMMITTED + timedelta(days=40)
    await bench.write(bench.record("orders", "c", after=sample("orders"), committed_at=at, ts_us=None))
    assert [change["_committed_at"] for change in bench.history("orders")] == [at.replace(microsecond=123_000)]
