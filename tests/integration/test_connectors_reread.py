"""Re-reads on the real servers: what arrives, how fast, beside an application that writes, and after a hard end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from connectors import repair, reread, reread_command, source
from connectors.reread import Pace, Progress, Run
from downriver.exits import BadInput, Exit
from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.change import Change, Kind
from processors.decode import Decoder
from processors.tables import TABLES
from processors.tables.base import Table
from schemas.registry import SchemaRegistry
from tests.support.avro import Record
from tests.support.commands import Commands, Ran
from tests.support.lane import OwnLane, own_lane, until
from tests.support.pipeline import environment

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
ROWS = 400
(PRODUCTS,) = [table for table in TABLES if table.id.name == "products"]
FAST = ("--rate", "0", "--mib", "0")


def emitted(lane: OwnLane, pace: Pace) -> Progress:
    """Re-read the products in this thread, without the command line, which knows one thread only."""
    with repair.session(lane.settings, lane.connector) as connection:
        target = repair.target(connection, "public.products")
        return Run(connection, lane.settings, lane.connector, target, "").run(pace, lambda _: None)


def forget(lane: OwnLane) -> None:
    with repair.session(lane.settings, lane.connector) as connection:
        reread.forget(connection, "public.products")


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with own_lane(settings) as lane:
        lane.products(ROWS)
        lane.start()
        yield lane


@pytest.fixture
def run(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    commands = Commands(monkeypatch, lane.settings, [lane.connector])
    return lambda *arguments: commands(*arguments, "--connector", lane.name)


def changes(lane: OwnLane, table: Table = PRODUCTS) -> list[Change]:
    """Return all that the table's topic holds now, each partition in order."""
    decoder = Decoder(
        lane.settings.source, lane.settings.epoch, [table], SchemaRegistry(lane.settings.registry), 1 << 24
    )
    topic = table.topic(lane.settings.source)
    consumer = Consumer(confluent_config(lane.settings.kafka) | {"group.id": lane.settings.source})
    found = []
    try:
        ends = {}
        for number in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            _, ends[number] = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
        consumer.assign([TopicPartition(topic, number, 0) for number, end in ends.items() if end])
        left = sum(ends.values())
        give_up_at = time.monotonic() + 30
        while left > 0:
            assert time.monotonic() < give_up_at, f"{left} records of {topic} don't come"
            for message in consumer.consume(500, timeout=0.2):
                if message.offset() >= ends[message.partition()]:
                    continue
                left -= 1
                place = (message.topic(), message.partition(), message.offset(), message.timestamp()[1])
                checked = decoder.check(Record(*place, message.key(), message.value()))
                if checked is not None:
                    found.append(decoder.change(checked, decoder.stamp(checked)))
    finally:
        consumer.close()
    return found


def captured(lane: OwnLane) -> None:
    """Wait until Kafka has everything that was committed before."""
    with source.connected(lane.settings, lane.connector) as connection:
        position = source.wal_lsn(connection)
    with lane.client() as client:
        assert reread_command.reached(client, lane.connector, position, 30)


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


def test_rows_come_again_as_updates_with_a_place_of_their_own(lane: OwnLane, run: Callable[..., Ran]) -> None:
    before = lane.execute("SELECT id, name, price, updated_at FROM products ORDER BY id")
    ran = run("reread", "public.products", *FAST, "--batch", "70", "-o", "json")
    assert ran.code == 0, ran.told
    (told,) = ran.document
    assert (told["state"], told["rows"], told["put_off"], told["captured"]) == ("done", ROWS, 0, "yes")
    assert lane.execute("SELECT id, name, price, updated_at FROM products ORDER BY id") == before
    found = changes(lane)
    assert len(found) == 2 * ROWS
    again = [change for change in found if change.origin.kind is Kind.REPAIR]
    assert len(again) == ROWS
    assert {str(change.key["id"]) for change in again} == set(prices(lane))
    assert len({change.version for change in again}) == ROWS
    assert all(change.version > 0 and change.before == change.after for change in again)
    assert latest(found) == prices(lane)
    assert run("reread", "--status", "-o", "json").document[0]["state"] == "done"


