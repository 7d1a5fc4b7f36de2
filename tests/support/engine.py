"""A source of a test's own on the running stack, and workers as processes of their own, to be killed and stopped at will.

Topics, groups, subjects and cache keys have private names; all of it is removed at the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx2
import redis
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from prometheus_client.parser import text_string_to_metric_families

from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.engine.deadletter import SUFFIX
from processors.tables.base import PARTITIONS
from tests.support.avro import Capture, Record, table
from tests.support.columns import sample
from tests.support.river import RealRegistry

CHECKOUT = Path(__file__).resolve().parents[2]
START_S = 60.0
"""A worker's start on a busy machine; nothing is measured by it."""
REDIS_DB = 11
OLD = b"what the cache held before"
FROZEN_TRANSACTION = 10
"""Visible on every PostgreSQL: initdb used it up."""


T = TypeVar("T")


def until(condition: Callable[[], T], what: str, limit_s: float = 30.0) -> T:
    """Poll until the condition is true and return what it gave; fail naming `what` otherwise."""
    give_up_at = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < give_up_at, f"not within {limit_s:g} s: {what}"
        time.sleep(0.05)
    return found


@dataclass
class WorkerProcess:
    """`downriver worker KIND` as a process; everything it prints is kept."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    """What it wrote to stderr."""
    printed: list[str] = field(default_factory=list)
    """What it wrote to stdout: nothing, if all is well."""
    _readers: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stream, kept in ((self.process.stderr, self.lines), (self.process.stdout, self.printed)):
            assert stream is not None
            reader = threading.Thread(target=_read, args=(stream, kept), daemon=True)
            reader.start()
            self._readers.append(reader)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log lines so far; a line that is no JSON object fails the test that looks."""
        return [json.loads(line) for line in list(self.lines)]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of that event."""
        return [each for each in self.events if each["event"] == event]

    def logged(self, event: str, limit_s: float = START_S) -> dict[str, Any]:
        """Wait for the first log line of that event."""

        def found() -> dict[str, Any] | None:
            if lines := self.named(event):
                return lines[0]
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.lines[-5:]}"
            return None

        line = until(found, f"the log line {event}", limit_s)
        assert line is not None
        return line

    def ready(self, partitions: int = PARTITIONS) -> WorkerProcess:
        """Wait until it owns that many partitions and its sink is open."""
        self.logged("sink_open")
        until(lambda: self.health()[1]["partitions"] == partitions, f"{partitions} partitions", START_S)
        return self

    @property
    def url(self) -> str:
        """Where health and metrics are."""
        return str(self.logged("worker_starts")["web"])

    def health(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of /health."""
        answer = httpx2.get(f"{self.url}/health", timeout=10)
        return answer.status_code, answer.json()

    def metrics(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the samples of one metric by their label values (without the sink's name)."""
        text = httpx2.get(f"{self.url}/metrics", timeout=10).raise_for_status().text
        return {
            tuple(value for label, value in sorted(sample_.labels.items()) if label != "sink"): sample_.value
            for family in text_string_to_metric_families(text)
            for sample_ in family.samples
            if sample_.name == name
        }

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self, limit_s: float = 40.0) -> int:
        """Wait for its end; return the exit code."""
        code = self.process.wait(limit_s)
        for reader in self._readers:
            reader.join(5)
        return code


def _read(stream: IO[str], kept: list[str]) -> None:
    for line in stream:
        kept.append(line.rstrip("\n"))


@dataclass
class Realm:
    """One test's source, topics, group and cache keys."""

    settings: Settings
    capture: Capture
    registry: RealRegistry
    producer: Producer
    admin: AdminClient
    cache: redis.Redis
    environment: dict[str, str]
    workers: list[WorkerProcess] = field(default_factory=list)
    _held: list[str] = field(default_factory=list)

    @property
    def topic(self) -> str:
        """The inventory topic."""
        return table("inventory").topic(self.settings.source)

    def worker(self, kind: str = "cache", *arguments: str, **settings: Any) -> WorkerProcess:
        """Start a worker of the inventory lane; `settings` such as `worker__max_wait_s=2` go into its environment."""
        return self.command("worker", kind, "--lane", "inventory", *arguments, **settings)

    def command(self, *arguments: str, module: str = "downriver.cli", **settings: Any) -> WorkerProcess:
        """Start any command of `module` on this realm."""
        environment = os.environ | self.environment
        environment |= {f"DOWNRIVER_{name.upper()}": str(value) for name, value in settings.items()}
        started = WorkerProcess(
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=CHECKOUT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        self.workers.append(started)
        return started

    def product(self) -> str:
        """Return the id of a product whose stock the cache holds, and that no other test knows."""
        return self.products(1)[0]

    def products(self, count: int) -> list[str]:
        """Return ids of as many products, each with a value in the cache that its change will invalidate."""
        made = [str(uuid.uuid4()) for _ in range(count)]
        self.cache.mset({f"inventory:{product}": OLD for product in made})
        self._held += made
        return made

    def stock(self, product: str, partition: int = 0, *, lsn: int = 24_023_128, **more: Any) -> Record:
        """Return the record of a change of the product's stock; `more` are columns."""
        row = sample("inventory", product_id=product, **more)
        return self.capture.record(
            "inventory",
            "u",
            before=row | {"quantity": 0},
            after=row,
            partition=partition,
            lsn=lsn,
            transaction=FROZEN_TRANSACTION,
        )

    def stocks(self, products: Sequence[str]) -> list[Record]:
        """Return one change of each product, spread over the partitions; encoded once, so that thousands are cheap."""
        mould = str(uuid.uuid4())
        made = self.stock(mould)
        old, key, value = mould.encode(), made.key or b"", made.value or b""
        return [
            replace(
                made,
                partition=number % PARTITIONS,
                key=key.replace(old, product.encode()),
                value=value.replace(old, product.encode()),
            )
            for number, product in enumerate(products)
        ]

    def send(self, records: Sequence[Record], producer: Producer | None = None) -> None:
        """Produce the records to their partitions; return when the broker has all of them."""
        to = producer or self.producer
        for record in records:
            while True:
                try:
                    to.produce(
                        record.topic,
                        record.value,
                        record.key,
                        record.partition,
                        headers=list(record.headers),
                        timestamp=record.timestamp,
                    )
                    break
                except BufferError:
                    to.poll(0.1)
        assert to.flush(30) == 0

    def stale(self, products: Sequence[str]) -> list[str]:
        """Return those of the products whose old stock is still in the cache: not delivered."""
        held = self.cache.mget([f"inventory:{product}" for product in products])
        return [product for product, value in zip(products, held, strict=True) if value is not None]

    def committed(self, kind: str = "cache", topic: str | None = None) -> dict[int, int]:
        """Return the committed offset of each partition that has one."""
        consumer = Consumer(
            confluent_config(self.settings.kafka) | {"group.id": f"{self.settings.group_prefix}-{kind}"}
        )
        try:
            asked = [TopicPartition(topic or self.topic, number) for number in range(PARTITIONS)]
            return {each.partition: each.offset for each in consumer.committed(asked, timeout=10) if each.offset >= 0}
        finally:
            consumer.close()

    def ends(self, topic: str | None = None) -> dict[int, int]:
        """Return the end offset of every partition that holds anything."""
        consumer = Consumer(confluent_config(self.settings.kafka) | {"group.id": self.settings.source})
        try:
            found = {
                number: consumer.get_watermark_offsets(TopicPartition(topic or self.topic, number), timeout=10)[1]
                for number in range(PARTITIONS)
            }
        finally:
            consumer.close()
        return {number: end for number, end in found.items() if end}

    def all_committed(self, kind: str = "cache", limit_s: float = 30.0) -> None:
        """Wait until everything is committed to the end."""
        ends = self.ends()

        def at_the_end() -> bool:
            committed = self.committed(kind)
            return {number: committed.get(number) for number in ends} == ends

        until(at_the_end, f"commits at {ends}", limit_s)

    def dead(self, topic: str | None = None) -> list[Any]:
        """Return the dead letters so far (confluent-kafka messages)."""
        partition = TopicPartition((topic or self.topic) + SUFFIX, 0, 0)
        consumer = Consumer(confluent_config(self.settings.kafka) | {"group.id": self.settings.source})
        found: list[Any] = []
        try:
            end = consumer.get_watermark_offsets(partition, timeout=10)[1]
            consumer.assign([partition])
            while len(found) < end:
                found += consumer.consume(end - len(found), timeout=5)
        finally:
            consumer.close()
        return found

    def make_topics(self, *topics: str, **config: str) -> None:
        """Create topics with the partitions that tables have."""
        made = [NewTopic(topic, PARTITIONS, 1, config=config) for topic in topics]
        for done in self.admin.create_topics(made, operation_timeout=10).values():
            done.result(30)

    def close(self) -> None:
        """End the workers; remove topics, groups, subjects and keys."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        names = (f"{self.settings.source}_", f"{self.settings.group_prefix}.")
        mine = [topic for topic in self.admin.list_topics(timeout=10).topics if topic.startswith(names)]
        if mine:
            wait(self.admin.delete_topics(mine, operation_timeout=10).values(), 30)
        groups = [f"{self.settings.group_prefix}-{kind}" for kind in ("cache", "search", "analytics")]
        wait(self.admin.delete_consumer_groups(groups).values(), 30)  # refused while a killed member's session lasts
        self.registry.clean()
        for start in range(0, len(self._held), 1_000):
            self.cache.delete(*(f"inventory:{product}" for product in self._held[start : start + 1_000]))
        self.cache.close()


@contextmanager
def realm_on(settings: Settings, **config: str) -> Iterator[Realm]:
    """Give a realm with an inventory topic (topic settings `config`) and its schema; remove all of it afterwards."""
    name = f"te{uuid.uuid4().hex[:8]}"
    url = settings.redis.url.rpartition("/")[0] + f"/{REDIS_DB}"
    mine = settings.model_copy(
        update={
            "source": name,
            "group_prefix": name,
            "redis": settings.redis.model_copy(update={"url": url}),
            "postgres": settings.postgres.model_copy(update={"database": "postgres"}),
        }
    )
    environment = {
        "DOWNRIVER_SOURCE": name,
        "DOWNRIVER_GROUP_PREFIX": name,
        "DOWNRIVER_REDIS__URL": url,
        "DOWNRIVER_POSTGRES__DATABASE": "postgres",
    }
    registry = RealRegistry(mine.registry.url)
    realm = Realm(
        mine,
        Capture(source=name, registry=registry),
        registry,
        Producer(confluent_config(mine.kafka) | {"linger.ms": 5}),
        AdminClient(confluent_config(mine.kafka)),
        redis.Redis.from_url(url),
        environment,
    )
    try:
        realm.make_topics(realm.topic, **config)
        realm.stock(str(uuid.uuid4()))  # registers the schemas
        yield realm
    finally:
        realm.close()


def headers_of(message: Any) -> Mapping[str, bytes]:
    """Return a consumed message's headers."""
    return dict(message.headers() or ())
