"""Re-reads on the real servers: what arrives, how fast, beside an application that writes, and after a hard end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from connectors import reread, source
from connectors.reread import Pace, Run
from downriver.exits import BadInput, Exit
from downriver.settings import Settings
from processors.change import Change, Kind
from processors.decode import Decoder
from processors.tables import TABLES
from processors.tables.base import Table
from schemas.registry import SchemaRegistry
from tests.support.captured import CapturedShop
from tests.support.commands import Commands
from tests.support.lane import OwnLane, own_lane, until
from tests.support.pipeline import environment

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
ROWS = 400
(PRODUCTS,) = [table for table in TABLES if table.id.name == "products"]
FAST = ("--rate", "0", "--mib", "0")


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with own_lane(settings) as lane:
        lane.products(ROWS)
        lane.start()
        yield lane


@pytest.fixture
def run(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch, lane.settings, [lane.connector])


def changes(lane: OwnLane, count: int, table: Table = PRODUCTS) -> list[Change]:
    """Return what the table's topic holds once there are as many records, each partition in order."""
    registry = SchemaRegistry(lane.settings.registry)
    decoder = Decoder(registry, lane.settings.source, lane.settings.epoch, [table])
    records = CapturedShop(lane.settings).records(table, lambda read: len(read) >= count)
    found = []
    for record in records:
        checked = decoder.check(record)
        assert checked is not None
        found.append(decoder.decode(checked))
    return found


def prices(lane: OwnLane) -> dict[str, Decimal]:
    return {str(key): price for key, price in lane.execute("SELECT id, price FROM products")}


def latest(found: list[Change]) -> dict[str, Any]:
    """Return each row's newest values by version, which is how sinks choose."""
    newest: dict[str, Change] = {}
    for change in found:
        key = str(change.key["id"])
        if key not in newest or change.version > newest[key].version:
            newest[key] = change
    return {key: change.after["price"] for key, change in newest.items() if change.after}


def test_rows_come_again_as_updates_with_a_place_of_their_own(lane: OwnLane, run: Commands) -> None:
    before = lane.execute("SELECT id, name, price, updated_at FROM products ORDER BY id")
    ran = run("reread", "public.products", *FAST, "--batch", "70", "-o", "json")
    assert ran.code == 0, ran.told
    (told,) = ran.document
    assert (told["state"], told["rows"], told["put_off"], told["captured"]) == ("done", ROWS, 0, "yes")
    assert lane.execute("SELECT id, name, price, updated_at FROM products ORDER BY id") == before
    found = changes(lane, 2 * ROWS)
    assert len(found) == 2 * ROWS
    again = [change for change in found if change.origin.kind is Kind.REPAIR]
    assert len(again) == ROWS
    assert {str(change.key["id"]) for change in again} == set(prices(lane))
    assert len({change.version for change in again}) == ROWS
    assert all(change.version > 0 and change.before == change.after for change in again)
    assert latest(found) == prices(lane)
    assert run("reread", "--status", "-o", "json").document[0]["state"] == "done"


def test_a_condition_chooses_rows(lane: OwnLane, run: Commands) -> None:
    ran = run("reread", "public.products", "--where", "t.sku LIKE 's1%' -- the first", *FAST, "-o", "json")
    expected = lane.execute("SELECT count(*) FROM products WHERE starts_with(sku, 's1')")[0][0]
    assert (ran.code, ran.document[0]["rows"]) == (0, expected)
    for wrong in ("nothing = 1", "true); DELETE FROM products; --", "price = 'x'"):
        refused = run("reread", "public.products", "--where", wrong)
        assert refused.code == Exit.BAD_INPUT, refused
        assert "can't be used" in refused.told
    assert lane.execute("SELECT count(*) FROM products")[0][0] == ROWS


def test_what_is_locked_is_put_off_and_comes_at_the_end(lane: OwnLane, run: Commands) -> None:
    before = len(changes(lane, 1))
    done: list[Any] = []
    with psycopg.connect(lane.settings.postgres.dsn()) as holder:
        holder.execute("SELECT FROM products WHERE sku IN ('s7', 's8') FOR UPDATE")
        worker = threading.Thread(
            target=lambda: done.append(run("reread", "public.products", *FAST, "--restart", "-o", "json"))
        )
        worker.start()
        until(
            lambda: (
                [row[0] for row in lane.execute("SELECT done FROM downriver_reread WHERE filter = ''")] == [ROWS - 2]
            ),
            "all but two",
        )
        holder.execute("UPDATE products SET price = 77 WHERE sku = 's7'")
    worker.join(60)
    (ran,) = done
    assert (ran.code, ran.document[0]["rows"]) == (0, ROWS)
    found = changes(lane, before + ROWS + 1)
    assert latest(found) == prices(lane)
    assert prices(lane)[str(lane.execute("SELECT id FROM products WHERE sku = 's7'")[0][0])] == Decimal(77)


