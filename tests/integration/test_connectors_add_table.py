"""A table joins a running lane under load: its rows come, nothing of the others is read again, nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import psycopg
import pytest

from connectors.files import load
from downriver.exits import Exit
from downriver.settings import Settings
from processors.change import Kind, TableId
from processors.tables.base import Class, Lane, Table
from tests.integration.test_connectors_reread import PRODUCTS, changes
from tests.support.commands import Commands
from tests.support.lane import OwnLane, own_lane, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
PRODUCTS_ROWS = 50
ROWS = 300
MAKE = "CREATE TABLE coupons (id int PRIMARY KEY, worth int NOT NULL, holder text)"
COUPONS = Table(
    TableId("public", "coupons"),
    Lane.CATALOG,
    ("id",),
    {"id": Class.INTERNAL, "worth": Class.INTERNAL, "holder": Class.RESTRICTED},
    (),
)


@pytest.fixture
def lane(settings: Settings, tmp_path: Path) -> Iterator[OwnLane]:
    with own_lane(settings) as made:
        file = tmp_path / f"{made.name}.json"
        file.write_bytes(
            orjson.dumps({"name": made.name, "config": dict(made.connector.config)}, option=orjson.OPT_INDENT_2)
        )
        lane = replace(made, connector=load([file])[0])
        lane.products(PRODUCTS_ROWS)
        lane.start()
        yield lane


@pytest.fixture
def run(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch, lane.settings, [lane.connector])


def ready(lane: OwnLane) -> None:
    """Do what the migration of a new table does."""
    lane.execute("ALTER TABLE coupons REPLICA IDENTITY FULL")
    lane.execute(f'GRANT SELECT ON coupons TO "{lane.role}"')
    lane.execute(
        "CREATE TRIGGER coupons_refuse_truncate BEFORE TRUNCATE ON coupons"
        " FOR EACH STATEMENT EXECUTE FUNCTION shop_refuse_truncate()"
    )
    lane.execute("INSERT INTO coupons SELECT n, n, 'somebody' FROM generate_series(1, %s::int) n", ROWS)


@contextmanager
def writing(lane: OwnLane) -> Iterator[None]:
    """Update, insert and delete coupons, and update products, during the block."""
    stop = threading.Event()
    written = [0]

    def write() -> None:
        with psycopg.connect(lane.settings.postgres.dsn(), autocommit=True) as connection:
            while not stop.is_set():
                number = written[0]
                connection.execute("UPDATE coupons SET worth = worth + 1000 WHERE id = %s", [number * 7 % ROWS + 1])
                connection.execute("INSERT INTO coupons VALUES (%s, 0, 'x')", [10_000 + number])
                connection.execute("DELETE FROM coupons WHERE id = %s", [10_000 + number - 5])
                connection.execute(
                    "UPDATE products SET price = price + 1 WHERE sku = %s", [f"s{number % PRODUCTS_ROWS}"]
                )
                written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: written[0] > 20, "load")
        yield
    finally:
        stop.set()
        writer.join(30)


def test_a_table_that_is_not_ready_is_refused_and_a_dry_run_changes_nothing(lane: OwnLane, run: Commands) -> None:
    file = Path(lane.connector.origin)
    before = file.read_text()
    missing = run("add-table", "public.coupons", lane.name)
    assert (missing.code, "table public.coupons: does not exist" in missing.told) == (Exit.BAD_INPUT, True)
    lane.execute(MAKE)
    unready = run("add-table", "public.coupons", lane.name)
    assert unready.code == Exit.BAD_INPUT
    for told in ("REPLICA IDENTITY FULL", f"GRANT SELECT ON public.coupons TO {lane.role}", "TRUNCATE"):
        assert told in unready.told, unready.told
    assert file.read_text() == before
    ready(lane)
    dry = run("add-table", "public.coupons", lane.name, "--exclude", "holder", "--dry-run")
    assert (dry.code, "ADD TABLE public.coupons" in dry.told, file.read_text()) == (0, True, before)


def test_a_table_joins_under_load(lane: OwnLane, run: Commands) -> None:
    file = Path(lane.connector.origin)
    lines = file.read_text().count("\n")
    lane.execute(MAKE)
    ready(lane)
    with writing(lane):
        ran = run(
            "add-table", "public.coupons", lane.name, "--exclude", "holder", "--rate", "0", "--mib", "0", "-o", "json"
        )
    assert ran.code == 0, ran.told
    assert ran.document[0]["captured"] == "yes"
    again = run("add-table", "public.coupons", lane.name, "--exclude", "holder", "-o", "json")
    assert again.code == 0, "twice is the same as once; and all that was written before is captured by its end"
    every_coupon_arrived(lane)
    products_were_not_disturbed(lane)
    document = orjson.loads(file.read_bytes())["config"]
    assert document["table.include.list"] == "public.products,public.reviews,public.coupons,public.downriver_heartbeat"
    assert document["column.exclude.list"] == "public.coupons.holder"
    with lane.client() as client:
        assert client.config(lane.name) == document
    assert file.read_text().count("\n") == lines + 1, "the file's layout stays"


def every_coupon_arrived(lane: OwnLane) -> None:
    """The newest version of each key is what the source holds, and none came as a snapshot's row."""
    found = changes(lane, COUPONS)
    newest: dict[int, tuple[int, int | None]] = {}
    for change in found:
        key = int(change.key["id"])
        worth = change.after["worth"] if change.after else None
        if change.version > newest.get(key, (0, None))[0]:
            newest[key] = (change.version, worth)
        assert "holder" not in (change.after or {})
    present = dict(lane.execute("SELECT id, worth FROM coupons"))
    assert {key: worth for key, (_, worth) in newest.items() if worth is not None} == present
    assert all(change.origin.kind is not Kind.SNAPSHOT for change in found)


def products_were_not_disturbed(lane: OwnLane) -> None:
    """The other table was not read again, and none of its changes is missing."""
    products = changes(lane, PRODUCTS)
    snapshot = [change for change in products if change.origin.kind is Kind.SNAPSHOT]
    assert len(snapshot) == PRODUCTS_ROWS, "the other tables were not read again"
    by_sku = {
        change.after["sku"]: change.after["price"]
        for change in sorted(products, key=lambda c: c.version)
        if change.after
    }
    assert by_sku == dict(lane.execute("SELECT sku, price FROM products"))


def test_a_file_that_differs_in_more_is_refused(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(lane.connector, config=dict(lane.connector.config) | {"poll.interval.ms": "77"})
    run = Commands(monkeypatch, lane.settings, [other])
    lane.execute("CREATE TABLE coupons (id int PRIMARY KEY)")
    refused = run("add-table", "public.coupons", lane.name)
    assert refused.code == Exit.BAD_INPUT
    assert "poll.interval.ms: is '20' on Kafka Connect and '77' in the file" in refused.told
    assert "downriver connectors plan" in refused.told
