"""The connector files: checked against every mistake, and held against TABLES both ways."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.connector import EVENT_TOPIC, event_columns
from connectors.files import HEARTBEAT_TABLE, Connector, default_files, load, renamed
from connectors.lint.values import REQUIRED
from downriver.exits import BadInput
from processors.tables import TABLES
from processors.tables.base import PARTITIONS, Lane, Table
from shop.names import EVENTS

PARTITION_ROUTING = "io.debezium.transforms.partitions.PartitionRouting"


def by_lane() -> dict[str, Connector]:
    lanes = {connector.name.removeprefix("downriver_"): connector for connector in load()}
    return {name: connector for name, connector in lanes.items() if name != EVENTS}


def events() -> Connector:
    return next(connector for connector in load() if connector.name == f"downriver_{EVENTS}")


def tables_of(lane: str) -> list[Table]:
    return [table for table in TABLES if table.lane == lane]


def written(folder: Path, document: object, name: str = "one.json") -> Path:
    path = folder / name
    path.write_bytes(document if isinstance(document, bytes) else orjson.dumps(document))
    return path


def changed(**config: object) -> dict[str, Any]:
    """One of our files with some keys replaced; None takes a key away. Dots are written as __."""
    document: dict[str, Any] = orjson.loads(default_files()[0].read_bytes())
    document["config"] |= {key.replace("__", "."): value for key, value in config.items()}
    document["config"] = {key: value for key, value in document["config"].items() if value is not None}
    return document


def routings(config: dict[str, str]) -> dict[str, str]:
    """Return what each PartitionRouting transform routes by, per topic pattern."""
    names = [name for name in config.get("transforms", "").split(",") if name]
    assert all(config[f"transforms.{name}.type"] == PARTITION_ROUTING for name in names)
    assert all(config[f"transforms.{name}.partition.topic.num"] == str(PARTITIONS) for name in names)
    return {
        config[f"predicates.{config[f'transforms.{name}.predicate']}.pattern"]: config[
            f"transforms.{name}.partition.payload.fields"
        ]
        for name in names
    }


def test_there_is_one_connector_a_lane_and_one_for_events() -> None:
    assert len(load()) == len(Lane) + 1
    assert set(by_lane()) == set(Lane)


@pytest.mark.parametrize("lane", list(Lane))
def test_names_follow_the_lane(lane: Lane) -> None:
    connector = by_lane()[lane]
    assert (connector.name, connector.slot, connector.publication, connector.prefix) == (
        *[f"downriver_{lane}"] * 3,
        f"shop_{lane}",
    )
    assert Path(connector.origin).name == f"downriver_{lane}.json"
    assert f"('{lane}', clock_timestamp())" in connector.config["heartbeat.action.query"]


@pytest.mark.parametrize("lane", list(Lane))
def test_captured_tables_are_those_of_the_lane(lane: Lane) -> None:
    connector = by_lane()[lane]
    assert sorted(connector.tables) == sorted([*(str(table.id) for table in tables_of(lane)), HEARTBEAT_TABLE])
    assert {f"{connector.prefix}.{name}" for name in connector.tables if name != HEARTBEAT_TABLE} == {
        table.topic("shop") for table in tables_of(lane)
    }


@pytest.mark.parametrize("lane", list(Lane))
def test_restricted_columns_are_left_out_and_no_others(lane: Lane) -> None:
    expected = {f"{table.id}.{column}" for table in tables_of(lane) for column in table.excluded}
    assert by_lane()[lane].excluded == expected


@pytest.mark.parametrize("lane", list(Lane))
def test_record_keys_are_those_of_the_tables(lane: Lane) -> None:
    given = by_lane()[lane].config.get("message.key.columns", "")
    keys = dict(entry.split(":") for entry in given.split(";") if entry)
    expected = {str(table.id): ",".join(table.key) for table in tables_of(lane) if str(table.id) == "public.reviews"}
    assert keys == expected


@pytest.mark.parametrize("lane", list(Lane))
def test_topics_are_routed_as_the_tables_say(lane: Lane) -> None:
    connector = by_lane()[lane]
    routes = routings(dict(connector.config))
    topics = [f"{connector.prefix}.{name}" for name in connector.tables] + [f"__debezium-heartbeat.{connector.prefix}"]
    routed = {topic: [by for pattern, by in routes.items() if re.fullmatch(pattern, topic)] for topic in topics}
    expected: dict[str, list[str]] = {topic: [] for topic in topics} | {
        table.topic("shop"): [f"change.{table.routed_by}"] for table in tables_of(lane) if table.routed_by
    }
    assert routed == expected


@pytest.mark.parametrize("lane", list(Lane))
def test_routed_lanes_write_no_tombstones(lane: Lane) -> None:
    routed = any(table.routed_by for table in tables_of(lane))
    assert by_lane()[lane].config["tombstones.on.delete"] == ("false" if routed else "true")


@pytest.mark.parametrize("lane", list(Lane))
def test_topics_are_made_compacted_with_stated_partitions(lane: Lane) -> None:
    config = by_lane()[lane].config
    assert config["topic.creation.default.partitions"] == str(PARTITIONS)
    assert config["topic.creation.default.cleanup.policy"] == "compact"
    assert config["topic.creation.heartbeat.partitions"] == "1"
    include = re.compile(config["topic.creation.heartbeat.include"])
    matched = [table.topic("shop") for table in TABLES if include.fullmatch(table.topic("shop"))]
    assert matched == []
    for topic in (f"shop_{lane}.{HEARTBEAT_TABLE}", f"__debezium-heartbeat.shop_{lane}"):
        assert include.fullmatch(topic)


def test_the_lanes_differ_only_where_they_must() -> None:
    """What is no lane's own is the same in all three, so that a setting changed in one file is not forgotten in another."""
    own = re.compile(
        r"slot\.name|publication\.name|topic\.prefix|table\.include\.list|column\.exclude\.list|tombstones\.on\.delete"
        r"|heartbeat\.action\.query|message\.key\.columns|transforms.*|predicates.*"
    )
    shared = [{k: v for k, v in c.config.items() if not own.fullmatch(k)} for c in by_lane().values()]
    assert shared[0] == shared[1] == shared[2]
    others = re.compile(own.pattern + r"|(key|value)\.converter.*|topic\.creation\.(groups|events\..*)")
    lane = {key: value for key, value in shared[0].items() if not others.fullmatch(key)}
    assert lane == {key: value for key, value in events().config.items() if not others.fullmatch(key)}


