"""A source of its own on the running stack, for tests of what watches the topics: no connector, no worker, real servers.

Records, heartbeats and a worker's publications are written by hand, so that a test says exactly what was there, and when.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import wait
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import psycopg
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import CollectorRegistry

from connectors import files
from connectors.files import Connector, renamed
from downriver.kafka import aiokafka_config, confluent_config
from downriver.settings import Settings
from processors.propagation.capture import heartbeat_tables
from processors.propagation.monitor import Monitor
from processors.propagation.recorder import Recorder
from processors.propagation.rules import load_rules, rule_set
from processors.propagation.state import State, StateKey
from processors.propagation.status import Health, Status
from processors.propagation.topic import ensure_topics, topic_name
from schemas.agreed import SUFFIX
from schemas.contracts import topic_of
from tests.support.avro import Capture, Record, Registry, encode, envelope_schema, key_schema, table
from tests.support.columns import TIMESTAMPTZ, required, sample

TABLES = ("inventory", "products", "reviews")


@dataclass
class RealRegistry(Registry):
    """Registers the builders' schemas at the stack's registry."""

    url: str
    ids: dict[str, int] = field(default_factory=dict)
    subjects: set[str] = field(default_factory=set)

    def register(self, schema: Any) -> int:
        text = json.dumps(schema)
        if text not in self.ids:
            subject = f"{schema['namespace']}-{'key' if schema['name'] == 'Key' else 'value'}"
            answer = httpx2.post(f"{self.url}/subjects/{subject}/versions", json={"schema": text}, timeout=10)
            self.ids[text] = answer.raise_for_status().json()["id"]
            self.subjects.add(subject)
        return self.ids[text]

    def clean(self) -> None:
        for subject in self.subjects:
            httpx2.delete(f"{self.url}/subjects/{subject}", timeout=10).raise_for_status()
        for topic in {topic_of(subject) for subject in self.subjects}:  # the workers' notes on them
            answer = httpx2.delete(f"{self.url}/subjects/{topic}{SUFFIX}", timeout=10)
            assert answer.status_code in {200, 404}, answer.text


@dataclass
class River:
    """A source of its own: topics, heartbeats, connectors that only exist on paper, and a worker's publications."""

    settings: Settings
    capture: Capture
    connectors: list[Connector]
    producer: AIOKafkaProducer
    began_s: float = field(default_factory=time.time)
    """Ages count from here, so that what a test compares does not depend on how long it takes."""

    async def send(self, record: Record) -> int:
        sent = await self.producer.send_and_wait(
            record.topic, record.value, record.key, record.partition, record.timestamp
        )
        return int(sent.offset)

    async def change(self, name: str, op: str, *, age_s: float = 0.0, partition: int = 0, **more: Any) -> int:
        """Write a change committed that long before the test began; return its offset."""
        at = datetime.fromtimestamp(self.began_s - age_s, UTC)
        rows = {"after": sample(name)} if op != "d" else {"before": sample(name)}
        return await self.send(self.capture.record(name, op, committed_at=at, partition=partition, **(rows | more)))

    async def price(self, new: str, age_s: float) -> int:
        before, after = sample("products"), sample("products", price=Decimal(new))
        return await self.change("products", "u", age_s=age_s, before=before, after=after)

    async def beat(self, age_s: float = 0.0) -> None:
        """Write a heartbeat of every lane."""
        at = datetime.now(UTC) - timedelta(seconds=age_s)
        for heartbeat in heartbeat_tables():
            topic = heartbeat.topic(self.settings.source)
            columns = {"lane": required("string"), "beat_at": required(TIMESTAMPTZ)}
            value_schema = envelope_schema(topic, columns)
            row = {"lane": heartbeat.lane.value, "beat_at": at.isoformat()}
            source = {
                "version": "3.7.0.Final",
                "connector": "postgresql",
                "name": topic.removesuffix(f".{heartbeat.id}"),
                "ts_ms": int(at.timestamp() * 1000),
                "snapshot": "false",
                "db": "shop",
                "schema": "public",
                "table": "downriver_heartbeat",
                "txId": 1,
                "lsn": 8,
            }
            value = {"before": None, "after": row, "source": source, "op": "u"}
            register = self.capture.registry.register
            key_of = key_schema(topic, columns, ("lane",))
            await self.producer.send_and_wait(
                topic,
                encode(value_schema, value, register(value_schema)),
                encode(key_of, {"lane": row["lane"]}, register(key_of)),
                0,
            )

    async def publish(self, key: bytes, value: bytes) -> None:
        await self.producer.send_and_wait(topic_name(self.settings), value, key)

    async def show(self, sink: str, name: str, visible: int, partition: int = 0, **more: Any) -> None:
        """Publish, as a worker does, that readers of the sink see everything below `visible`."""
        key = StateKey(sink, table(name).topic(self.settings.source), partition)
        await self.publish(key.encode(), State(visible, **more).encode())

    def recorder(self) -> Recorder:
        return Recorder(
            "cache", rule_set(load_rules()), settings=self.settings, publish=self.publish, registry=CollectorRegistry()
        )

    def standing(self, status: Status, rule: str) -> tuple[Health, float | None, int]:
        """Return state, age of the oldest unseen when the test began, count."""
        found = status.standings[rule, "cache"]
        age_s = found.oldest_s and round(self.began_s - (status.at_s - found.oldest_s), 2)
        return found.state, age_s, found.figures.count

    def monitor(self) -> Monitor:
        return Monitor(self.settings, connectors=self.connectors, sinks=("cache",))


@asynccontextmanager
async def river_on(settings: Settings) -> AsyncIterator[River]:
    """Give a river on the running stack; remove all of it afterwards."""
    name = f"p{uuid.uuid4().hex[:8]}"
    mine = settings.model_copy(update={"source": name, "group_prefix": name})
    admin = AdminClient(confluent_config(mine.kafka))
    topics = [NewTopic(table(each).topic(name), 8, 1) for each in TABLES]
    topics += [NewTopic(each.topic(name), 1, 1) for each in heartbeat_tables()]
    registry = RealRegistry(mine.registry.url)
    connectors = [renamed(each, name, "shop") for each in files.load()]
    producer = AIOKafkaProducer(**aiokafka_config(mine.kafka))
    with psycopg.connect(mine.postgres.dsn(dbname="postgres"), autocommit=True) as source:
        try:
            for made in admin.create_topics(topics, operation_timeout=10).values():
                made.result(30)
            await ensure_topics(mine)
            await producer.start()
            for each in connectors:
                source.execute("SELECT pg_create_physical_replication_slot(%s, true)", [each.slot])
            yield River(mine, Capture(source=name, registry=registry), connectors, producer)
        finally:  # also when the stack took only half of it
            drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
            for each in connectors:
                source.execute(drop, [each.slot])
            await producer.stop()
            names = [topic.topic for topic in topics] + [topic_name(mine)]
            wait(admin.delete_topics(names, operation_timeout=10).values(), 30)
            registry.clean()
