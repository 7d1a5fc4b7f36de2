"""Connectors in operation, on the real servers: what is told of them in each state, and what the verbs do.

One lane for all tests, in their order; each leaves it running, the last deletes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import psycopg
import pytest

from downriver.exits import Exit
from downriver.settings import Settings
from tests.support.commands import Commands
from tests.support.lane import OwnLane, own_lane, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
NAMED_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with own_lane(settings) as lane:
        lane.products(20)
        lane.start()
        yield lane


@pytest.fixture
def run(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(monkeypatch, lane.settings, [lane.connector])


def healthy(run: Commands) -> None:
    seen: list[object] = []

    def well() -> bool:
        ran = run("status", "-o", "json")
        seen[:] = [ran.document[0]["problems"] if ran.out else ran]
        return ran.code == 0

    until(well, seen, 40)


def test_a_connector_that_streams_is_healthy(lane: OwnLane, run: Commands) -> None:
    healthy(run)
    ran = run("status", "-o", "json")
    (told,) = ran.document
    assert (ran.code, told["connector"], told["ok"], told["state"], told["problems"]) == (
        0,
        lane.name,
        True,
        "RUNNING",
        [],
    )
    assert [task["state"] for task in told["tasks"]] == ["RUNNING"]
    assert f"{lane.name}.public.products" in told["topics"]
    assert told["offset"]["age_s"] < 15
    assert told["heartbeat_age_s"] < 15
    assert (told["slot"]["name"], told["slot"]["active"], told["slot"]["wal_status"]) == (lane.name, True, "reserved")
    assert told["slot"]["retained_bytes"] >= 0
    assert told["slot"]["safe_bytes"] > 0
    table = run("status")
    assert table.code == 0
    assert lane.name in table.out


def test_get_and_describe(lane: OwnLane, run: Commands) -> None:
    got = run("get", lane.name, "-o", "json")
    assert got.document["name"] == lane.name
    assert got.document["config"]["slot.name"] == lane.name
    assert got.document["config"]["database.password"] == lane.connector.config["database.password"]
    assert lane.name in run("get").out
    described = run("describe", lane.name, "-o", "json").document
    assert described["offsets"][0]["partition"] == {"server": lane.name}
    assert described["config"]["topic.prefix"] == lane.name
    assert lane.name in run("describe", lane.name).out
    missing = run("describe", f"{lane.name}x")
    assert missing.code == Exit.BAD_INPUT
    assert f"did you mean {lane.name}?" in missing.told


def test_access_that_is_cut_is_named_and_a_restart_heals_what_failed(lane: OwnLane, run: Commands) -> None:
    started = time.monotonic()
    lane.cut()
    try:
        until(lambda: run("status", "-o", "json").code == Exit.FAILED, "told", NAMED_WITHIN_S)
        until(lambda: "not permitted to" in run("status").out, "named", NAMED_WITHIN_S)
        assert time.monotonic() - started < NAMED_WITHIN_S
        (told,) = run("status", "-o", "json").document
        assert (told["state"], [problem["rule"] for problem in told["problems"]]) == ("FAILED", ["access"])
        assert f'role "{lane.role}" is not permitted to log in' in told["problems"][0]["text"]
        assert "preflight" in told["problems"][0]["way_out"]
    finally:
        lane.mend()
    ran = run("restart", lane.name, "-o", "json")
    assert ran.document == [{"connector": lane.name, "done": "restarted", "state": "RUNNING", "tasks": "RUNNING"}]
    healthy(run)
    assert run("restart", lane.name, "-o", "json").document[0]["done"] == "nothing failed"
    assert run("restart", lane.name, "--task", "7").code == Exit.BAD_INPUT


def test_running_and_nothing_moves_is_told_with_who_holds_it_up(lane: OwnLane, run: Commands) -> None:
    """Connect says RUNNING all the while."""
    with psycopg.connect(lane.settings.postgres.dsn(application_name="someone")) as holder:
        holder.execute("LOCK TABLE downriver_heartbeat IN ACCESS EXCLUSIVE MODE")
        pid = holder.info.backend_pid
        started = time.monotonic()

        def stalled() -> bool:
            (told,) = run("status", "-o", "json").document
            return bool(told["state"] == "STALLED")

        until(stalled, "stalled", NAMED_WITHIN_S)
        assert time.monotonic() - started < NAMED_WITHIN_S
        ran = run("status", "-o", "json")
        (told,) = ran.document
        assert (ran.code, told["connect_state"], told["tasks"][0]["state"]) == (Exit.FAILED, "RUNNING", "RUNNING")
        assert f"waits for a lock that process {pid} (someone) has held" in told["problems"][0]["text"]
    healthy(run)


def test_offsets_are_changed_only_while_stopped(lane: OwnLane, run: Commands, tmp_path: Path) -> None:
    for verb in (["set", lane.name, "-"], ["reset", lane.name]):
        refused = run("offsets", *verb, "--yes", stdin='{"offsets": [{"partition": {}, "offset": null}]}')
        assert refused.code == Exit.BAD_INPUT
        assert "only while it is STOPPED" in refused.told
        assert f"`downriver connectors stop {lane.name}`" in refused.told
    stopped = run("stop", lane.name, "-o", "json")
    assert stopped.document == [{"connector": lane.name, "done": "stopped", "state": "STOPPED", "tasks": "none"}]
    assert f"slot {lane.name} stays and holds" in stopped.told
    halted = run("status", "-o", "json")
    assert (halted.code, halted.document[0]["state"]) == (Exit.FAILED, "STOPPED")
    document = run("offsets", "get", lane.name, "-o", "json").document
    file = tmp_path / "offsets.json"
    for wrong, told in (
        ("[]", "it must be"),
        ("{", "is not JSON"),
        (orjson.dumps({"offsets": [{"partition": {"server": "x"}, "offset": {"lsn": 1}}]}), "is not"),
        (orjson.dumps({"offsets": [{"partition": {"server": lane.name}, "offset": {"lsn": "a"}}]}), "holds no LSN"),
    ):
        file.write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
        refused = run("offsets", "set", lane.name, str(file), "--yes")
        assert (refused.code, told in refused.told) == (Exit.BAD_INPUT, True), refused
    assert run("offsets", "get", lane.name, "-o", "json").document == document, "nothing was changed"
    ahead = orjson.loads(orjson.dumps(document))
    ahead["offsets"][0]["offset"]["lsn"] += 4096
    file.write_bytes(orjson.dumps(ahead))
    unasked = run("offsets", "set", lane.name, str(file))
    assert (unasked.code, "repeat it with --yes" in unasked.told) == (Exit.BAD_INPUT, True)
    assert "will not be captured" in unasked.told
    done = run("offsets", "set", lane.name, str(file), "--yes", "-o", "json")
    assert (done.code, done.document["after"]) == (0, ahead["offsets"])
    file.write_bytes(orjson.dumps(document))
    assert run("offsets", "set", lane.name, str(file), "--yes").code == 0
    assert run("resume", lane.name).code == 0
    healthy(run)


def test_pause_and_resume(lane: OwnLane, run: Commands) -> None:
    assert run("pause", lane.name, "-o", "json").document[0]["tasks"] == "PAUSED"
    (told,) = run("status", "-o", "json").document
    assert (told["state"], told["ok"], [each["rule"] for each in told["problems"]]) == ("PAUSED", False, ["paused"])
    assert run("resume", lane.name).code == 0
    healthy(run)


def test_a_slot_dropped_by_hand_and_the_way_out(lane: OwnLane, run: Commands) -> None:
    lane.drop_slot()
    told = run("status", "-o", "json")
    assert told.code == Exit.FAILED
    (health,) = told.document
    (problem, *_) = health["problems"]
    assert (health["state"], problem["rule"], problem["severity"]) == ("LOST", "slot-missing", "loss")
    assert problem["text"].startswith(f"changes may be lost: slot {lane.name} does not exist")
    for word in ("stop", "offsets reset", "--drop-slot", "resume", "reread", "verify"):
        assert word in problem["way_out"]
    assert run("stop", lane.name).code == 0
    reset = run("offsets", "reset", lane.name, "--drop-slot", "--yes", "-o", "json")
    assert (reset.code, reset.document["after"]) == (0, [])
    assert "a new snapshot of about" in reset.told
    assert run("resume", lane.name).code == 0
    until(lambda: run("status", "-o", "json").document[0]["state"] == "RUNNING", "running again")
    assert lane.slot()
    healthy(run)


def test_delete_says_what_stays_and_drops_it_when_asked(lane: OwnLane, run: Commands) -> None:
    assert (run("delete", lane.name).code, lane.state()) == (Exit.BAD_INPUT, {"RUNNING"})
    kept = run("delete", lane.name, "--yes", "-o", "json")
    assert kept.document == [
        {
            "connector": lane.name,
            "deleted": "yes",
            "slot": f"{lane.name} stays",
            "publication": f"{lane.name} stays",
            "stays": "its stored position, its topics and their schemas",
        }
    ]
    assert f"slot {lane.name} stays and holds" in kept.told
    assert f"pg_drop_replication_slot('{lane.name}')" in kept.told
    assert lane.slot()
    absent = run("status", "-o", "json")
    assert (absent.code, absent.document[0]["state"]) == (Exit.FAILED, "ABSENT")
    lane.start()  # goes on from its stored position, by the slot that was kept
    healthy(run)
    dropped = run("delete", lane.name, "--drop-slot", "--yes", "-o", "json")
    assert dropped.document == [
        {
            "connector": lane.name,
            "deleted": "yes",
            "slot": f"{lane.name} dropped",
            "publication": f"{lane.name} dropped",
            "stays": "its topics and their schemas",
        }
    ]
    assert not lane.slot()
    assert lane.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", lane.name) == []
    assert lane.state() == {"ABSENT"}
    again = run("delete", lane.name, "--drop-slot", "--yes", "-o", "json")
    assert (again.document[0]["deleted"], again.document[0]["slot"]) == ("was not there", f"{lane.name} was not there")
