"""What only a source of one's own can lose: a standby that was promoted, a backup that was restored, WAL that ran out.

Of a source that is another one from now on the guard must stop the connector: its new changes could count as older than what
the sinks have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from connectors.guard import Event, Guard, Kind
from downriver.exits import Exit
from downriver.settings import Settings
from tests.support.commands import Commands
from tests.support.lane import OwnLane, own_lane, until
from tests.support.planning import changed, read
from tests.support.standby import OwnPostgres, ask, free_port, own_servers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Source:
    """A lane at a server of its own, which another may take the place of.

    Attributes:
        port: the address that the connector knows.
        other: an empty folder.
    """

    lane: OwnLane
    server: OwnPostgres
    other: OwnPostgres
    port: int

    def guard(self) -> Guard:
        return Guard(self.lane.settings, [self.lane.name])

    def flows(self) -> None:
        """Wait until the guard finds nothing wrong, and keep what it knows."""
        watching = self.guard()

        def well() -> bool:
            watching.look()
            return all(health.ok and health.state == "RUNNING" for health in watching.healths)

        until(well, [health.problems for health in watching.healths])
        watching.close()

    def arrived(self, count: int) -> None:
        """Wait until Kafka has the first `count` products, and no other."""
        wanted = {f"s{number}" for number in range(count)}
        found = read(self.lane, lambda seen: len({sku for _, sku in seen}) >= count)
        assert {sku for _, sku in found} == wanted

    def stopped(self) -> Event:
        """Let a guard look until it has stopped the connector; return what it said."""
        watching, heard = self.guard(), list[Event]()

        def there() -> bool:
            heard.extend(watching.look())
            return any(event.kind is Kind.STOPPED for event in heard)

        until(there, heard, 90)
        watching.close()
        until(lambda: self.lane.state() == {"STOPPED"}, "stopped")
        return next(event for event in heard if event.kind is Kind.STOPPED)


@contextmanager
def source_of_its_own(settings: Settings, folder: Path) -> Iterator[Source]:
    port = free_port()
    with own_servers(folder, "one", "two") as (server, other):
        server.start(port)
        there = settings.postgres.model_copy(update={"host": "127.0.0.1", "port": port})
        with own_lane(settings.model_copy(update={"postgres": there})) as made:
            own = {"database__hostname": "127.0.0.1", "database__port": str(port), "slot__failover": "true"}
            lane = replace(made, connector=changed(made.connector, **own))
            lane.products(5)
            lane.start()
            yield Source(lane, server, other, port)


@pytest.fixture
def source(settings: Settings, tmp_path: Path) -> Iterator[Source]:
    with source_of_its_own(settings, tmp_path) as made:
        made.flows()
        yield made


@pytest.fixture
def run(source: Source, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch, source.lane.settings, [source.lane.connector])


def test_a_promoted_standby_stops_the_connector_and_goes_on_once_accepted(source: Source, run: Commands) -> None:
    lane, spare = source.lane, free_port()
    source.server.copy_to(source.other, source.port, "--write-recovery-conf", "--create-slot", "--slot", "standby")
    source.other.configure("sync_replication_slots = on\nhot_standby_feedback = on\n")
    source.other.start(spare)
    synced = "SELECT true FROM pg_replication_slots WHERE slot_name = %s AND synced AND NOT temporary"
    until(lambda: bool(ask(spare, synced, lane.name)), "the slot is there after a failover, too", 90)
    lane.products(5, first=5)
    source.flows()
    source.server.stop()
    ask(spare, "SELECT pg_promote()")
    source.other.stop()
    source.other.start(source.port)  # as when a name or an address moves to the new primary
    lane.products(5, first=10)
    source.arrived(15)  # it goes on there by itself: nobody but a guard would hear of it
    event = source.stopped()
    assert (event.rule, "timeline 2, it was 1" in event.text, "DOWNRIVER_EPOCH" in event.way_out) == (
        "source-promoted",
        True,
        True,
    ), event
    told = run("status", "-o", "json")
    assert (told.code, told.document[0]["state"]) == (Exit.FAILED, "LOST")
    lane.products(5, first=15)
    assert run("guard", lane.name, "--accept").code == 0
    assert run("resume", lane.name).code == 0
    until(lambda: run("status", "-o", "json").code == 0, "healthy once accepted")
    source.arrived(20)
    source.flows()


def test_a_restored_backup_stops_the_connector(source: Source, run: Commands) -> None:
    lane = source.lane
    source.server.copy_to(source.other, source.port)
    lane.products(3000, first=5)
    source.flows()
    source.server.stop()
    source.other.start(source.port)
    assert lane.execute("SELECT count(*) FROM products") == [(5,)]
    event = source.stopped()
    assert event.rule == "source-restored", event
    assert "DOWNRIVER_EPOCH" in event.way_out
    told = run("status", "-o", "json")
    assert told.code == Exit.FAILED
    assert {"source-restored", "slot-missing"} <= {each["rule"] for each in told.document[0]["problems"]}


def test_wal_that_ran_out_is_a_lost_slot_with_a_way_out(source: Source, run: Commands) -> None:
    lane = source.lane
    assert run("stop", lane.name).code == 0
    lane.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    lane.execute("SELECT pg_reload_conf()")
    lane.products(10, first=5)

    def lost() -> bool:
        lane.execute("CREATE TABLE IF NOT EXISTS filling (n int)")
        lane.execute("INSERT INTO filling SELECT generate_series(1, 100000)")
        lane.execute("SELECT pg_switch_wal()")
        lane.execute("CHECKPOINT")
        return lane.execute("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", lane.name) == [
            ("lost",)
        ]

    until(lost, "PostgreSQL gives the slot up")
    told = run("status", "-o", "json")
    assert (told.code, told.document[0]["state"]) == (Exit.FAILED, "LOST")
    assert "slot-lost" in {each["rule"] for each in told.document[0]["problems"]}
    with lane.client() as client:
        client.resume(lane.name)  # it tries the slot for two minutes before it fails: nobody should wait for that
    watching = source.guard()
    heard = [event for _ in range(4) for event in watching.look()]
    watching.close()
    assert "slot-lost" in {event.rule for event in heard if event.kind is Kind.PROBLEM}
    assert Kind.RESTARTED not in {event.kind for event in heard}
    lane.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
    lane.execute("SELECT pg_reload_conf()")
    assert run("stop", lane.name).code == 0
    assert run("offsets", "reset", lane.name, "--drop-slot", "--yes").code == 0
    assert run("resume", lane.name).code == 0
    assert run("guard", lane.name, "--accept").code == 0
    until(lambda: run("status", "-o", "json").code == 0, "healthy once accepted")
    source.arrived(15)
