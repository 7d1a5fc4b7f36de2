"""The plan on the real servers: what it shows of a running lane, each consequence on a real database, what `apply` refuses.

One lane of our own, captured once; every test leaves it as it found it, or the next one says so.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import httpx2
import orjson
import pytest

from connectors.apply import Action, apply
from connectors.connector import State
from connectors.consequences import Weight
from connectors.files import HEARTBEAT_TABLE, Connector, load
from connectors.lint import known
from connectors.plan import Item, Step, make
from downriver.exits import BadInput
from downriver.settings import Settings
from processors.tables.products import PRODUCTS
from schemas.registry import SchemaRegistry
from tests.support.avro import Record
from tests.support.captured import CapturedShop
from tests.support.lane import OwnLane, own_lane, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
WAIT_S = 90.0


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    """A captured lane whose connectors are ours by their names."""
    with own_lane(settings) as made:
        managed = made.settings.connect.model_copy(update={"managed": made.settings.source})
        own = OwnLane(made.settings.model_copy(update={"connect": managed}), made.connector)
        own.products(40)
        own.execute("ANALYZE")
        own.start()
        yield own


def changed(connector: Connector, **config: str | None) -> Connector:
    """The connector with other settings; None takes one away. Dots are written as __."""
    new = dict(connector.config) | {key.replace("__", "."): value for key, value in config.items()}
    return replace(connector, config={key: value for key, value in new.items() if value is not None})


def planned(lane: OwnLane, connector: Connector, **options: bool) -> Item:
    """Plan one connector."""
    with lane.client() as client:
        return make(lane.settings, client, [connector], **options).items[0]


def told(item: Item) -> dict[str, tuple[Weight, str]]:
    return {each.name: (each.weight, each.text) for each in item.consequences}


def written(folder: Path, *connectors: Connector) -> Path:
    for connector in connectors:
        document = {"name": connector.name, "config": dict(connector.config)}
        (folder / f"{connector.name}.json").write_bytes(orjson.dumps(document))
    return folder


def run(lane: OwnLane, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `downriver connectors …` as a user of this lane."""
    mine = {
        "DOWNRIVER_POSTGRES__DATABASE": lane.settings.postgres.database,
        "DOWNRIVER_POSTGRES__CAPTURE_USER": lane.role,
        "DOWNRIVER_CONNECT__MANAGED": lane.settings.connect.managed,
    }
    command = [sys.executable, "-m", "downriver.cli", "connectors", *arguments]
    return subprocess.run(
        command, env=os.environ | mine | environment, capture_output=True, text=True, check=False, timeout=120
    )


def plan_json(lane: OwnLane, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = run(lane, "plan", *arguments, "-o", "json")
    assert done.returncode in {0, 2}, done.stderr
    return done.returncode, orjson.loads(done.stdout)


def live(lane: OwnLane) -> Mapping[str, str] | None:
    with lane.client() as client:
        return client.config(lane.name)


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


def read(lane: OwnLane, enough: Callable[[list[tuple[str, str]]], bool]) -> list[tuple[str, str]]:
    """Return kind and sku of every change of a product, partition by partition, once there are enough."""
    registry = SchemaRegistry(lane.settings.registry)
    schemas: dict[int, Any] = {}

    def seen(records: list[Record]) -> list[tuple[str, str]]:
        found = []
        for record in sorted(records, key=lambda each: (each.partition, each.offset)):
            assert record.value is not None
            number = int.from_bytes(record.value[1:5], "big")
            schema = schemas.setdefault(number, fastavro.parse_schema(dict(registry.schema(number))))
            change = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), schema, None)
            assert isinstance(change, dict)
            found.append((change["op"], (change["after"] or change["before"])["sku"]))
        return found

    try:
        return seen(CapturedShop(lane.settings).records(PRODUCTS, lambda records: enough(seen(records))))
    finally:
        registry.close()


