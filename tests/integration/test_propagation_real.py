"""Propagation on real servers: states in a compacted topic, the oldest unseen change, capture, arrival."""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client import CollectorRegistry

from connectors import files
from connectors.files import Connector, renamed
from downriver.exits import BadInput, DownriverError
from downriver.kafka import aiokafka_config, confluent_config
from downriver.settings import Settings
from processors.propagation.arrival import Arrival, arrived
from processors.propagation.capture import heartbeat_tables
from processors.propagation.monitor import Monitor
from processors.propagation.recorder import Recorder
from processors.propagation.rules import load_rules, rule_set
from processors.propagation.state import State, StateKey
from processors.propagation.status import Health, Status
from processors.propagation.topic import ensure_topics, load_states, topic_name
from processors.tables.base import Lane
from tests.support.avro import Capture, Record, Registry, encode, envelope_schema, key_schema, table
from tests.support.columns import TIMESTAMPTZ, required, sample

pytestmark = pytest.mark.stack
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


@pytest.fixture
async def river(settings: Settings) -> AsyncIterator[River]:
    name = f"p{uuid.uuid4().hex[:8]}"
    mine = settings.model_copy(update={"source": name, "group_prefix": name})
    admin = AdminClient(confluent_config(mine.kafka))
    topics = [NewTopic(table(each).topic(name), 8, 1) for each in TABLES]
    topics += [NewTopic(each.topic(name), 1, 1) for each in heartbeat_tables()]
    registry = RealRegistry(mine.registry.url)
    connectors = [renamed(each, name, "shop") for each in files.load()]
    producer = AIOKafkaProducer(**aiokafka_config(mine.kafka))
    for made in admin.create_topics(topics, operation_timeout=10).values():
        made.result(30)
    await ensure_topics(mine)
    await producer.start()
    with psycopg.connect(mine.postgres.dsn(dbname="postgres"), autocommit=True) as source:
        try:
            for each in connectors:
                source.execute("SELECT pg_create_physical_replication_slot(%s, true)", [each.slot])
            yield River(mine, Capture(source=name, registry=registry), connectors, producer)
        finally:
            for each in connectors:
                source.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                    [each.slot],
                )
            await producer.stop()
            names = [topic.topic for topic in topics] + [topic_name(mine)]
            for gone in admin.delete_topics(names, operation_timeout=10).values():
                gone.result(30)
            registry.clean()


async def test_figures_outlive_their_worker_and_a_redelivery_counts_once(river: River) -> None:
    topic = table("inventory").topic(river.settings.source)
    for _ in range(10):
        await river.change("inventory", "u", before=sample("inventory"))
    first = river.recorder()
    first.visible(topic, 0, 5, [("inventory", 95_000, offset) for offset in range(5)], 100.0)
    await first.flush()
    first.visible(topic, 0, 9, [("inventory", 95_000, offset) for offset in range(5, 9)], 100.0)
    # killed here, before its flush: what it did not publish is delivered again
    second = river.recorder()
    await second.restore([(topic, 0), (topic, 1)])
    second.visible(topic, 0, 10, [("inventory", 30_000, offset) for offset in range(2, 10)], 100.0)
    await second.flush()
    state = State.decode((await load_states(river.settings, "cache"))[topic, 0])
    figures = state.rules["inventory"]
    assert (state.visible, figures.count, figures.late, figures.max_s, figures.min_s) == (10, 10, 5, 70.0, 5.0)
    assert await load_states(river.settings, "search") == {}


async def test_a_topic_made_anew_is_seen_from_its_start_again(river: River) -> None:
    await river.change("inventory", "c")
    await river.show("cache", "inventory", 1, partition=0)
    await river.show("cache", "inventory", 40, partition=1)
    await river.show("cache", "users", 7)
    loaded = await load_states(river.settings, "cache")
    seen = {where: State.decode(state).visible for where, state in loaded.items()}
    inventory, users = (table(name).topic(river.settings.source) for name in ("inventory", "users"))
    assert seen == {(inventory, 0): 1, (inventory, 1): 0, (users, 0): 0}


async def test_a_topic_that_would_lose_figures_is_refused(river: River) -> None:
    await ensure_topics(river.settings)
    mine = river.settings.model_copy(update={"group_prefix": f"{river.settings.group_prefix}x"})
    admin = AdminClient(confluent_config(mine.kafka))
    admin.create_topics([NewTopic(topic_name(mine), 1, 1, config={"cleanup.policy": "delete"})])[
        topic_name(mine)
    ].result(30)
    try:
        with pytest.raises(BadInput, match=r"cleanup\.policy=delete and 1 partition"):
            await ensure_topics(mine)
    finally:
        admin.delete_topics([topic_name(mine)])[topic_name(mine)].result(30)