def test_a_condition_chooses_rows(lane: OwnLane, run: Callable[..., Ran]) -> None:
    ran = run("reread", "public.products", "--where", "t.sku LIKE 's1%' -- the first", *FAST, "-o", "json")
    expected = lane.execute("SELECT count(*) FROM products WHERE starts_with(sku, 's1')")[0][0]
    assert (ran.code, ran.document[0]["rows"]) == (0, expected)
    for wrong in ("nothing = 1", "true); DELETE FROM products; --", "price = 'x'"):
        refused = run("reread", "public.products", "--where", wrong)
        assert refused.code == Exit.BAD_INPUT, refused
        assert "can't be used" in refused.told
    assert lane.execute("SELECT count(*) FROM products")[0][0] == ROWS


def test_what_is_locked_is_put_off_and_comes_at_the_end(lane: OwnLane) -> None:
    forget(lane)
    done: list[Progress] = []
    with psycopg.connect(lane.settings.postgres.dsn()) as holder:
        holder.execute("SELECT FROM products WHERE sku IN ('s7', 's8') FOR UPDATE")
        worker = threading.Thread(target=lambda: done.append(emitted(lane, Pace(0, 0))))
        worker.start()
        until(
            lambda: (
                [row[0] for row in lane.execute("SELECT done FROM downriver_reread WHERE filter = ''")] == [ROWS - 2]
            ),
            "all but two",
        )
        holder.execute("UPDATE products SET price = 77 WHERE sku = 's7'")
    worker.join(60)
    assert [(each.state, each.done, each.skipped, each.locked) for each in done] == [("done", ROWS, (), 0)]
    captured(lane)
    assert latest(changes(lane)) == prices(lane)
    assert prices(lane)[str(lane.execute("SELECT id FROM products WHERE sku = 's7'")[0][0])] == Decimal(77)


def test_beside_an_application_that_writes_the_newest_value_wins(lane: OwnLane, run: Callable[..., Ran]) -> None:
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
    captured(lane)
    assert latest(changes(lane)) == prices(lane)


def test_the_rate_is_bounded(lane: OwnLane) -> None:
    """By a clock of the test's own, which every wait moves on."""
    now = [0.0]
    with repair.session(lane.settings, lane.connector) as connection:
        reread.forget(connection, "public.products")
        running = Run(connection, lane.settings, lane.connector, repair.target(connection, "public.products"), "")
        waited: list[float] = []

        def wait(seconds: float, _: Any) -> None:
            waited.append(seconds)
            now[0] += seconds

        running._wait = wait  # type: ignore[method-assign, assignment]
        done = running.run(Pace(100, 0, 50, 0), lambda _: None, clock=lambda: now[0])
    assert (done.done, done.state) == (ROWS, "done")
    assert now[0] == pytest.approx(ROWS / 100)


def test_after_a_hard_end_it_goes_on_where_it_was(lane: OwnLane, run: Callable[..., Ran]) -> None:
    forget(lane)
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


def test_pause_and_going_on(lane: OwnLane, run: Callable[..., Ran]) -> None:
    assert run("reread", "public.products", "--pause").code == Exit.FAILED
    forget(lane)
    done: list[Progress] = []
    worker = threading.Thread(target=lambda: done.append(emitted(lane, Pace(50, 0, 10))))
    worker.start()

    def begun() -> bool:
        rows = lane.execute("SELECT done FROM downriver_reread WHERE filter = ''")
        return bool(rows and rows[0][0] >= 10)

    until(begun, "some rows")
    with (
        pytest.raises(Exception, match="another re-read of this source runs"),
        repair.session(lane.settings, lane.connector),
    ):
        pass
    assert run("reread", "public.products", "--pause").code == 0
    worker.join(30)
    (paused,) = done
    assert paused.state == "paused"
    assert 0 < paused.done < ROWS
    assert run("reread", "--status", "-o", "json").document[0]["state"] == "paused"
    rest = run("reread", "public.products", *FAST, "-o", "json")
    assert (rest.code, rest.document[0]["rows"]) == (0, ROWS)


def test_what_can_not_be_read_again_is_refused(lane: OwnLane, run: Callable[..., Ran]) -> None:
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
        repair.session(poor, lane.connector),
    ):
        pass