SOURCE = [
    (
        "ALTER TABLE reviews REPLICA IDENTITY DEFAULT",
        "ALTER TABLE reviews REPLICA IDENTITY FULL",
        {
            "replica-identity": (
                Weight.BLOCKS,
                "public.reviews lacks REPLICA IDENTITY FULL: updates and deletes arrive",
            ),
            "toast": (
                Weight.WARNING,
                "public.reviews: an update that leaves title, body, status alone sends a placeholder",
            ),
        },
    ),
    (
        "ALTER TABLE reviews DROP CONSTRAINT reviews_pkey",
        "ALTER TABLE reviews ADD PRIMARY KEY (id)",
        {"no-key": (Weight.BLOCKS, "public.reviews has no primary key: its records have no key")},
    ),
    (
        "ALTER PUBLICATION {name} DROP TABLE public.downriver_heartbeat",
        "ALTER PUBLICATION {name} ADD TABLE public.downriver_heartbeat",
        {
            "heartbeat-unpublished": (
                Weight.BLOCKS,
                "lacks public.downriver_heartbeat: heartbeats are written and never",
            )
        },
    ),
    (
        "ALTER PUBLICATION {name} DROP TABLE reviews",
        "ALTER PUBLICATION {name} ADD TABLE reviews",
        {"not-ready": (Weight.BLOCKS, "lacks public.reviews")},
    ),
    (
        "ALTER TABLE reviews ADD weight numeric",
        "ALTER TABLE reviews DROP weight",
        {"unbounded-numeric": (Weight.WARNING, "public.reviews: weight is numeric without precision")},
    ),
    (
        "UPDATE products SET description = (SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 900))"
        " WHERE sku = 's7'",
        "UPDATE products SET description = '' WHERE sku = 's7'",
        {"toast": (Weight.NOTE, "out of line (TOAST: sku, name, description,")},
    ),
]


@pytest.mark.parametrize(
    ("broken", "mended", "expected"), SOURCE, ids=[", ".join(expected) for _, _, expected in SOURCE]
)
def test_what_the_source_lacks_is_a_consequence(
    lane: OwnLane, broken: str, mended: str, expected: dict[str, tuple[Weight, str]]
) -> None:
    """Of a connector that is to be made, which says each once; without the fault it says none of them."""
    new = replace(lane.connector, name=f"{lane.name}_n")
    lane.execute(broken.format(name=f'"{lane.connector.publication}"'))
    try:
        item = planned(lane, new)
    finally:
        lane.execute(mended.format(name=f'"{lane.connector.publication}"'))
    found = told(item)
    for name, (weight, text) in expected.items():
        assert found[name][0] is weight, found
        assert text in found[name][1]
    ways_out = [each.way_out for each in item.consequences if each.way_out and each.name != "toast"]
    assert len(ways_out) == len(set(ways_out)), "preflight and plan tell the same thing twice"
    without = {"unbounded-numeric", "replica-identity", "no-key", "heartbeat-unpublished", "not-ready"}
    assert without.isdisjoint(told(planned(lane, new)))


def test_a_first_snapshot_is_counted_by_the_statistics(lane: OwnLane) -> None:
    new = replace(
        changed(lane.connector, topic__prefix=f"{lane.name}_n", slot__name=f"{lane.name}_n"), name=f"{lane.name}_n"
    )
    lane.execute("ANALYZE products")
    found = told(planned(lane, new))
    (products,) = lane.execute("SELECT reltuples::int FROM pg_class WHERE oid = 'products'::regclass")[0]
    assert products >= 40
    assert found["snapshot"][0] is Weight.NOTE
    assert found["snapshot"][1].startswith(f"a first snapshot of about {products:,} rows (")
    assert " in 2 tables) " in found["snapshot"][1]
    weight, text = found["wal-headroom"]
    assert weight is Weight.NOTE
    assert "may let pg_wal grow to about" in text
    assert "more must be free on its disk" in text