async def test_a_foreign_record_in_the_topic_is_named(river: River) -> None:
    await river.publish(b"hello", b"world")
    with pytest.raises(DownriverError, match="offset 0: b'hello' is no key"):
        await load_states(river.settings, "cache")


async def test_what_no_worker_ever_saw_shows_with_its_age(river: River) -> None:
    await river.beat()
    await river.change("inventory", "r", age_s=9000, snapshot="true", lsn=None)
    await river.change("inventory", "u", age_s=9000, before=sample("inventory"), origin="downriver_repair")
    async with river.monitor() as monitor:
        quiet = await monitor.look()
        assert river.standing(quiet, "inventory") == (Health.OK, 0, 0)  # snapshot rows and repairs count for nothing
        await river.change("inventory", "u", age_s=30, before=sample("inventory"), partition=1)
        await river.change("products", "c", age_s=400)
        await river.price("20.00", age_s=310)
        await river.change("reviews", "d", age_s=50)
        shown = await monitor.look()
    assert river.standing(shown, "inventory") == (Health.OK, 30, 0)
    assert river.standing(shown, "reviews") == (Health.OK, 50, 0)
    assert river.standing(shown, "prices") == (Health.LATE, 310, 0)
    assert shown.standings["prices", "cache"].why.startswith("a change has been unseen for 31")
    assert river.standing(shown, "other") == (Health.OK, 400, 0)
    assert not shown.ok


async def test_what_readers_see_is_no_longer_old_and_the_next_one_is_found(river: River) -> None:
    await river.beat()
    topic = table("inventory").topic(river.settings.source)
    for age_s in (20, 15, 10):
        await river.change("inventory", "u", age_s=age_s, before=sample("inventory"))
    for new in ("20.00", "21.00"):
        await river.price(new, age_s=200)
        await river.change("products", "u", age_s=150, before=sample("products"))
    async with river.monitor() as monitor:
        assert river.standing(await monitor.look(), "inventory") == (Health.OK, 20, 0)
        mine = river.recorder()
        mine.visible(topic, 0, 2, [("inventory", 1_000, 0), ("inventory", 2_000, 1)], 4.0)
        await mine.flush()
        shown = await monitor.look()
        assert river.standing(shown, "inventory") == (Health.OK, 10, 2)
        assert shown.standings["inventory", "cache"].as_json()["max_s"] == 3.0
        assert [river.standing(shown, rule)[1] for rule in ("prices", "other")] == [200, 150]
        await river.show("cache", "products", 3)
        mine.visible(topic, 0, 3, [("inventory", 1_000, 2)], 4.0)
        await mine.flush()
        later = await monitor.look(since=shown)
        assert river.standing(later, "inventory") == (Health.OK, 0, 1)
        assert [river.standing(later, rule)[1] for rule in ("prices", "other")] == [0, 150]


async def test_figures_since_an_earlier_look_are_those_of_the_time_between(river: River) -> None:
    await river.beat()
    topic = table("reviews").topic(river.settings.source)
    for _ in range(4):
        await river.change("reviews", "c")
    mine = river.recorder()
    mine.visible(topic, 0, 1, [("reviews", 0, 0)], 500.0)
    mine.dead_letter(topic, 0)
    await mine.flush()
    async with river.monitor() as monitor:
        before = await monitor.look()
        assert river.standing(before, "reviews")[0] is Health.LATE
        mine.visible(topic, 0, 4, [("reviews", 499_000, offset) for offset in (1, 2, 3)], 500.0)
        mine.dead_letter(topic, 0)
        await mine.flush()
        shown = await monitor.look(since=before)
        assert river.standing(shown, "reviews") == (Health.OK, 0, 3)
        assert shown.standings["reviews", "cache"].as_json()["p99_s"] == pytest.approx(1.0, rel=0.02)
        assert (before.dead_letters, shown.dead_letters) == ({"cache": 1}, {"cache": 1})
        assert (await monitor.look()).as_json()["rules"]["reviews"]["sinks"]["cache"]["late"] == 1


async def test_a_look_cut_short_is_unknown_and_the_next_ones_finish_it(river: River) -> None:
    await river.beat()
    records = [river.capture.record("products", "c") for _ in range(3000)]
    sent = [await river.producer.send(each.topic, each.value, each.key, each.partition) for each in records]
    await asyncio.gather(*sent)
    await river.price("20.00", age_s=10)
    async with river.monitor() as monitor:
        shown = await monitor.look(look_s=0.0)
        assert river.standing(shown, "prices") == (Health.UNKNOWN, None, 0)
        assert shown.standings["prices", "cache"].why == "3001 records not looked at yet"
        shown = await monitor.look(look_s=30.0)
        assert river.standing(shown, "prices") == (Health.OK, 10, 0)


