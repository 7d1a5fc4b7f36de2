"""A shop of a test's own on the shared stack, captured by real connectors under names of its own; nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_hex

import httpx2
import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import sql

from connectors.apply import apply
from connectors.connect import ConnectClient
from connectors.files import Connector, load, renamed
from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.tables.base import Table
from shop.commands import capture_password
from shop.migrate import migrate
from shop.names import CaptureNames
from tests.support.avro import Record

WAIT_S = 90.0


@dataclass(frozen=True, slots=True)
class CapturedShop:
    """A migrated shop with running connectors.

    Attributes:
        settings: name this shop's database and source.
    """

    settings: Settings

    def records(self, table: Table, enough: Callable[[list[Record]], bool]) -> list[Record]:
        """Read the table's topic from its beginning until `enough` says so; each partition is in order."""
        topic = table.topic(self.settings.source)
        consumer = Consumer(confluent_config(self.settings.kafka) | {"group.id": self.settings.source})
        read: list[Record] = []
        give_up_at = time.monotonic() + WAIT_S
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            while not enough(read):
                assert time.monotonic() < give_up_at, f"{topic} holds only {len(read)} records"
                for message in consumer.consume(500, timeout=0.2):
                    assert message.error() is None
                    place = (message.topic(), message.partition(), message.offset(), message.timestamp()[1])
                    read.append(Record(*place, message.key(), message.value()))
        finally:
            consumer.close()
        return read


@contextmanager
def captured_shop(settings: Settings, before: Callable[[Settings], object]) -> Iterator[CapturedShop]:
    """Make the shop, call `before` with its settings, then start the connectors: what is there then is their snapshot."""
    source = f"c{token_hex(4)}"
    postgres = settings.postgres.model_copy(update={"database": source})
    own = settings.model_copy(update={"postgres": postgres, "source": source})
    connectors = [renamed(connector, source, source) for connector in load()]
    try:
        migrate(own, capture_password(settings), names=CaptureNames(publication_prefix=source))
        before(own)
        apply(own, connectors, WAIT_S)
        yield CapturedShop(own)
    finally:
        for connector in connectors:
            _remove(own, connector)
        _forget(own)


def _remove(settings: Settings, connector: Connector) -> None:
    """Take a connector, its offsets and its slot away."""
    with ConnectClient(settings.connect, 30) as client:
        if client.config(connector.name) is not None:
            client.stop(connector.name)
            url = f"{settings.connect.url}/connectors/{connector.name}/offsets"
            _until(lambda: httpx2.delete(url, timeout=30).status_code == 200)
            client.delete(connector.name)
    with psycopg.connect(settings.postgres.dsn(dbname="postgres"), autocommit=True) as connection:
        drop = (
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active"
        )
        there = "SELECT FROM pg_replication_slots WHERE slot_name = %s"

        def gone() -> bool:
            connection.execute(drop, [connector.slot])
            return not connection.execute(there, [connector.slot]).fetchall()

        _until(gone)


def _forget(settings: Settings) -> None:
    """Take the topics, the schemas and the database away."""
    prefixes = (f"{settings.source}_", f"__debezium-heartbeat.{settings.source}_", f"{settings.source}.outbox.")
    admin = AdminClient(confluent_config(settings.kafka))
    if topics := [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(prefixes)]:
        for done in admin.delete_topics(topics).values():
            done.result(30)
    for subject in httpx2.get(f"{settings.registry.url}/subjects", timeout=30).json():
        if subject.startswith(prefixes):
            httpx2.delete(f"{settings.registry.url}/subjects/{subject}", timeout=30).raise_for_status()
    with psycopg.connect(settings.postgres.dsn(dbname="postgres"), autocommit=True) as connection:
        name = sql.Identifier(settings.postgres.database)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def _until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
