"""Files in three shapes, overlays, and the way back: what is read is what was written, and every mistake has its place."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from connectors.connector import Connector, State
from connectors.files import load, look
from connectors.reading import Unreadable, read
from connectors.shapes import as_curl, as_json, as_strimzi, resource_name, without_secrets
from downriver.exits import BadInput

NAMES = st.from_regex(r"[a-z][a-z0-9.]{0,30}", fullmatch=True).filter(lambda key: key not in {"name", "config"})
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)
CONFIGS = st.dictionaries(NAMES, TEXTS, max_size=8)


def file(folder: Path, text: str, name: str = "a.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


STRIMZI = """
apiVersion: kafka.strimzi.io/v1
kind: KafkaConnector
metadata:
  name: stock
  labels: {strimzi.io/cluster: c}
spec:
  class: io.debezium.connector.postgresql.PostgresConnector
  tasksMax: 1
  state: paused
  config:
    slot.drop.on.stop: false
    poll.interval.ms: 0020
    topic.prefix: 1_000
    snapshot.mode: null
"""


def test_strimzis_form_is_read_as_strimzi_means_it(tmp_path: Path) -> None:
    (document,) = read(file(tmp_path, STRIMZI))
    assert (document.name, document.state) == ("stock", State.PAUSED)
    assert document.config == {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "slot.drop.on.stop": "false",
        "poll.interval.ms": "0020",
        "topic.prefix": "1_000",
        "snapshot.mode": None,
    }
    assert document.lines["poll.interval.ms"] == 13
    assert document.lines["connector.class"] == 8


def test_a_yaml_file_may_hold_several(tmp_path: Path) -> None:
    text = "name: a\nconfig: {x: 1}\n---\n# nothing\n---\nname: b\nconfig: {x: yes}\n"
    assert [(each.name, dict(each.config)) for each in read(file(tmp_path, text))] == [
        ("a", {"x": "1"}),
        ("b", {"x": "yes"}),
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", '{"name": "a", "config": {"x": "1", "x": "2"}}', "x: stands twice"),
        ("a.json", '{"name": "a",\n "config": {,}}', "is not JSON: "),
        ("a.json", '{"name": "a",\n "config": {,}}', "in line 2, column 13"),
        ("a.yaml", "name: a\nconfig:\n  x: 1\n  x: 2\n", "x: stands twice (line 4)"),
        ("a.yaml", "name: a\nconfig: [\n", "is not YAML: "),
        ("a.yaml", "", "is empty"),
        ("a.yaml", "name: a\nconfig: text\n", "config = 'text': must be an object"),
        ("a.yaml", "kind: KafkaConnector\nspec: {}\n", "without metadata or spec"),
        ("a.yaml", STRIMZI.replace("    topic.prefix", "    tasks.max"), "spec.config holds tasks.max"),
        ("a.yaml", STRIMZI.replace("paused", "asleep"), "spec.state = 'asleep': allowed are running, paused, stopped"),
        ("a.yaml", "a: &a [*a]\n", "is"),
        ("a.yaml", "name: !!python/object:os.system a\nconfig: {}\n", "is not YAML"),
    ],
)
def test_what_can_not_be_read_is_told_with_its_place(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(file(tmp_path, text, name))
    assert told in str(caught.value)


def test_bytes_that_are_no_text_and_absent_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    for name, told in (("a.yaml", "is not UTF-8 text"), ("absent.json", "can't be read: No such file or directory")):
        with pytest.raises(Unreadable, match=told):
            read(tmp_path / name)


@given(config=CONFIGS, state=st.sampled_from(State))
def test_every_shape_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, str], state: State
) -> None:
    folder = tmp_path_factory.mktemp("shapes")
    connector = Connector(
        "stock",
        {"connector.class": "a.B", "tasks.max": "1", "connector.plugin.version": "3.7", **config},
        "memory",
        state,
    )
    (from_json,) = read(file(folder, as_json(connector), "a.json"))
    assert (from_json.name, from_json.config) == ("stock", connector.config)
    (from_strimzi,) = read(file(folder, as_strimzi(connector, "c"), "b.yaml"))
    assert (from_strimzi.name, from_strimzi.config, from_strimzi.state) == ("stock", connector.config, state)


def test_a_kubernetes_resource_has_no_underscore() -> None:
    assert resource_name("downriver_Inventory") == "downriver-inventory"
    document = yaml.safe_load(as_strimzi(Connector("a_b", {"connector.class": "a.B"}, "memory"), "c"))
    assert (document["metadata"], document["spec"]["state"]) == (
        {"name": "a-b", "labels": {"strimzi.io/cluster": "c"}},
        "running",
    )


def test_the_curl_command_leaves_the_workers_placeholders_alone() -> None:
    connector = Connector("a", {"connector.class": "a.B", "database.password": "${env:P}"}, "memory", State.STOPPED)
    text = as_curl(connector, "http://connect:8083/", login=True)
    assert "'CONNECTOR'" in text
    assert '"database.password": "${env:P}"' in text
    assert "http://connect:8083/connectors/a/config" in text
    assert text.rstrip().endswith("-X PUT http://connect:8083/connectors/a/stop")
    assert '--user "$CONNECT_USER:$CONNECT_PASSWORD"' in text


def test_an_imported_secret_becomes_a_variable() -> None:
    config = {"database.password": "hunter2", "database.user": "me", "x.password": "${env:X}"}
    assert without_secrets("shop-1", config) == (
        {"database.password": "${env:SHOP_1_DATABASE_PASSWORD}", "database.user": "me", "x.password": "${env:X}"},
        {"database.password": "SHOP_1_DATABASE_PASSWORD"},
    )


def overlaid(folder: Path) -> Path:
    ours = Path(__file__).parents[2] / "connectors"
    for lane in ("catalog", "inventory"):
        file(folder, (ours / f"downriver_{lane}.json").read_text(encoding="utf-8"), f"downriver_{lane}.json")
    return folder


def test_an_overlay_is_merged_key_by_key_and_null_removes(tmp_path: Path) -> None:
    folder = overlaid(tmp_path)
    before = {connector.name: dict(connector.config) for connector in load([folder])}
    every = 'name: "*"\nconfig:\n  topic.creation.default.replication.factor: 3\n  poll.interval.ms: 40\n'
    file(folder, every, "overlays/prod/every.yaml")
    one = {"name": "downriver_catalog", "config": {"poll.interval.ms": "50", "errors.max.retries": None}}
    file(folder, orjson.dumps(one).decode(), "overlays/prod/downriver_catalog.json")
    after = {connector.name: dict(connector.config) for connector in load([folder], "prod")}
    common = {"topic.creation.default.replication.factor": "3"}
    catalog = before["downriver_catalog"] | common | {"poll.interval.ms": "50"}
    del catalog["errors.max.retries"]
    assert after == {
        "downriver_catalog": catalog,
        "downriver_inventory": before["downriver_inventory"] | common | {"poll.interval.ms": "40"},
    }
    assert {connector.name: dict(connector.config) for connector in load([folder])} == before


def test_a_finding_in_an_overlay_names_the_overlays_line(tmp_path: Path) -> None:
    folder = overlaid(tmp_path)
    text = "name: downriver_catalog\nconfig:\n  slot.drop.on.stop: true\n  poll.interval.ms: 900  # lint: poll-interval a test\n"
    path = file(folder, text, "overlays/prod/a.yaml")
    findings = look([folder], "prod").findings
    assert [(each.rule, each.place, each.silenced) for each in findings] == [
        ("slot-dropped", f"{path}:3", ""),
        ("poll-interval", f"{path}:4", "a test"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "overlay", "told"),
    [
        (
            "overlays/prod/a.yaml",
            "name: absent\nconfig: {}\n",
            "prod",
            "name = 'absent': no such connector here; there are",
        ),
        ("overlays/prod/a.yaml", "name: [", "prod", "is not YAML"),
        ("overlays/prod/a.yaml", "name: '*'\nconfig: {}\n", "test", "there is no overlay 'test'; there are: prod"),
    ],
)
def test_a_mistake_in_an_overlay_is_told(tmp_path: Path, name: str, text: str, overlay: str, told: str) -> None:
    folder = overlaid(tmp_path)
    file(folder, text, name)
    with pytest.raises(BadInput) as caught:
        load([folder], overlay)
    assert told in str(caught.value)
    assert "overlays" in str(caught.value)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no connector file"):
        load([tmp_path])
