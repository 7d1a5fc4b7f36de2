"""The guard on the real servers: what it restarts, what it leaves alone and says, what it remembers, what it stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from connectors import memory, transition
from connectors.guard import Event, Guard, Kind, Limits
from connectors.health import Remembered
from downriver.exits import Exit
from downriver.settings import Settings
from schemas.registry import SchemaRegistry
from tests.support.commands import Commands
from tests.support.lane import OwnLane, own_lane, until
from tests.support.planning import read

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with own_lane(settings) as lane:
        lane.products(5)
        lane.start()
        yield lane


@pytest.fixture
def run(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch, lane.settings, [lane.connector])


def guard(lane: OwnLane, limits: Limits | None = None) -> Guard:
    return Guard(lane.settings, [lane.name], {}, limits or Limits(pause_s=0.1))


def looked(watching: Guard, wanted: Kind, rule: str = "") -> list[Event]:
    """Look until there is such an event; return all that were heard."""
    heard: list[Event] = []

    def there() -> bool:
        heard.extend(watching.look())
        return any(event.kind is wanted and rule in event.rule for event in heard)

    until(there, heard, 40)
    return heard


def kinds(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.kind.value, event.rule) for event in events]


def healthy(watching: Guard) -> None:
    def well() -> bool:
        watching.look()
        return all(health.ok and health.state == "RUNNING" for health in watching.healths)

    until(well, [health.problems for health in watching.healths], 40)


def test_a_task_that_lost_its_access_is_restarted_when_connect_gets_in_again(lane: OwnLane) -> None:
    watching = guard(lane)
    healthy(watching)
    lane.cut()
    heard = looked(watching, Kind.PROBLEM, "access")
    assert "not permitted to log in" in next(event.text for event in heard if event.rule == "access")
    for _ in range(5):
        assert Kind.RESTARTED not in {event.kind for event in watching.look()}, "it would fail the same way"
    lane.mend()
    heard = looked(watching, Kind.SOLVED, "access")
    assert kinds(heard)[:2] == [("restarted", "access"), ("solved", "access")]
    healthy(watching)


def test_restarts_are_bounded(lane: OwnLane) -> None:
    """A transform that no product survives: nothing is known against a restart, and none helps."""
    config = dict(lane.connector.config) | {
        "transforms": f"{lane.connector.config['transforms']},broken",
        "transforms.broken.type": "org.apache.kafka.connect.transforms.ValueToKey",
        "transforms.broken.fields": "nothing",
        "transforms.broken.predicate": "products",
    }
    watching = guard(lane, Limits(restarts=2, pause_s=1.0))
    healthy(watching)
    with lane.client() as client:
        transition.stop(client, lane.name)  # or the old task takes what the new one is to fail at
        client.put(lane.name, config)
        client.resume(lane.name)
    try:
        lane.products(3, first=1000)
        heard = looked(watching, Kind.GAVE_UP)
        assert [event.text.partition(":")[0] for event in heard if event.kind is Kind.RESTARTED] == [
            "restart 1 of 2",
            "restart 2 of 2",
        ]
        assert Kind.RESTARTED not in {event.kind for _ in range(5) for event in watching.look()}
    finally:
        with lane.client() as client:
            client.put(lane.name, lane.connector.config)
            client.restart(lane.name, only_failed=False)
    healthy(watching)


def test_a_slot_dropped_by_hand_stays_told_until_it_is_accepted(lane: OwnLane, run: Commands) -> None:
    watching = guard(lane)
    healthy(watching)
    lane.drop_slot()
    heard = looked(watching, Kind.PROBLEM, "slot-missing")
    (lost,) = [event for event in heard if event.rule == "slot-missing"]
    assert lost.text.startswith(f"changes may be lost: slot {lane.name} does not exist")
    assert f"`downriver connectors offsets reset {lane.name} --drop-slot`" in lost.way_out
    for _ in range(3):
        assert Kind.RESTARTED not in {event.kind for event in watching.look()}
    assert run("guard", lane.name, "--once").code == Exit.FAILED
    run("stop", lane.name)
    run("offsets", "reset", lane.name, "--drop-slot", "--yes")
    assert run("resume", lane.name).code == 0
    until(lambda: run("status", "-o", "json").document[0]["connect_state"] == "RUNNING", "runs")
    (after,) = run("status", "-o", "json").document
    assert (after["ok"], after["state"]) == (False, "LOST"), "it runs, and what was lost is not forgotten"
    assert "slot-missing" in {problem["rule"] for problem in after["problems"]}
    fresh = guard(lane)
    assert ("problem", "slot-missing") in kinds(fresh.look()), "another guard knows it too"
    accepted = run("guard", lane.name, "--accept", "-o", "json")
    assert "slot-missing" in accepted.document[lane.name]["lost"]
    until(lambda: run("status", "-o", "json").code == 0, "healthy once accepted")


def test_a_schema_that_the_registry_refuses_is_told_and_not_restarted(lane: OwnLane, run: Commands) -> None:
    """Why captured subjects have the level NONE; one with another level stops its whole lane."""
    registry = SchemaRegistry(lane.settings.registry)
    subject = f"{lane.name}.public.products-value"
    watching = guard(lane)
    healthy(watching)
    registry.set_level("BACKWARD", subject)
    try:
        lane.execute("ALTER TABLE products ADD COLUMN needed int NOT NULL DEFAULT 1")
        lane.execute("ALTER TABLE products ALTER needed DROP DEFAULT, ALTER needed TYPE text")
        lane.execute(
            "INSERT INTO products (id, sku, name, category, price, needed) VALUES (gen_random_uuid(), 'r', 'r', 'r', 1, 'x')"
        )
        heard = looked(watching, Kind.PROBLEM, "registry-refused")
        (refused,) = [event for event in heard if event.rule == "registry-refused"]
        assert "the registry refuses the new schema" in refused.way_out
        assert Kind.RESTARTED not in {event.kind for _ in range(5) for event in watching.look()}
        told = run("status", "-o", "json")
        assert (told.code, told.document[0]["state"]) == (Exit.FAILED, "FAILED")
        registry.set_level("NONE", subject)  # the way out: the lane goes on where it stopped
        assert run("restart", lane.name).code == 0
        healthy(watching)
    finally:
        registry.set_level("NONE", subject)
        registry.close()
        lane.execute("ALTER TABLE products DROP COLUMN IF EXISTS needed")


@contextmanager
def begun_anew(lane: OwnLane, run: Commands) -> Iterator[None]:
    """Give the lane a slot and a position again, whatever state a test left it in: others use it after that."""
    try:
        yield
    finally:
        assert run("stop", lane.name).code == 0
        assert run("offsets", "reset", lane.name, "--drop-slot", "--yes").code == 0
        assert run("resume", lane.name).code == 0
        assert run("guard", lane.name, "--accept").code == 0
    healthy(guard(lane))


def moved(lane: OwnLane, run: Commands, sku: int, *, restart: bool) -> None:
    """Stop the connector, commit a product, move the slot past it; the guard and `status` tell it.

    Args:
        restart: until restart_lsn is past the product as well.
    """
    watching = guard(lane)
    healthy(watching)
    assert run("stop", lane.name).code == 0
    lane.products(1, first=sku)
    ((position,),) = lane.execute("SELECT pg_current_wal_insert_lsn()::text")

    def advanced() -> bool:
        """A standby snapshot is where restart_lsn may go, unless anybody's transaction is open at that moment."""
        lane.execute("SELECT pg_log_standby_snapshot()")  # PostgreSQL writes one every 15 s
        lane.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_insert_lsn())", lane.name)
        query = "SELECT restart_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        return lane.execute(query, position, lane.name) == [(True,)]

    if restart:
        until(advanced, "the slot's restart_lsn is past the product")
    else:
        assert not advanced(), "a transaction is open"
    (ahead,) = [event for event in looked(watching, Kind.PROBLEM, "slot-ahead") if event.rule == "slot-ahead"]
    assert ahead.text.startswith("changes may be lost")
    assert "offsets reset" in ahead.way_out
    blocked = run("status", "-o", "json")
    assert (blocked.code, blocked.document[0]["state"]) == (Exit.FAILED, "LOST")