def test_the_outbox_alone_becomes_events() -> None:
    connector = events()
    assert (connector.slot, connector.publication, connector.prefix) == (*["downriver_events"] * 2, "shop_events")
    assert set(connector.tables) == {"public.outbox", HEARTBEAT_TABLE}
    assert connector.outboxes == {"public.outbox"}
    assert "('events', clock_timestamp())" in connector.config["heartbeat.action.query"]
    assert all(not connector.outboxes for connector in by_lane().values())


def test_the_router_asks_for_these_columns_of_the_outbox() -> None:
    config = events().config
    sent = {"id", "aggregatetype", "aggregateid", "payload"}
    headers = {"type", "correlation_id", "causation_id", "user_id", "created_at"}
    assert event_columns(config, "public.outbox") == sent | headers
    assert event_columns(config, HEARTBEAT_TABLE) == set()
    bare = {key: value for key, value in config.items() if not re.match(r"transforms\.events\.(table|route)\.", key)}
    assert event_columns(bare, "public.outbox") == sent
    timed = bare | {"transforms.events.table.field.event.timestamp": "at", "transforms.events.route.by.field": "kind"}
    assert event_columns(timed, "public.outbox") == sent - {"aggregatetype"} | {"at", "kind"}


def test_topics_of_events_forget_by_age_and_heartbeats_by_key() -> None:
    config = events().config
    include = {group: re.compile(config[f"topic.creation.{group}.include"]) for group in ("heartbeat", "events")}
    for topic, group in (
        ("outbox.event.order", "events"),
        ("t7.outbox.event.order", "events"),
        (f"shop_events.{HEARTBEAT_TABLE}", "heartbeat"),
        ("__debezium-heartbeat.shop_events", "heartbeat"),
    ):
        assert [name for name, pattern in include.items() if pattern.fullmatch(topic)] == [group]
    assert config["topic.creation.events.cleanup.policy"] == "delete"
    assert config["topic.creation.events.partitions"] == str(PARTITIONS)


