"""The plan of a running lane on the real servers, as a user reads it, and `apply` after it.

One lane of our own, captured once; every test leaves it as it found it, or the next one says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import orjson
import pytest

from connectors.apply import Action, apply
from connectors.connect import Refused
from connectors.connector import State
from connectors.consequences import Weight
from connectors.files import load
from connectors.lint import known
from connectors.plan import Step, make
from downriver.settings import Settings
from tests.support.lane import OwnLane, until
from tests.support.planning import WAIT_S, captured_lane, changed, live, plan_json, planned, read, run, told, written

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with captured_lane(settings) as made:
        yield made


def test_one_edited_setting_is_one_line_and_apply_makes_it_so(lane: OwnLane, tmp_path: Path) -> None:
    file = str(written(tmp_path, lane.connector) / f"{lane.name}.json")
    assert plan_json(lane, file)[0] == 0
    interval = lane.connector.config["poll.interval.ms"]
    written(tmp_path, changed(lane.connector, poll__interval__ms="25"))
    code, (record,) = plan_json(lane, file)
    assert (code, record["action"]) == (2, "update")
    assert record["differences"] == [{"key": "poll.interval.ms", "live": interval, "wanted": "25"}]
    assert record["consequences"] == []
    shown = run(lane, "plan", file)
    assert shown.returncode == 2
    assert f'poll.interval.ms  "{interval}" → "25"' in shown.stdout
    assert "database.hostname" not in shown.stdout
    assert run(lane, "apply", file, "--dry-run").returncode == 0
    assert plan_json(lane, file)[0] == 2  # a rehearsal changes nothing
    done = run(lane, "apply", file)
    assert done.returncode == 0, done.stderr
    assert plan_json(lane, file)[0] == 0
    assert (live(lane) or {})["poll.interval.ms"] == "25"
    apply(lane.settings, [lane.connector], WAIT_S)


def test_a_secret_on_connect_is_never_shown(lane: OwnLane, tmp_path: Path) -> None:
    file = str(written(tmp_path, lane.connector) / f"{lane.name}.json")
    with lane.client() as client:
        client.put(lane.name, dict(lane.connector.config) | {"database.password": "hunter2"})
    try:
        for arguments in (("plan", file), ("plan", file, "-o", "json")):
            done = run(lane, *arguments)
            assert done.returncode == 2, done.stderr
            assert "hunter2" not in done.stdout + done.stderr
            assert "***" in done.stdout
            assert "${env:DOWNRIVER_CAPTURE_PASSWORD}" in done.stdout
        taken = tmp_path / "taken"
        done = run(lane, "import", lane.name, "--out", str(taken))
        assert done.returncode == 0, done.stderr
        text = (taken / f"{lane.name}.json").read_text(encoding="utf-8")
        variable = f"{lane.name}_DATABASE_PASSWORD".upper()
        assert orjson.loads(text)["config"]["database.password"] == f"${{env:{variable}}}"
        assert variable in done.stderr.replace("\n", "")
        assert "hunter2" not in text + done.stdout + done.stderr
    finally:
        apply(lane.settings, [lane.connector], WAIT_S)


@pytest.mark.parametrize("form", ["json", "strimzi"])
def test_what_is_imported_needs_no_change(lane: OwnLane, tmp_path: Path, form: str) -> None:
    done = run(lane, "import", lane.name, "--out", str(tmp_path), "--format", form)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.iterdir()
    (connector,) = load([path])
    assert connector.config == live(lane)
    if form == "json":
        assert (connector.name, plan_json(lane, str(path))[0]) == (lane.name, 0)
    again = run(lane, "import", lane.name, "--out", str(tmp_path), "--format", form)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_a_paused_one_is_told_and_started(lane: OwnLane) -> None:
    with lane.client() as client:
        client.pause(lane.name)
    until(lambda: "PAUSED" in lane.state(), "it pauses")
    item = planned(lane, lane.connector)
    assert (item.step, item.live_state, item.state) == (Step.STATE, "PAUSED", "RUNNING")
    assert told(item)["catches-up"][0] is Weight.NOTE
    (result,) = apply(lane.settings, [lane.connector], WAIT_S)
    assert (result.action, result.state, result.error) == (Action.STARTED, "RUNNING", "")


@pytest.mark.parametrize(("state", "action"), [(State.PAUSED, Action.PAUSED), (State.STOPPED, Action.STOPPED)])
def test_a_file_may_want_it_to_rest(lane: OwnLane, state: State, action: Action) -> None:
    resting = replace(lane.connector, state=state)
    item = planned(lane, resting)
    assert (item.step, item.live_state, item.state) == (Step.STATE, "RUNNING", state)
    weight, text = told(item)["slot-holds-wal"]
    assert weight is Weight.WARNING
    assert f"slot {lane.connector.slot} holds all WAL from now on" in text
    assert "it is lost after another" in text
    (result,) = apply(lane.settings, [resting], WAIT_S)
    assert (result.action, result.state, result.error) == (action, state, "")
    assert planned(lane, resting).step is Step.NONE
    apply(lane.settings, [lane.connector], WAIT_S)


def test_orphans_and_unmanaged_are_told_of_a_folder(lane: OwnLane, tmp_path: Path) -> None:
    other = changed(replace(lane.connector, name=f"{lane.name}_x"), slot__name=f"{lane.name}_x")
    folder = str(written(tmp_path, other))
    _, records = plan_json(lane, folder)
    found = {record["connector"]: record["action"] for record in records}
    assert found[other.name] == "create"
    assert found[lane.name] == "orphan"
    assert {action for name, action in found.items() if not name.startswith(lane.settings.source)} <= {"unmanaged"}
    assert [record["connector"] for record in plan_json(lane, f"{folder}/{other.name}.json")[1]] == [other.name]
    refused = run(lane, "apply", f"{folder}/{other.name}.json", "--prune")
    assert (refused.returncode, "--prune needs a folder" in refused.stderr) == (2, True)
    _, records = plan_json(lane, folder, "--prune")
    (record,) = [record for record in records if record["action"] == "delete"]
    assert record["connector"] == lane.name
    (left,) = record["consequences"]
    assert left["name"] == "slot-left-behind"
    assert f"slot {lane.connector.slot} and publication {lane.connector.publication} stay" in left["text"]


def test_a_pruned_connector_goes_on_where_it_was(lane: OwnLane) -> None:
    """The plan says so, and no row is read again."""
    with lane.client() as client:
        pruned = make(lane.settings, client, [], whole=True, prune=True)
        assert [item.connector for item in pruned.items if item.step is Step.DELETE] == [lane.name]
    results = apply(lane.settings, [], WAIT_S, prune=True)
    assert [(result.connector, result.action) for result in results] == [(lane.name, Action.DELETED)]
    assert live(lane) is None
    assert lane.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", lane.connector.slot) == [(1,)]
    lane.products(1, first=900)
    item = planned(lane, lane.connector)
    assert item.step is Step.CREATE
    weight, text = told(item)["resumes"]
    assert weight is Weight.NOTE
    assert text.startswith("goes on from the stored position LSN ")
    assert {"snapshot", "second-snapshot"}.isdisjoint(told(item))
    (result,) = apply(lane.settings, [lane.connector], WAIT_S)
    assert (result.action, result.state, result.error) == (Action.CREATED, "RUNNING", "")
    seen = read(lane, lambda seen: len(seen) > 40)
    assert [kind for kind, _ in seen].count("r") == 40
    assert [sku for kind, sku in seen if kind == "c"] == ["s900"]


def test_one_refused_connector_leaves_the_others_alone(lane: OwnLane) -> None:
    own = {"topic__prefix": f"{lane.name}_w", "slot__name": f"{lane.name}_w"}
    wrong = replace(changed(lane.connector, poll__interval__ms="soon", **own), name=f"{lane.name}_w")
    results = apply(lane.settings, [changed(lane.connector, poll__interval__ms="25"), wrong], WAIT_S)
    assert [result.action for result in results] == [Action.UNCHANGED, Action.REFUSED]
    assert "poll.interval.ms" in results[1].error
    assert (live(lane) or {})["poll.interval.ms"] == lane.connector.config["poll.interval.ms"]


def test_validate_names_connector_setting_and_line(lane: OwnLane, tmp_path: Path) -> None:
    file = str(written(tmp_path, changed(lane.connector, poll__interval__ms="soon")) / f"{lane.name}.json")
    done = run(lane, "validate", file, "-o", "json")
    assert done.returncode == 1, done.stderr
    for record in orjson.loads(done.stdout):
        assert (record["connector"], record["key"], record["value"]) == (lane.name, "poll.interval.ms", "soon")
        assert "is invalid" in record["error"]
    written(tmp_path, lane.connector)
    assert run(lane, "validate", file).returncode == 0


def test_plan_ends_with_1_on_every_error(lane: OwnLane, tmp_path: Path) -> None:
    """Also where other commands end with 2 or 3: its 2 says that there are changes."""
    file = str(written(tmp_path, changed(lane.connector, poll__interval__ms="25")) / f"{lane.name}.json")
    assert run(lane, "plan", "--no-such-option").returncode == 1
    assert run(lane, "plan", str(tmp_path / "absent.json")).returncode == 1
    away = run(lane, "plan", file, DOWNRIVER_POSTGRES__PORT="9")
    assert (away.returncode, away.stdout) == (1, "")
    assert "PostgreSQL at 127.0.0.1:9" in away.stderr
    away = run(lane, "plan", file, DOWNRIVER_KAFKA__BOOTSTRAP="127.0.0.1:9", DOWNRIVER_CONNECT__URL="ftp://nowhere")
    assert (away.returncode, "connect.url = 'ftp://nowhere'" in away.stderr.replace("\n", " ")) == (1, True)


def test_the_known_settings_are_those_of_the_running_connect(lane: OwnLane) -> None:
    url = f"{lane.settings.connect.url}/connector-plugins/{lane.connector.config['connector.class']}/config"
    served = {each["name"] for each in httpx2.get(url, timeout=30).raise_for_status().json() if "(" not in each["name"]}
    assert sorted(served - known.settings()) == []


def test_a_context_means_another_connect_with_its_own_overlay(lane: OwnLane, tmp_path: Path) -> None:
    folder = written(tmp_path / "files", lane.connector)
    (folder / "overlays" / "mine").mkdir(parents=True)
    overlay = f"name: {lane.name}\nconfig:\n  poll.interval.ms: 33\n"
    (folder / "overlays" / "mine" / "a.yaml").write_text(overlay, encoding="utf-8")
    settings = tmp_path / "downriver.toml"
    own = lane.settings.connect
    text = f'[connect]\nurl = "ftp://nowhere"\n[contexts.mine.connect]\nurl = "{own.url}"\nmanaged = "{own.managed}"\n'
    settings.write_text(text, encoding="utf-8")
    environment = {"DOWNRIVER_CONFIG": str(settings)}
    without = run(lane, "plan", str(folder), **environment)
    assert (without.returncode, "ftp://nowhere" in without.stderr) == (1, True)
    done = run(lane, "plan", str(folder), "--context", "mine", "-o", "json", **environment)
    assert done.returncode == 2, done.stderr
    (record,) = [each for each in orjson.loads(done.stdout) if each["connector"] == lane.name]
    interval = lane.connector.config["poll.interval.ms"]
    assert record["differences"] == [{"key": "poll.interval.ms", "live": interval, "wanted": "33"}]
    plain = run(lane, "plan", f"{folder}/{lane.name}.json", "--context", "mine", "--overlay", "", **environment)
    assert plain.returncode == 0, plain.stderr


def test_a_connector_may_be_created_stopped(lane: OwnLane) -> None:
    """It has read nothing then: no slot, no offset; created again it is unchanged."""
    own = {"topic__prefix": f"{lane.name}_s", "slot__name": f"{lane.name}_s"}
    stopped = replace(changed(lane.connector, **own), name=f"{lane.name}_s", state=State.STOPPED)
    with lane.client() as client:
        try:
            assert told(planned(lane, stopped))["slot-holds-wal"][0] is Weight.WARNING
            (result,) = apply(lane.settings, [stopped], WAIT_S)
            assert (result.action, result.state, result.error) == (Action.CREATED, "STOPPED", "")
            assert planned(lane, stopped).step is Step.NONE
            client.create(stopped.name, stopped.config, "STOPPED")  # as after an answer that was lost
            with pytest.raises(Refused, match="already exists"):
                client.create(stopped.name, changed(stopped, poll__interval__ms="99").config, "STOPPED")
            assert lane.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", stopped.slot) == []
        finally:
            client.delete(stopped.name)