def other_settings(connector: Connector) -> list[tuple[Connector, str, Weight, str]]:
    """Every change of settings with the consequence that names it."""
    tables = connector.config["table.include.list"]
    return [
        (changed(connector, topic__prefix=f"{connector.name}2"), "new-prefix", Weight.ALLOW, "a second history"),
        (changed(connector, slot__name=f"{connector.name}2"), "new-slot", Weight.ALLOW, "stays and holds WAL"),
        (changed(connector, publication__name=f"{connector.name}2"), "new-publication", Weight.ALLOW, "are skipped"),
        (changed(connector, database__dbname="postgres"), "other-database", Weight.ALLOW, "never compare"),
        (
            changed(connector, message__key__columns="public.reviews:id"),
            "new-key",
            Weight.ALLOW,
            "message.key.columns: the same row gets another record key",
        ),
        (
            changed(connector, transforms__routeProducts__partition__payload__fields="change.category"),
            "moves-keys",
            Weight.ALLOW,
            "transforms.routeProducts.partition.payload.fields: rows move",
        ),
        (changed(connector, transforms="routeProducts"), "moves-keys", Weight.ALLOW, "transforms: rows move"),
        (
            changed(connector, table__include__list=f"{tables},public.orders"),
            "unread-table",
            Weight.ALLOW,
            "public.orders: captured from now on; about",
        ),
        (
            changed(connector, table__include__list=f"public.products,{HEARTBEAT_TABLE}"),
            "dropped-table",
            Weight.ALLOW,
            "public.reviews: not captured any more",
        ),
        (
            changed(connector, column__exclude__list="public.reviews.body"),
            "hidden-column",
            Weight.WARNING,
            "public.reviews.body: left out from now on",
        ),
        (
            changed(connector, unavailable__value__placeholder="another"),
            "new-format",
            Weight.ALLOW,
            "unavailable.value.placeholder: records before and after",
        ),
        (changed(connector, snapshot__mode="always"), "snapshot-again", Weight.ALLOW, "may read about"),
        (
            changed(connector, topic__creation__default__partitions="16"),
            "partitions",
            Weight.BLOCKS,
            "has 8 partition(s), the file says 16",
        ),
    ]


@pytest.mark.parametrize("number", range(13))
def test_what_loses_or_reads_again_has_a_name_and_is_refused_without_it(lane: OwnLane, number: int) -> None:
    connector, name, weight, text = other_settings(lane.connector)[number]
    assert len(other_settings(lane.connector)) == 13
    before = live(lane)
    found = told(planned(lane, connector))
    assert found[name][0] is weight
    assert text in found[name][1]
    if weight is Weight.WARNING:
        assert not any(each is Weight.ALLOW for each, _ in found.values())
        return
    with pytest.raises(BadInput) as caught:
        apply(lane.settings, [connector], WAIT_S, allow=["no-such-name"])
    if weight is Weight.ALLOW and "not ready" not in str(caught.value):
        assert f"--allow {name}" in str(caught.value)
        assert "nothing was changed" in str(caught.value)
    assert live(lane) == before
    assert planned(lane, lane.connector).step is Step.NONE


def test_a_column_that_is_let_out_again_has_a_name(lane: OwnLane) -> None:
    hidden = changed(lane.connector, column__exclude__list="public.reviews.body")
    apply(lane.settings, [hidden], WAIT_S)
    weight, text = told(planned(lane, lane.connector))["released-column"]
    assert (weight, "public.reviews.body: leaves the source from now on" in text) == (Weight.ALLOW, True)
    with pytest.raises(BadInput, match="--allow released-column"):
        apply(lane.settings, [lane.connector], WAIT_S)
    (result,) = apply(lane.settings, [lane.connector], WAIT_S, allow=["released-column"])
    assert (result.action, result.state, result.error) == (Action.UPDATED, "RUNNING", "")


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


