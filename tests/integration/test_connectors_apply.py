"""The connector files on the real Connect: what arrives in Kafka, where, and what `apply` says and does."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from secrets import token_hex
from typing import Any

import fastavro
import httpx2
import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource

from connectors.apply import Action, apply
from connectors.connect import ConnectClient
from connectors.files import HEARTBEAT_TABLE, Connector, load, renamed
from downriver.exits import BadInput, Exit
from downriver.kafka import confluent_config
from downriver.settings import Settings
from schemas.registry import SchemaRegistry
from shop.commands import capture_password
from shop.migrate import migrate
from shop.names import CaptureNames

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]
WAIT_S = 90.0
PRODUCTS = [uuid.UUID(int=0x5EED_0000_0000_4000_8000_0000_0000_0000 + number * 7919) for number in range(1, 25)]


@dataclass(frozen=True, slots=True)
class Seen:
    """One record, decoded."""

    partition: int
    key: dict[str, Any]
    value: dict[str, Any] | None
    schema: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Capture:
    """A shop of our own on the shared stack, captured under names of our own."""

    settings: Settings
    source: str
    connectors: list[Connector]
    registry: SchemaRegistry

    def execute(self, query: str, *parameters: object) -> None:
        """Commit one statement."""
        with psycopg.connect(self.settings.postgres.dsn(), autocommit=True) as connection:
            connection.execute(query.encode(), parameters or None)

    def lane(self, lane: str) -> Connector:
        """Return the connector of a lane."""
        return next(connector for connector in self.connectors if connector.name.endswith(f"_{lane}"))

    def read(self, lane: str, table: str, enough: Callable[[list[Seen]], bool]) -> list[Seen]:
        """Read the table's topic from its beginning until `enough` says so, each partition in order."""
        topic = f"{self.source}_{lane}.public.{table}"
        consumer = Consumer(
            confluent_config(self.settings.kafka)
            | {
                "group.id": self.source,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
            }
        )
        seen: list[Seen] = []
        give_up_at = time.monotonic() + 60
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            while not enough(seen):
                assert time.monotonic() < give_up_at, f"{topic} holds only {seen}"
                for message in consumer.consume(500, timeout=0.2):
                    assert message.error() is None
                    value, schema = self._decoded(message.value())
                    key, _ = self._decoded(message.key())
                    assert key is not None
                    seen.append(Seen(message.partition(), key, value, schema))
        finally:
            consumer.close()
        return seen

    def _decoded(self, framed: bytes | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        if framed is None:
            return None, None
        assert framed[0] == 0
        schema = dict(self.registry.schema(int.from_bytes(framed[1:5], "big")))
        body = io.BytesIO(framed[5:])
        decoded = fastavro.schemaless_reader(body, fastavro.parse_schema(schema.copy()), None)
        assert body.read() == b""
        assert isinstance(decoded, dict)
        return decoded, schema


def fill(capture: Capture) -> None:
    """Before the snapshot: every product with stock in two warehouses; a user."""
    for number, product in enumerate(PRODUCTS):
        capture.execute(
            "INSERT INTO products (id, sku, name, category, price) VALUES (%s, %s, %s, 'audio', 19.99)",
            product,
            f"sku-{number}",
            f"Headphones {number}",
        )
        capture.execute("INSERT INTO inventory VALUES (%s, 1, 10), (%s, 2, 20)", product, product)


@pytest.fixture(scope="module")
def capture(settings: Settings) -> Iterator[Capture]:
    source = f"t{token_hex(4)}"
    postgres = settings.postgres.model_copy(update={"database": source})
    own = settings.model_copy(update={"postgres": postgres})
    registry = SchemaRegistry(settings.registry)
    connectors = [renamed(connector, source, source) for connector in load()]
    made = Capture(own, source, connectors, registry)
    try:
        migrate(own, capture_password(settings), names=CaptureNames(publication_prefix=source))
        fill(made)
        results = apply(own, connectors, WAIT_S)
        assert [(result.action, result.state, result.error) for result in results] == [
            (Action.CREATED, "RUNNING", "")
        ] * len(connectors)
        yield made
    finally:
        for connector in connectors:
            remove(own, connector)
        forget(own, source)
        registry.close()


def remove(settings: Settings, connector: Connector) -> None:
    """Take a connector, its offsets and its slot away."""
    with ConnectClient(settings.connect, 30) as client:
        if client.config(connector.name) is not None:
            client.stop(connector.name)
            until(
                lambda: (now := client.status(connector.name)) is not None and now.state == "STOPPED" and not now.tasks
            )
            httpx2.delete(f"{settings.connect.url}/connectors/{connector.name}/offsets", timeout=30).raise_for_status()
            client.delete(connector.name)
    with psycopg.connect(settings.postgres.dsn(dbname="postgres"), autocommit=True) as connection:
        unused = (
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active"
        )
        there = "SELECT FROM pg_replication_slots WHERE slot_name = %s"
        until(
            lambda: (
                connection.execute(unused, [connector.slot]).fetchall() is not None
                and not connection.execute(there, [connector.slot]).fetchall()
            )
        )


def forget(settings: Settings, source: str) -> None:
    """Take the topics, the schemas and the database of a source away."""
    admin = AdminClient(confluent_config(settings.kafka))
    prefixes = (source, f"__debezium-heartbeat.{source}")  # also those of the connector that is broken on purpose
    if topics := [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefixes)]:
        for done in admin.delete_topics(topics).values():
            done.result(30)
    for subject in httpx2.get(f"{settings.registry.url}/subjects").json():
        if subject.startswith(prefixes):
            httpx2.delete(f"{settings.registry.url}/subjects/{subject}").raise_for_status()
    with psycopg.connect(settings.postgres.dsn(dbname="postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{source}" WITH (FORCE)'.encode())


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


def by_product(seen: list[Seen], column: str) -> dict[str, set[int]]:
    """Return on which partitions the changes of each product were found."""
    found: dict[str, set[int]] = {}
    for record in seen:
        assert record.value is not None
        row = record.value["after"] or record.value["before"]
        found.setdefault(row[column], set()).add(record.partition)
    return found


def ops(seen: list[Seen], **key: object) -> list[Any]:
    return [record.value and record.value["op"] for record in seen if record.key == key]


def test_a_change_arrives_as_confluent_framed_avro(capture: Capture) -> None:
    product = str(PRODUCTS[0])
    capture.execute("UPDATE products SET price = 24.50, tags = '{new,red}' WHERE id = %s", PRODUCTS[0])
    seen = capture.read("catalog", "products", lambda seen: "u" in ops(seen, id=product))
    snapshot, update = [record for record in seen if record.key == {"id": product}]
    assert snapshot.value is not None
    assert update.value is not None
    assert update.schema is not None
    assert (snapshot.value["op"], snapshot.value["before"]) == ("r", None)
    assert (update.value["op"], update.value["before"]["price"], update.value["after"]["price"]) == (
        "u",
        Decimal("19.99"),
        Decimal("24.50"),
    )
    assert update.value["after"]["tags"] == ["new", "red"]
    assert update.value["source"]["lsn"] > 0
    envelope = f"{update.schema['namespace']}.{update.schema['name']}"
    assert envelope == f"{capture.source}_catalog.public.products.Envelope"
    subjects = httpx2.get(f"{capture.settings.registry.url}/subjects").json()
    topic = f"{capture.source}_catalog.public.products"
    assert {f"{topic}-key", f"{topic}-value"} <= set(subjects)


def test_the_three_tables_of_a_product_meet_in_one_partition(capture: Capture) -> None:
    """Creates, updates, deletes and moves to another product, each where the product's other records are."""
    reviews = [uuid.uuid4() for _ in PRODUCTS]
    last = uuid.uuid4()
    for review, product, neighbour in zip(reviews, PRODUCTS, [*PRODUCTS[1:], PRODUCTS[0]], strict=True):
        capture.execute("INSERT INTO reviews (id, product_id, rating) VALUES (%s, %s, 4)", review, product)
        capture.execute("UPDATE reviews SET status = 'approved' WHERE id = %s", review)
        capture.execute("UPDATE reviews SET product_id = %s WHERE id = %s", neighbour, review)
        capture.execute("DELETE FROM reviews WHERE id = %s", review)
        capture.execute("UPDATE inventory SET quantity = 11 WHERE product_id = %s AND warehouse_id = 1", product)
        capture.execute("UPDATE inventory SET warehouse_id = 3 WHERE product_id = %s AND warehouse_id = 1", product)
        capture.execute("DELETE FROM inventory WHERE product_id = %s AND warehouse_id = 2", product)
        capture.execute("UPDATE products SET name = name || '!' WHERE id = %s", product)
    gone = PRODUCTS[-1]
    capture.execute("DELETE FROM inventory WHERE product_id = %s", gone)
    capture.execute("DELETE FROM products WHERE id = %s", gone)
    capture.execute("INSERT INTO reviews (id, product_id, rating) VALUES (%s, %s, 1)", last, PRODUCTS[0])

    products = capture.read("catalog", "products", lambda seen: "d" in ops(seen, id=str(gone)))
    stock = capture.read("inventory", "inventory", lambda seen: "d" in ops(seen, product_id=str(gone), warehouse_id=3))
    told = capture.read("catalog", "reviews", lambda seen: "c" in ops(seen, product_id=str(PRODUCTS[0]), id=str(last)))
    homes = by_product(products, "id")
    assert set(homes) == {str(product) for product in PRODUCTS}
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert len(set.union(*homes.values())) > 3
    assert by_product(stock, "product_id") == homes
    assert by_product(told, "product_id") == homes

    first, second = str(PRODUCTS[0]), str(PRODUCTS[1])
    assert ops(told, product_id=first, id=str(reviews[0])) == ["c", "u", "d"]
    assert ops(told, product_id=second, id=str(reviews[0])) == ["c", "d"]
    assert ops(stock, product_id=second, warehouse_id=1) == ["r", "u", "d"]
    assert ops(stock, product_id=second, warehouse_id=2) == ["r", "d"]
    assert ops(stock, product_id=second, warehouse_id=3) == ["c"]
    assert [record for record in (*products, *stock, *told) if record.value is None] == []


def test_restricted_columns_stay_at_the_source_and_deletes_leave_tombstones(capture: Capture) -> None:
    user, address = uuid.uuid4(), uuid.uuid4()
    capture.execute(
        "INSERT INTO users (id, email, name, phone, password_hash, date_of_birth, country, metadata)"
        " VALUES (%s, 'ada@example.org', 'Ada', '+44 1', 'hash', '1990-01-02', 'GB', '{\"vip\": true}')",
        user,
    )
    capture.execute(
        "INSERT INTO addresses VALUES (%s, %s, 'home', '1 Pump Court', 'London', 'EC4Y', 'GB', true)", address, user
    )
    capture.execute("DELETE FROM addresses WHERE id = %s", address)
    capture.execute("DELETE FROM users WHERE id = %s", user)
    users = capture.read("accounts", "users", lambda seen: None in ops(seen, id=str(user)))
    addresses = capture.read("accounts", "addresses", lambda seen: None in ops(seen, id=str(address)))
    for seen, key, columns in (
        (users, user, "id email status country created_at updated_at deleted_at purge_after"),
        (addresses, address, "id user_id kind country is_default"),
    ):
        mine = [record for record in seen if record.key == {"id": str(key)}]
        assert [record.value and record.value["op"] for record in mine] == ["c", "d", None]
        created, deleted = mine[0].value, mine[1].value
        assert created is not None
        assert deleted is not None
        assert list(created["after"]) == list(deleted["before"]) == columns.split()
    assert users[0].value is not None
    assert users[0].value["after"]["email"] == "ada@example.org"


def test_topics_of_another_shape_are_refused(capture: Capture) -> None:
    connector = capture.lane("catalog")
    wider = Connector(connector.name, {**connector.config, "topic.creation.default.partitions": "16"}, "memory")
    with pytest.raises(BadInput, match=rf"{connector.prefix}\.public\.products has 8 partition\(s\) and needs 16"):
        apply(capture.settings, [wider], WAIT_S)


def test_every_topic_is_there_compacted_with_stated_partitions(capture: Capture) -> None:
    """Also those of tables that nobody has written to yet."""
    admin = AdminClient(confluent_config(capture.settings.kafka))
    wanted = {
        **{
            f"{connector.prefix}.{table}": 8
            for connector in capture.connectors
            for table in set(connector.tables) - connector.outboxes
        },
        **{f"{connector.prefix}.{HEARTBEAT_TABLE}": 1 for connector in capture.connectors},
        **{f"__debezium-heartbeat.{connector.prefix}": 1 for connector in capture.connectors},
    }
    topics = admin.list_topics(timeout=10).topics
    assert {topic: len(topics[topic].partitions) for topic in wanted} == wanted
    described = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in wanted])
    found = {resource.name: done.result(10)["cleanup.policy"].value for resource, done in described.items()}
    assert found == dict.fromkeys(wanted, "compact")