def test_a_slot_that_somebody_moved_goes_on_in_silence_where_a_transaction_was_open(
    lane: OwnLane, run: Commands
) -> None:
    """Debezium 3.7 compares its position with restart_lsn, trust_offset or not, and that stays before an open transaction."""
    with begun_anew(lane, run), psycopg.connect(lane.settings.postgres.dsn()) as writer:
        writer.execute("UPDATE products SET name = 'open' WHERE sku = 's0'")
        moved(lane, run, 9_000, restart=False)
        assert run("resume", lane.name).code == 0
        lane.products(1, first=9_001)
        skus = {sku for _, sku in read(lane, lambda found: "s9001" in {sku for _, sku in found})}
        assert "s9000" not in skus, "what was committed in between never comes"
        assert run("status", "-o", "json").document[0]["state"] == "LOST", "and the loss stays told"
        writer.rollback()


def test_a_slot_that_somebody_moved_is_refused_where_none_was_open(lane: OwnLane, run: Commands) -> None:
    with begun_anew(lane, run):
        moved(lane, run, 9_100, restart=True)
        assert run("resume", lane.name).code == Exit.FAILED
        (after,) = run("status", "-o", "json").document
        assert after["state"] == "LOST"
        assert {problem["rule"] for problem in after["problems"]} & {"slot-ahead", "slot-unusable"}
        watching = guard(lane)
        assert Kind.RESTARTED not in {event.kind for _ in range(5) for event in watching.look()}


def test_a_slot_made_again_behind_everybodys_back_is_noticed(lane: OwnLane) -> None:
    """Its count of transactions is below the one remembered; here the memory is what was changed."""
    watching = guard(lane)
    healthy(watching)
    watching.close()
    known = memory.recall(lane.settings)[lane.name]
    assert known.transactions is not None
    memory.remember(lane.settings, {lane.name: replace(known, transactions=known.transactions + 1_000_000)})
    assert ("problem", "slot-made-again") in kinds(guard(lane).look())
    memory.remember(lane.settings, {lane.name: None})


def test_a_second_snapshot_is_noticed(lane: OwnLane) -> None:
    """A stream that had streamed, and whose stored position a snapshot writes again."""
    watching = guard(lane)
    healthy(watching)
    watching.close()
    assert memory.recall(lane.settings)[lane.name] != Remembered()
    lane.products(60_000, first=100_000)
    with lane.client() as client:
        client.stop(lane.name)
        until(lambda: lane.state() == {"STOPPED"}, "stopped")
        client.reset_offsets(lane.name)
        client.resume(lane.name)
    heard = looked(watching, Kind.PROBLEM, "second-snapshot")
    assert "a second snapshot" in next(event.text for event in heard if event.rule == "second-snapshot")