def test_beside_an_application_that_writes_the_newest_value_wins(lane: OwnLane, run: Commands) -> None:
    stop = threading.Event()
    written = [0]

    def write() -> None:
        with psycopg.connect(lane.settings.postgres.dsn(), autocommit=True) as connection:
            while not stop.is_set():
                number = written[0] * 37 % ROWS
                connection.execute(
                    "UPDATE products SET price = price + 1 WHERE sku IN (%s, %s)",
                    [f"s{number}", f"s{ROWS - 1 - number}"],
                )
                written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        ran = run("reread", "public.products", *FAST, "--batch", "20", "--restart", "-o", "json")
    finally:
        stop.set()
        writer.join(30)
    assert ran.code == 0, ran.told
    assert written[0] > 10
    assert (
        run("reread", "public.products", *FAST, "--where", "t.sku = 's0'").code == 0
    )  # all that was before it is captured
    count = 0

    def settled() -> bool:
        nonlocal count
        now = len(changes(lane, 1))
        same, count = now == count, now
        return same

    until(settled, "the topic grows no more")
    assert latest(changes(lane, count)) == prices(lane)


def test_the_rate_is_bounded(lane: OwnLane) -> None:
    """By a clock of the test's own, which every wait moves on."""
    now = [0.0]
    with reread.session(lane.settings, lane.connector) as connection:
        reread.forget(connection, "public.products")
        running = Run(connection, lane.settings, lane.connector, reread.target(connection, "public.products"), "")
        waited: list[float] = []

        def wait(seconds: float, _: Any) -> None:
            waited.append(seconds)
            now[0] += seconds

        running._wait = wait  # type: ignore[method-assign]
        done = running.run(Pace(100, 0, 50, 0), lambda _: None, clock=lambda: now[0])
    assert (done.done, done.state) == (ROWS, "done")
    assert now[0] == pytest.approx(ROWS / 100)


def test_after_a_hard_end_it_goes_on_where_it_was(lane: OwnLane, run: Commands) -> None:
    with source.connected(lane.settings, lane.connector) as connection:
        reread.forget(connection, "public.products")
    own = os.environ | environment(lane.settings) | {"DOWNRIVER_POSTGRES__CAPTURE_USER": lane.role}
    command = [sys.executable, "-m", "downriver.cli", "connectors", "reread", "public.products"]
    process = subprocess.Popen(
        [*command, "--connector", lane.name, "--rate", "100", "--batch", "10"],
        env=own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def done() -> int:
        rows = lane.execute("SELECT done FROM downriver_reread WHERE filter = ''")
        return int(rows[0][0]) if rows else 0

    try:
        until(lambda: done() >= 30, "some rows")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    kept = done()
    assert 30 <= kept < ROWS
    until(lambda: run("reread", "--status", "-o", "json").document[0]["state"] == "interrupted", "the end is noticed")
    ran = run("reread", "public.products", *FAST, "-o", "json")
    assert (ran.code, ran.document[0]["rows"]) == (0, ROWS), "no row twice, none left out"
    assert f"goes on after {kept} rows" in ran.told


def test_pause_and_going_on(lane: OwnLane, run: Commands) -> None:
    assert run("reread", "public.products", "--pause").code == Exit.FAILED
    with source.connected(lane.settings, lane.connector) as connection:
        reread.forget(connection, "public.products")
    done: list[Any] = []
    worker = threading.Thread(
        target=lambda: done.append(run("reread", "public.products", "--rate", "50", "--batch", "10", "-o", "json"))
    )
    worker.start()

    def begun() -> bool:
        rows = lane.execute("SELECT done FROM downriver_reread WHERE filter = ''")
        return bool(rows and rows[0][0] >= 10)

    until(begun, "some rows")
    with (
        pytest.raises(Exception, match="another re-read of this source runs"),
        reread.session(lane.settings, lane.connector),
    ):
        pass
    with source.connected(lane.settings, lane.connector) as connection:
        assert reread.ask_for_pause(connection, "public.products") == 1
    worker.join(30)
    (paused,) = done
    assert (paused.code, paused.document[0]["state"]) == (Exit.FAILED, "paused")
    assert "downriver connectors reread public.products" in paused.told
    rest = run("reread", "public.products", *FAST, "-o", "json")
    assert (rest.code, rest.document[0]["rows"]) == (0, ROWS)


def test_what_can_not_be_read_again_is_refused(lane: OwnLane, run: Commands) -> None:
    unknown = run("reread", "public.nothing")
    assert (unknown.code, "no connector captures" in unknown.told) == (Exit.BAD_INPUT, True)
    assert "public.products" in unknown.told
    lane.execute("ALTER TABLE reviews REPLICA IDENTITY DEFAULT")
    try:
        refused = run("reread", "public.reviews")
        assert (refused.code, "ALTER TABLE public.reviews REPLICA IDENTITY FULL" in refused.told) == (
            Exit.BAD_INPUT,
            True,
        )
    finally:
        lane.execute("ALTER TABLE reviews REPLICA IDENTITY FULL")
    poor = lane.settings.model_copy(update={"postgres": lane.settings.postgres.model_copy(update={"user": lane.role})})
    with (
        pytest.raises(BadInput, match="GRANT EXECUTE ON FUNCTION pg_replication_origin_session_setup"),
        reread.session(poor, lane.connector),
    ):
        pass