def test_applying_again_changes_nothing(capture: Capture) -> None:
    again = apply(capture.settings, capture.connectors, WAIT_S)
    ended = [(result.action, result.state, result.error) for result in again]
    assert ended == [(Action.UNCHANGED, "RUNNING", "")] * len(capture.connectors)


def test_other_settings_are_an_update_and_changes_flow_on(capture: Capture) -> None:
    connector = capture.lane("catalog")
    slower = Connector(connector.name, {**connector.config, "poll.interval.ms": "30"}, "memory")
    (result,) = apply(capture.settings, [slower], WAIT_S)
    assert (result.action, result.state, result.error) == (Action.UPDATED, "RUNNING", "")
    with ConnectClient(capture.settings.connect, 10) as client:
        config = client.config(connector.name)
    assert config == slower.config
    capture.execute("UPDATE products SET price = 77 WHERE id = %s", PRODUCTS[2])
    seen = capture.read(
        "catalog",
        "products",
        lambda seen: any(r.value and r.value["after"] and r.value["after"]["price"] == 77 for r in seen),
    )
    assert ops(seen, id=str(PRODUCTS[2])).count("r") == 1  # no second snapshot
    (back,) = apply(capture.settings, [connector], WAIT_S)
    assert (back.action, back.state) == (Action.UPDATED, "RUNNING")