def test_the_events_of_another_source_have_topics_of_their_own() -> None:
    other = renamed(events(), "t7", "probe")
    key = "transforms.events.route.topic.replacement"
    assert (events().config[key], other.config[key]) == (EVENT_TOPIC, f"t7.{EVENT_TOPIC}")
    assert other.outboxes == {"public.outbox"}


def test_hosts_and_secrets_come_from_the_worker() -> None:
    names = {
        name
        for connector in load()
        for value in connector.config.values()
        for name in re.findall(r"\$\{env:(\w+)\}", value)
    }
    assert names == {
        "DOWNRIVER_POSTGRES_HOST",
        "DOWNRIVER_POSTGRES_PORT",
        "DOWNRIVER_POSTGRES_DATABASE",
        "DOWNRIVER_CAPTURE_USER",
        "DOWNRIVER_CAPTURE_PASSWORD",
        "DOWNRIVER_REGISTRY_URL",
    }
    assert not any("://" in value or "127.0.0.1" in value for c in load() for value in c.config.values())


def test_renamed_changes_every_name_and_nothing_else() -> None:
    connector = by_lane()["catalog"]
    other = renamed(connector, "t7", "probe")
    assert (other.name, other.slot, other.publication, other.prefix) == ("t7_catalog",) * 4
    differing = {key for key in connector.config if connector.config[key] != other.config[key]}
    assert differing == {"slot.name", "publication.name", "topic.prefix", "database.dbname"}
    assert other.config["database.dbname"] == "probe"
    assert other.tables == connector.tables


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, changed(**{key.replace(".", "__"): None}))
    with pytest.raises(BadInput, match=re.escape(f"{path}: {key}: is missing; give it a value [required]")):
        load([path])


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (b"{", "is not JSON"),
        ([], "is list; it must be an object of exactly"),
        ({"name": "a"}, "is ['name']; it must be an object of exactly"),
        ({"name": "a", "config": {}, "state": 1}, "['config', 'name', 'state']"),
        ({"name": 1, "config": {}}, "name = 1: must be a text"),
        ({"name": "a", "config": []}, "config = []: must be an object"),
        (changed(tasks__max=1), "tasks.max = 1: must be a string in quotes"),
        (changed(slot__name="Down-River"), "slot.name = 'Down-River': can't be used; allowed are"),
        (changed(topic__prefix="shop-inventory"), "topic.prefix = 'shop-inventory': can't be used; allowed are"),
        (changed(table__include__list="public.(users|orders)"), "plain schema.table names"),
        (changed(column__exclude__list="public.users"), "plain schema.table.column names"),
        (changed(name="other"), "name = 'other': differs from the name 'downriver_accounts'"),
        (changed(table__include__list="public.users"), f"lacks {HEARTBEAT_TABLE}"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, document: object, told: str) -> None:
    path = written(tmp_path, document)
    with pytest.raises(BadInput, match=re.escape(told)) as caught:
        load([path])
    assert str(path) in str(caught.value)


def test_a_secret_in_a_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = written(tmp_path, changed(**{"database.password": "hunter2"}))
    with pytest.raises(BadInput, match=r"database\.password = '\*\*\*': a secret is never in a file") as caught:
        load([path])
    assert "hunter2" not in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    good = orjson.loads(default_files()[0].read_bytes())
    paths = [
        tmp_path / "absent.json",
        written(tmp_path, b"nonsense", "broken.json"),
        written(tmp_path, good, "first.json"),
        written(tmp_path, good, "second.json"),
        written(
            tmp_path, good | {"name": "third", "config": good["config"] | {"publication.name": "third"}}, "third.json"
        ),
    ]
    with pytest.raises(BadInput) as caught:
        load(paths)
    told = str(caught.value)
    assert told.startswith("5 mistake(s) in the connector files:"), told
    assert f"{paths[0]}: can't be read: No such file or directory" in told
    assert f"{paths[1]}: is not JSON" in told
    assert f"{paths[3]}: name = 'downriver_accounts': is already that of {paths[2]}" in told
    assert re.search(rf"{re.escape(str(paths[4]))}:1: slot\.name = 'downriver_accounts': is already that of", told)