def test_a_second_snapshot_needs_leave_and_is_one(lane: OwnLane) -> None:
    """A connector whose offset was reset, over topics that hold records."""
    with lane.client() as client:
        client.stop(lane.name)
        until(
            lambda: (now := client.status(lane.name)) is not None and now.state == "STOPPED" and not now.tasks, "stops"
        )
        client.reset_offsets(lane.name)
    weight, text = told(planned(lane, lane.connector))["second-snapshot"]
    assert weight is Weight.ALLOW
    assert "its topics already hold about" in text
    with pytest.raises(BadInput, match="--allow second-snapshot"):
        apply(lane.settings, [lane.connector], WAIT_S)
    assert lane.state() == {"STOPPED"}
    before = [kind for kind, _ in read(lane, bool)].count("r")
    (result,) = apply(lane.settings, [lane.connector], WAIT_S, allow=["second-snapshot"])
    assert (result.action, result.state, result.error) == (Action.STARTED, "RUNNING", "")
    rows = lane.execute("SELECT count(*) FROM products")[0][0]
    read(lane, lambda seen: [kind for kind, _ in seen].count("r") == before + rows)


def test_a_new_publication_skips_what_was_written_before_it(lane: OwnLane) -> None:
    """What the plan says of PostgreSQL 18, tried: the rows in between never come."""
    new = f"{lane.name}2"
    with lane.client() as client:
        client.stop(lane.name)
        until(
            lambda: (now := client.status(lane.name)) is not None and now.state == "STOPPED" and not now.tasks, "stops"
        )
    lane.products(3, first=2000)
    lane.execute(
        f'CREATE PUBLICATION "{new}" FOR TABLE products, reviews, {HEARTBEAT_TABLE}'
        " WITH (publish = 'insert, update, delete')"
    )
    (result,) = apply(
        lane.settings, [changed(lane.connector, publication__name=new)], WAIT_S, allow=["new-publication"]
    )
    assert (result.action, result.state, result.error) == (Action.UPDATED, "RUNNING", "")
    lane.products(1, first=3000)
    seen = read(lane, lambda seen: "s3000" in {sku for _, sku in seen})
    assert {"s2000", "s2001", "s2002"}.isdisjoint(sku for _, sku in seen)
    apply(lane.settings, [lane.connector], WAIT_S, allow=["new-publication"])


def test_a_lost_slot_blocks_and_a_new_one_is_refused_by_the_task(lane: OwnLane) -> None:
    """What the plan says of both, tried: Debezium would not start either."""
    other = changed(lane.connector, slot__name=f"{lane.name}2")
    (result,) = apply(lane.settings, [other], WAIT_S, allow=["new-slot"])
    assert (result.action, result.state) == (Action.UPDATED, "FAILED")
    assert "no longer available on the server" in result.error
    item = planned(lane, other)
    assert (item.step, item.live_state) == (Step.STATE, "FAILED")
    assert "no longer available on the server" in told(item)["failed"][1]
    (result,) = apply(lane.settings, [lane.connector], WAIT_S, allow=["new-slot"])
    assert (result.state, result.error) == ("RUNNING", "")  # the old slot had stayed
    with lane.client() as client:
        client.stop(lane.name)
        until(
            lambda: (now := client.status(lane.name)) is not None and now.state == "STOPPED" and not now.tasks, "stops"
        )
    lane.drop_slot()
    assert told(planned(lane, lane.connector))["lost-slot"][0] is Weight.BLOCKS
    with pytest.raises(BadInput, match=r"slot \S+ is gone.*\[lost-slot\]"):
        apply(lane.settings, [lane.connector], WAIT_S, allow=["new-slot", "second-snapshot"])


def test_the_known_settings_are_those_of_the_running_connect(lane: OwnLane) -> None:
    url = f"{lane.settings.connect.url}/connector-plugins/{lane.connector.config['connector.class']}/config"
    served = {each["name"] for each in httpx2.get(url, timeout=30).raise_for_status().json() if "(" not in each["name"]}
    assert sorted(served - known.settings()) == []
