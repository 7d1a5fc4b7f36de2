"""The linter: every rule finds its fault in one of our files with one thing changed, and nothing else; silences; names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from connectors.connector import masked, written_out
from connectors.files import FOLDER, default_files, look
from connectors.lint import SILENCES, Severity, between, values
from connectors.lint.known import unknown
from processors.tables import TABLES

CATALOG = "downriver_catalog"


def changed(name: str = CATALOG, /, **config: object) -> dict[str, Any]:
    """One of our files with some settings replaced; None takes one away. Dots are written as __."""
    document: dict[str, Any] = orjson.loads((FOLDER / f"{name}.json").read_bytes())
    document["config"] |= {key.replace("__", "."): value for key, value in config.items()}
    document["config"] = {key: value for key, value in document["config"].items() if value is not None}
    return document


def written(folder: Path, document: object, name: str = f"{CATALOG}.json") -> Path:
    path = folder / name
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return path


def found(folder: Path, **config: object) -> list[tuple[str, Severity]]:
    files = look([written(folder, changed(**config))], tables=TABLES)
    return [(each.rule, each.severity) for each in files.findings]


def test_our_own_files_are_clean() -> None:
    files = look(tables=TABLES)
    assert [str(each) for each in files.findings] == []
    assert [connector.origin for connector in files.connectors] == [str(path) for path in default_files()]
    assert files.whole


E, W = Severity.ERROR, Severity.WARNING
FAULTS: list[tuple[dict[str, object], list[tuple[str, Severity]]]] = [
    ({"connector__class": "io.debezium.connector.mysql.MySqlConnector"}, [("class", E)]),
    ({"heartbeat__action__query": None}, [("required", E)]),
    ({"plugin__name": "wal2json"}, [("plugin", E)]),
    ({"publication__autocreate__mode": None}, [("publication-autocreate", E)]),
    ({"offset__mismatch__strategy": None}, [("offset-mismatch", E)]),
    ({"offset__mismatch__strategy": "trust_slot"}, [("offset-mismatch", E)]),
    ({"slot__drop__on__stop": "true"}, [("slot-dropped", E)]),
    ({"event__processing__failure__handling__mode": "skip"}, [("failures-skipped", E)]),
    ({"event__converting__failure__handling__mode": "skip"}, [("failures-skipped", E)]),
    ({"errors__tolerance": "all"}, [("errors-tolerated", E)]),
    ({"skipped__operations": "t,d"}, [("operations-skipped", E)]),
    ({"skipped__operations": "none"}, [("truncate", E)]),
    ({"snapshot__mode": "always"}, [("snapshot-mode", E)]),
    ({"snapshot__mode": "when_needed"}, [("snapshot-silent", W)]),
    ({"snapshot__mode": "no_data"}, [("no-snapshot", W)]),
    ({"errors__max__retries": "3"}, [("gives-up", W)]),
    ({"producer__override__acks": "1"}, [("acks", E)]),
    ({"producer__override__enable__idempotence": "false"}, [("reordered", E)]),
    ({"producer__override__max__in__flight__requests__per__connection": "6"}, [("reordered", E)]),
    ({"decimal__handling__mode": "double"}, [("decimals", E)]),
    ({"time__precision__mode": "connect"}, [("microseconds", W)]),
    ({"unavailable__value__placeholder": None}, [("placeholder", W)]),
    ({"schema__name__adjustment__mode": "none"}, [("avro-names", W)]),
    ({"poll__interval__ms": "500"}, [("poll-interval", W)]),
    ({"poll__interval__ms": None}, [("poll-interval", W)]),
    ({"producer__override__linger__ms": "100"}, [("linger", W)]),
    ({"heartbeat__interval__ms": "0"}, [("heartbeat-slow", E)]),
    ({"heartbeat__interval__ms": "60000"}, [("heartbeat-slow", E)]),
    ({"snapshot__isolation__mode": None}, [("snapshot-waits", W)]),
    ({"tasks__max": "4"}, [("tasks", W)]),
    ({"name": "another"}, [("name", E)]),
    ({"slot__name": "Down-River"}, [("form", E)]),
    ({"topic__prefix": "shop-catalog"}, [("form", E)]),
    ({"database__password": "hunter2"}, [("secret", E)]),
    ({"key__converter__apicurio__registry__url": "http://me:hunter2@registry:8080/apis"}, [("secret", E)]),
    ({"pol__interval__ms": "20"}, [("unknown-setting", E)]),
    ({"table__exclude__list": "public.orders"}, [("two-lists", E)]),
    ({"tombstones__on__delete": "true"}, [("tombstones", E)]),
    ({"transforms__routeReviews__partition__topic__num": "4"}, [("partitions", E)]),
    ({"transforms__routeReviews__predicate": None}, [("routes-heartbeats", E), ("routing", E)]),
    ({"max__queue__size": "2048"}, [("queue", E)]),
    ({"value__converter": "org.apache.kafka.connect.json.JsonConverter"}, [("null-default", E)]),
    (
        {
            "value__converter": "io.confluent.connect.avro.AvroConverter",
            "value__converter__ignore__default__for__nullables": "false",
        },
        [("null-default", E)],
    ),
    (
        {
            "value__converter": "io.confluent.connect.avro.AvroConverter",
            "value__converter__ignore__default__for__nullables": "true",
        },
        [],
    ),
    ({"topic__creation__default__cleanup__policy": "delete"}, [("retention", W)]),
    (
        {"table__include__list": "public.products,public.reviews"},
        [("heartbeat-table", E)],
    ),
    (
        {"table__include__list": "public.products,public.reviews,public.wishes,public.downriver_heartbeat"},
        [("table-unknown", W)],
    ),
    ({"message__key__columns": "public.reviews:id"}, [("key", E)]),
    ({"transforms__routeProducts__partition__payload__fields": "change.sku"}, [("routing", E)]),
]


@pytest.mark.parametrize(("config", "expected"), FAULTS, ids=[str(config)[:60] for config, _ in FAULTS])
def test_each_rule_finds_its_fault_and_only_that(
    tmp_path: Path, config: dict[str, object], expected: list[tuple[str, Severity]]
) -> None:
    assert found(tmp_path, **config) == expected


def test_every_rule_about_one_setting_is_tried_here() -> None:
    assert {rule.name for rule in values.RULES} - {rule for _, expected in FAULTS for rule, _ in expected} == set()


def test_a_filter_is_told(tmp_path: Path) -> None:
    config = {"transforms": "routeProducts,routeReviews,few", "transforms__few__type": "io.debezium.transforms.Filter"}
    assert found(tmp_path, **config) == [("rows-filtered", W)]


def test_an_event_router_that_meets_heartbeats_is_told(tmp_path: Path) -> None:
    document = changed("downriver_events")
    del document["config"]["transforms.events.predicate"]
    (finding,) = look([written(tmp_path, document, "downriver_events.json")], tables=TABLES).findings
    assert (finding.rule, finding.severity, finding.key) == ("routes-heartbeats", E, "transforms.events.type")
    document["config"]["predicates.outbox.pattern"] = ".*heartbeat.*"  # and now the outbox has no sink, nor any route
    document["config"]["transforms.events.predicate"] = "outbox"
    found = look([written(tmp_path, document, "downriver_events.json")], tables=TABLES).findings
    assert {each.rule for each in found} == {"routes-heartbeats", "table-unknown"}


def test_a_restricted_column_that_would_leave_is_an_error(tmp_path: Path) -> None:
    document = changed("downriver_accounts")
    kept = [name for name in document["config"]["column.exclude.list"].split(",") if name != "public.users.phone"]
    document["config"]["column.exclude.list"] = ",".join(kept)
    (finding,) = look([written(tmp_path, document, "downriver_accounts.json")], tables=TABLES).findings
    assert (finding.rule, finding.severity) == ("restricted", E)
    assert finding.reason == "public.users.phone is Restricted and would leave the source"


def test_a_table_that_no_file_captures_is_told_of_a_whole_folder(tmp_path: Path) -> None:
    path = written(tmp_path, changed())
    assert look([path], tables=TABLES).findings == []
    uncaptured = {each.reason.partition(" ")[0] for each in look([tmp_path], tables=TABLES).findings}
    assert uncaptured == {str(table.id) for table in TABLES} - {"public.products", "public.reviews"}


def test_what_two_connectors_share_is_told_with_both_files(tmp_path: Path) -> None:
    first = written(tmp_path, changed())
    second = changed()
    second["name"] = "other"
    path = written(tmp_path, second, "other.json")
    findings = look([first, path]).findings
    assert [each.rule for each in findings] == ["duplicate-slot", "duplicate-publication", "duplicate-prefix"]
    assert all(each.place.startswith(f"{path}:") and str(first) in each.reason for each in findings)
    second["config"]["database.hostname"] = "another.example"
    written(tmp_path, second, "other.json")
    assert [each.rule for each in look([first, path]).findings] == ["duplicate-prefix"]


def test_a_file_is_named_after_its_connector(tmp_path: Path) -> None:
    (finding,) = look([written(tmp_path, changed(), "stock.json")]).findings
    assert (finding.rule, finding.severity, finding.fix) == ("file-name", W, "name the file downriver_catalog.json")


def test_a_finding_names_file_line_key_value_reason_and_fix(tmp_path: Path) -> None:
    path = written(tmp_path, changed(slot__drop__on__stop="true"))
    (finding,) = look([path]).findings
    line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "slot.drop.on.stop" in text)
    assert str(finding) == (
        f"{path}:{line}: slot.drop.on.stop = 'true': each stop drops the slot, and what is committed until the next start "
        "is lost; must be 'false' [slot-dropped]"
    )


def silence(folder: Path, *entries: dict[str, str]) -> None:
    (folder / SILENCES).write_bytes(orjson.dumps(entries))  # JSON is YAML


def test_a_silence_beside_the_file_gives_its_reason(tmp_path: Path) -> None:
    entry = {
        "connector": CATALOG,
        "setting": "poll.interval.ms",
        "rule": "poll-interval",
        "reason": "nobody waits for it",
    }
    silence(tmp_path, entry)
    files = look([written(tmp_path, changed(poll__interval__ms="900"))])
    assert [(each.rule, each.silenced) for each in files.findings] == [("poll-interval", "nobody waits for it")]
    files = look([written(tmp_path, changed())])
    assert [(each.rule, each.severity, each.reason) for each in files.findings] == [
        ("silence", W, "silences poll-interval, which finds nothing there")
    ]


def test_an_error_that_is_silenced_no_longer_keeps_the_files_from_use(tmp_path: Path) -> None:
    path = written(tmp_path, changed(skipped__operations="none"))
    assert look([path]).errors
    silence(
        tmp_path,
        {"connector": CATALOG, "setting": "skipped.operations", "rule": "truncate", "reason": "a trigger refuses it"},
    )
    assert look([path]).errors == []


@pytest.mark.parametrize(
    ("rule", "setting", "value"),
    [
        ("secret", "database.password", "hunter2"),
        ("required", "slot.name", None),
        ("class", "connector.class", "a.b.C"),
    ],
)
def test_some_rules_can_not_be_silenced(tmp_path: Path, rule: str, setting: str, value: str | None) -> None:
    silence(tmp_path, {"connector": CATALOG, "setting": setting, "rule": rule, "reason": "we are in a hurry"})
    files = look([written(tmp_path, changed(**{setting: value}))])
    assert {each.rule for each in files.errors} == {rule, "silence"}
    assert "hunter2" not in str(files.findings)


@pytest.mark.parametrize("entry", [{"rule": "a"}, "text", {"connector": 1, "setting": "", "rule": "", "reason": ""}])
def test_a_silence_that_is_no_silence_is_a_mistake(tmp_path: Path, entry: object) -> None:
    (tmp_path / SILENCES).write_bytes(orjson.dumps([entry]))
    (finding,) = look([written(tmp_path, changed())]).findings
    assert (finding.rule, finding.place) == ("file", str(tmp_path / SILENCES))
    assert "entry 1 must have exactly the texts" in finding.reason


def test_a_comment_in_yaml_silences_its_own_line(tmp_path: Path) -> None:
    config = changed(poll__interval__ms="900", snapshot__mode="no_data")["config"]
    lines = [f"  {key}: {orjson.dumps(value).decode()}" for key, value in config.items()]
    text = "\n".join([f"name: {CATALOG}", "config:", *lines])
    path = tmp_path / f"{CATALOG}.yaml"
    path.write_text(text.replace('"900"', '"900"  # lint: poll-interval a nightly copy'), encoding="utf-8")
    assert [(each.rule, each.silenced) for each in look([path]).findings] == [
        ("no-snapshot", ""),
        ("poll-interval", "a nightly copy"),
    ]
    path.write_text(text.replace('"900"', '"900"  # lint: poll-interval'), encoding="utf-8")
    files = look([path])
    assert [(each.rule, each.reason) for each in files.errors] == [
        ("silence", "silences poll-interval without a reason")
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("pol.interval.ms", "poll.interval.ms"),
        ("table.include.lists", "table.include.list"),
        ("database.hostnam", "database.hostname"),
        ("whatever", ""),
    ],
)
def test_a_mistyped_setting_is_recognised(key: str, meant: str) -> None:
    assert unknown({key: "x"}) == {key: meant}


@pytest.mark.parametrize(
    "key",
    [
        "transforms.a.type",
        "predicates.b.pattern",
        "topic.creation.default.partitions",
        "producer.override.linger.ms",
        "key.converter.schema.registry.url",
        "column.mask.hash.v2.SHA-256.with.salt.abc",
        "driver.socketTimeout",
        "database.applicationName",
        "snapshot.select.statement.overrides.public.a",
    ],
)
def test_settings_that_others_name_are_known(key: str) -> None:
    assert unknown({key: "x"}) == {}


def test_a_converter_of_ones_own_is_known_once_it_is_named() -> None:
    assert unknown({"converters": "money", "money.type": "x", "time.type": "y"}) == {"time.type": ""}


@pytest.mark.parametrize(
    ("key", "value", "out"),
    [
        ("database.password", "hunter2", True),
        ("database.password", "${env:A}", False),
        ("database.password", "${file:/run/a.properties:key}", False),
        ("database.password", "x${env:A}", True),
        ("producer.override.sasl.jaas.config", 'Plain required username="a" password="${env:P}";', False),
        ("producer.override.sasl.jaas.config", 'Plain required username="a" password="hunter2";', True),
        ("x.url", "https://user:hunter2@host/path", True),
        ("x.url", "https://user:${env:P}@host/path", False),
        ("x.url", "https://host/path", False),
        ("column.exclude.list", "public.users.password_hash", False),
        ("key.converter.basic.auth.credentials.source", "USER_INFO", True),
    ],
)
def test_a_secret_is_told_from_where_to_find_it(key: str, value: str, out: bool) -> None:
    assert written_out(key, value) is out
    assert "hunter2" not in masked(key, value)


def test_rules_have_reasons_and_names_a_person_can_type() -> None:
    assert all(re.fullmatch(r"[a-z-]+", rule.name) and rule.reason and rule.fix for rule in values.RULES)
    assert set(between.APART) == {"duplicate-slot", "duplicate-publication", "duplicate-prefix"}