async def test_capture_that_stands_still_makes_the_rules_of_its_lane_late(river: River) -> None:
    async with river.monitor() as monitor:
        never = await monitor.look()
        assert river.standing(never, "inventory")[0] is Health.UNKNOWN
        assert never.standings["inventory", "cache"].why == "no heartbeat of inventory was ever captured"
        await river.beat(age_s=200)
        shown = await monitor.look()
        assert [river.standing(shown, rule)[0] for rule in ("inventory", "reviews", "prices", "other")] == [
            Health.LATE,
            Health.LATE,
            Health.OK,
            Health.OK,
        ]
        assert shown.capture[Lane.INVENTORY].age_s == pytest.approx(199, abs=5)
        assert shown.capture[Lane.INVENTORY].retained_bytes is not None
        await river.beat(age_s=0.5)
        assert (await monitor.look()).capture[Lane.CATALOG].age_s == pytest.approx(0, abs=5)


async def test_servers_that_are_away_make_it_unknown_and_are_named(river: River) -> None:
    await river.beat()
    mine = river.settings
    no_source = mine.model_copy(update={"postgres": mine.postgres.model_copy(update={"port": 1})})
    async with Monitor(no_source, connectors=river.connectors, sinks=("cache",)) as monitor:
        shown = await monitor.look()
    assert {each.state for each in shown.standings.values()} == {Health.UNKNOWN}
    assert [problem.partition(" is away")[0] for problem in shown.problems] == ["PostgreSQL at 127.0.0.1:1"]
    no_kafka = mine.model_copy(update={"kafka": mine.kafka.model_copy(update={"bootstrap": "127.0.0.1:1"})})
    async with Monitor(no_kafka, connectors=river.connectors, sinks=("cache",)) as monitor:
        shown = await monitor.look()
    assert [problem.partition(" is away")[0] for problem in shown.problems] == ["Kafka at 127.0.0.1:1"]
    assert not shown.ok
    assert shown.as_json()["rules"]["inventory"]["sinks"]["cache"]["oldest_s"] is None


@pytest.fixture
def connect() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """A Kafka Connect that only tells offsets: its URL, and connector name → offset."""
    offsets: dict[str, dict[str, Any]] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            offset = offsets.get(self.path.split("/")[2])
            body = json.dumps({"offsets": [{"partition": {}, "offset": offset}] if offset else []}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", offsets
    server.shutdown()
    thread.join()
    server.server_close()


async def test_everything_up_to_now_is_visible_only_when_captured_and_seen(
    river: River, connect: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    url, offsets = connect
    mine = river.settings.model_copy(update={"connect": river.settings.connect.model_copy(update={"url": url})})
    inventory = table("inventory").topic(mine.source)
    await river.change("inventory", "c", partition=3)
    said: list[str] = []

    async def wait(timeout_s: float) -> Arrival:
        return await arrived(mine, ["cache"], timeout_s, said.append, connectors=river.connectors)

    far = 1 << 50
    offsets.update({each.name: {"lsn": far} for each in river.connectors})
    offsets[river.connectors[0].name] = {"lsn": far, "snapshot": "INITIAL"}  # a snapshot's position says nothing
    cut = await wait(0.5)
    assert [str(each).partition(" up to")[0] for each in cut.missing] == ["lane accounts: captured"]
    assert cut.missing[0].wanted == cut.lsn > 0
    offsets[river.connectors[0].name] = {"lsn": 8, "lsn_commit": far}
    cut = await wait(0.5)
    assert [str(each) for each in cut.missing] == [f"cache: {inventory}/3 is visible up to 0 of 1"]
    assert "waiting for capture: accounts" in said
    assert "waiting to be visible: cache 1 records" in said
    waiting = asyncio.create_task(wait(30))
    while said[-1] != "waiting to be visible: cache 1 records" or len(said) < 3:
        await asyncio.sleep(0.02)
    await river.show("cache", "inventory", 1, partition=3, dead_letters=2)
    done = await waiting
    assert done.complete
    assert done.dead_letters == {"cache": 2}


async def test_the_marker_that_ends_a_transaction_is_not_waited_for(
    river: River, connect: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    url, offsets = connect
    mine = river.settings.model_copy(update={"connect": river.settings.connect.model_copy(update={"url": url})})
    offsets.update({each.name: {"lsn_proc": 1 << 50} for each in river.connectors})
    record = river.capture.record("inventory", "c")
    writer = AIOKafkaProducer(**aiokafka_config(mine.kafka), transactional_id=mine.source)
    await writer.start()
    try:
        async with writer.transaction():
            await writer.send(record.topic, record.value, record.key, 0)
    finally:
        await writer.stop()
    await river.show("cache", "inventory", 1)
    done = await arrived(mine, ["cache"], 20, connectors=river.connectors)
    assert done.complete
    assert done.waited_s < 20
    await river.change("inventory", "c")
    late = await arrived(mine, ["cache"], 0.2, connectors=river.connectors)
    assert [(each.stands, each.wanted) for each in late.missing] == [(1, 3)]