def test_a_stopped_connector_is_started_again(capture: Capture) -> None:
    connector = capture.lane("inventory")
    with ConnectClient(capture.settings.connect, 30) as client:
        client.stop(connector.name)
        until(lambda: (now := client.status(connector.name)) is not None and now.state == "STOPPED")
    (result,) = apply(capture.settings, [connector], WAIT_S)
    assert (result.action, result.state, result.error) == (Action.STARTED, "RUNNING", "")


def test_settings_that_the_connector_refuses_leave_the_old_ones_running(capture: Capture) -> None:
    connector = capture.lane("inventory")
    wrong = Connector(connector.name, {**connector.config, "poll.interval.ms": "soon"}, "memory")
    (result,) = apply(capture.settings, [wrong], WAIT_S)
    assert result.action == Action.REFUSED
    assert "poll.interval.ms" in result.error
    with ConnectClient(capture.settings.connect, 10) as client:
        now = client.status(connector.name)
    assert now is not None
    assert (now.state, [task.state for task in now.tasks]) == ("RUNNING", ["RUNNING"])


def test_a_missing_plugin_is_named(capture: Capture) -> None:
    connector = capture.lane("inventory")
    wrong = Connector(connector.name, {**connector.config, "key.converter": "org.example.NoSuchConverter"}, "a.json")
    with pytest.raises(BadInput, match=r"lacks plugins.*org\.example\.NoSuchConverter \(wanted by a\.json\)"):
        apply(capture.settings, [wrong], WAIT_S)


def command(
    folder: Path, connector: Connector, *options: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    file = folder / f"{connector.name}.json"
    file.write_bytes(orjson.dumps({"name": connector.name, "config": dict(connector.config)}))
    return subprocess.run(
        [sys.executable, "-m", "downriver.cli", "connectors", "apply", str(file), "-o", "json", *options],
        env=os.environ | environment,
        capture_output=True,
        check=False,
        timeout=120,
    )


def test_a_task_that_fails_shows_its_error_and_exits_1(capture: Capture, tmp_path: Path) -> None:
    """A registry that nobody hears: everything can be checked, and the first record fails the task."""
    broken = renamed(load()[0], f"{capture.source}x", capture.source)
    config = {**broken.config, "publication.name": capture.lane("accounts").publication}
    config["value.converter.apicurio.registry.url"] = "http://127.0.0.1:9/apis/registry/v2"
    broken = Connector(broken.name, config, "memory")
    try:
        done = command(tmp_path, broken, "--wait", "60")
        assert done.returncode == Exit.FAILED, done.stderr
        (record,) = orjson.loads(done.stdout)
        assert (record["connector"], record["action"], record["state"]) == (broken.name, "created", "FAILED")
        assert record["error"].startswith("task 0 failed: org.apache.kafka.connect.errors.ConnectException: ")
        assert "Caused by" in record["error"]
    finally:
        remove(capture.settings, broken)


def test_a_connect_that_is_away_longer_than_the_wait_exits_3(capture: Capture, tmp_path: Path) -> None:
    done = command(
        tmp_path, capture.lane("catalog"), "--wait", "0.5", DOWNRIVER_CONNECT__URL="http://127.0.0.1:9/connect"
    )
    assert (done.returncode, done.stdout) == (Exit.SERVER_AWAY, b"")
    assert b"Kafka Connect at http://127.0.0.1:9/connect can't be reached" in done.stderr.replace(b"\n", b" ")
