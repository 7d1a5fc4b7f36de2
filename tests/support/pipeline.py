"""A whole pipeline of a test's own on the running stack: shop, connectors, workers as processes, names that nobody else uses.

The workers are kept running by the demo's crew, so a test may kill one at any time. Start it once a module: it takes a
snapshot and three processes. What it made is gone afterwards.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import clickhouse_connect
import httpx2
import psycopg
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from connectors.files import Connector, load, renamed
from deploy.local.processes import MARK
from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.propagation.arrival import arrived
from processors.propagation.monitor import Monitor
from processors.propagation.rules import RuleSet
from processors.propagation.status import Status
from processors.sinks.cache.reader import Cache, Read
from processors.verify.compare import SINKS, compare
from processors.verify.model import Comparison
from shop import pages
from shop.demo.crew import Crew
from shop.demo.result import COUNTED
from shop.sample.fill import fill
from shop.sample.rows import Plan
from shop.workload import run as workload
from shop.workload.run import Committed
from tests.support.captured import captured_shop
from tests.support.stack import RunningStack, reused

REDIS_DATABASE = 11
MAY_BREAK = "FAULTS_OF_DOWNRIVER"
"""Set to 1 beside DOWNRIVER_TEST_REUSE=1: the reused stack belongs to this session alone, and may be broken."""
ARRIVE_S = 150.0
POLL_S = 0.1


def own_stack() -> bool:
    """Tell whether the session may break servers, and use the names of the demo."""
    return not reused() or os.environ.get(MAY_BREAK) == "1"


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, within_s: float = 120.0, poll_s: float = POLL_S
) -> None:
    """Wait until the condition holds; fail with what was waited for."""
    give_up_at = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < give_up_at, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(poll_s)


def own_names(captured: Settings) -> Settings:
    """Return the settings of a captured shop with names of its own at every sink, made from its source's name."""
    name = captured.source
    redis_url = captured.redis.url.rpartition("/")[0] + f"/{REDIS_DATABASE}"
    return captured.model_copy(
        update={
            "group_prefix": f"{name}_workers",  # begins as the topics do: it is forgotten with them
            "clickhouse": captured.clickhouse.model_copy(update={"database": name}),
            "elasticsearch": captured.elasticsearch.model_copy(update={"prefix": f"{name}-"}),
            "redis": captured.redis.model_copy(update={"url": redis_url}),
        }
    )


def environment(settings: Settings) -> dict[str, str]:
    """Return what a process must have in its environment to mean this pipeline."""
    return {
        "DOWNRIVER_SOURCE": settings.source,
        "DOWNRIVER_GROUP_PREFIX": settings.group_prefix,
        "DOWNRIVER_POSTGRES__DATABASE": settings.postgres.database,
        "DOWNRIVER_CLICKHOUSE__DATABASE": settings.clickhouse.database,
        "DOWNRIVER_ELASTICSEARCH__PREFIX": settings.elasticsearch.prefix,
        "DOWNRIVER_REDIS__URL": settings.redis.url,
    }


@dataclass(slots=True)
class Pipeline:
    """A running pipeline.

    Attributes:
        settings: name its shop and what it has at every sink.
        told: what the crew said of workers that ended.
    """

    settings: Settings
    connectors: list[Connector]
    crew: Crew
    redis: Redis
    told: list[str] = field(default_factory=list)

    async def execute(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Commit one statement; return its rows. It may have to wait for a lock of the workload, which needs this loop."""
        dsn = self.settings.postgres.dsn()
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            cursor = await connection.execute(query.encode(), parameters or None)
            return await cursor.fetchall() if cursor.description else []

    async def arrived(self) -> None:
        """Wait until readers of every sink see everything that was committed before."""
        arrival = await arrived(self.settings, SINKS, ARRIVE_S, connectors=self.connectors)
        logs = "\n".join(
            f"{sink}:\n{self.crew.tail(sink)}" for sink in {each.where for each in arrival.missing} & {*SINKS}
        )
        assert arrival.complete, f"{[str(each) for each in arrival.missing]}\n{self.told}\n{logs}"

    async def compared(self, *sinks: str) -> Comparison:
        """Compare the shop with its sinks."""
        return await compare(self.settings, sinks or SINKS, pages=pages, settle_s=10, grace_s=0.5)

    def monitor(self, rules: RuleSet | None = None) -> Monitor:
        """Watch the rules; `rules` in place of the product's."""
        return Monitor(self.settings, connectors=self.connectors, rules=rules)

    async def status(self) -> Status:
        """Look at the rules once."""
        async with self.monitor() as monitor:
            return await monitor.look(10.0)

    @asynccontextmanager
    async def changing(self, rate: float = 60.0, seed: int = 1) -> AsyncIterator[Committed]:
        """Run the workload during the block; what the account holds at its end was committed, all of it."""
        stop, begun, account = asyncio.Event(), asyncio.Event(), Committed()

        def progress(now: Committed) -> None:
            if now.transactions:
                begun.set()

        running = asyncio.create_task(workload.run(self.settings, rate, 600, seed, progress, stop))
        try:
            await asyncio.wait({asyncio.create_task(begun.wait()), running}, return_when=asyncio.FIRST_COMPLETED)
            yield account
        finally:
            stop.set()
            done = await running
        assert done.failure is None, done.failure
        account.committed, account.unknown, account.transactions = done.committed, done.unknown, done.transactions

    async def prove(self, before: Status, account: Committed, *, in_time: bool = True) -> None:
        """Hold that nothing was lost: all arrived, all equal by value, every committed change measured, none refused.

        Args:
            in_time: and none late. Not where a server was away: its change is late by right, if it was away too long.
        """
        await self.arrived()
        result = await self.compared()
        assert (result.differences, result.equal, result.moving) == (
            [],
            dict.fromkeys(SINKS, True),
            dict.fromkeys(SINKS, 0),
        )
        assert account.transactions
        async with self.monitor() as monitor:
            after = await monitor.look(10.0, before)
        for (rule, sink), standing in after.standings.items():
            assert not (in_time and standing.figures.late), (rule, sink, standing)
            if rule in COUNTED:
                committed = account.committed[COUNTED[rule]]
                assert standing.figures.count >= committed > 0, (rule, sink, standing.figures.count, committed)
        assert after.dead_letters == dict.fromkeys(SINKS, 0)

    def pid(self, sink: str) -> int | None:
        """Return the process of a sink's worker, None between two."""
        return self.crew.members[sink].pid

    async def kill(self, sink: str) -> None:
        """End a worker the hard way; return when the crew has started another."""
        pid = self.pid(sink)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

        async def replaced() -> bool:
            return self.pid(sink) not in {None, pid}

        await until(replaced, f"another worker {sink}")

    async def read(self, key: str) -> tuple[Read, bytes | None]:
        """Read a key as the application does, and tell how that ended."""
        outcomes: list[Read] = []
        parsed = pages.parse(key)
        async with await psycopg.AsyncConnection.connect(self.settings.postgres.dsn(), autocommit=True) as connection:
            value = await Cache(self.redis).get_or_load(
                key,
                lambda name: pages.load(name, connection),
                parsed.ttl_s,
                tags=parsed.tags,
                on_outcome=outcomes.append,
            )
        return outcomes[0], value

    async def gone(self, key: str, within_s: float = 120.0) -> None:
        """Wait until the cache holds the key no more."""

        async def absent() -> bool:
            return not await self.redis.exists(key)

        await until(absent, f"{key} leaves the cache", within_s)

    def document(self, index: str, document: str) -> dict[str, Any] | None:
        """Return what a search through the alias finds of a document; prices as decimals."""
        url = f"{self.settings.elasticsearch.url}/{self.settings.elasticsearch.prefix}{index}/_search"
        answer = httpx2.post(url, json={"query": {"ids": {"values": [document]}}}, timeout=30).raise_for_status().json()
        found = [hit["_source"] for hit in answer["hits"]["hits"]]
        return next(
            (each | ({"price": Decimal(str(each["price"]))} if "price" in each else {}) for each in found), None
        )

    def analytics(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the analytics store."""
        own = self.settings.clickhouse
        client = clickhouse_connect.get_client(host=own.host, port=own.port, database=own.database)
        try:
            return [tuple(row) for row in client.query(query).result_rows]
        finally:
            client.close()

    def run_analytics(self, statement: str) -> None:
        """Change the analytics store behind the pipeline's back."""
        own = self.settings.clickhouse
        client = clickhouse_connect.get_client(host=own.host, port=own.port, database=own.database)
        client.command(statement)
        client.close()


@asynccontextmanager
async def pipeline_on(stack: RunningStack, captured: Settings, logs: Path) -> AsyncIterator[Pipeline]:
    """Start the workers of a captured shop; give the pipeline once its snapshot has arrived. Removes what they made."""
    settings = own_names(captured)
    redis = Redis.from_url(settings.redis.url, retry=Retry(NoBackoff(), 1))  # a pooled connection may be dead
    await redis.flushdb()
    told: list[str] = []
    marks = {
        MARK: str(stack.stack.home.folder),
        **environment(settings),
    }  # found by `stack down` whatever happens to us
    crew = Crew(SINKS, logs, marks, told.append)
    connectors = [renamed(connector, settings.source, settings.postgres.database) for connector in load()]
    pipeline = Pipeline(settings, connectors, crew, redis, told)
    try:
        await crew.start()
        await pipeline.arrived()
        yield pipeline
    finally:
        await crew.stop()
        await _clean(pipeline)


@asynccontextmanager
async def filled_pipeline(stack: RunningStack, settings: Settings, logs: Path) -> AsyncIterator[Pipeline]:
    """Start a pipeline on a captured shop with some rows in it; all of it is gone afterwards."""
    with captured_shop(settings, lambda own: fill(own, Plan(size=100, seed=3))) as shop:
        async with pipeline_on(stack, shop.settings, logs) as made:
            yield made


async def _clean(pipeline: Pipeline) -> None:
    """Remove what workers and readers made; topics, schemas and the database go with the captured shop."""
    settings = pipeline.settings
    await pipeline.redis.flushdb()
    await pipeline.redis.aclose()
    own = settings.elasticsearch
    for index in httpx2.get(f"{own.url}/{own.prefix}*", timeout=30).raise_for_status().json():
        httpx2.delete(f"{own.url}/{index}", timeout=30).raise_for_status()
    pipeline.run_analytics(f"DROP DATABASE IF EXISTS {settings.clickhouse.database}")
    admin = AdminClient(confluent_config(settings.kafka))
    groups = [f"{settings.group_prefix}-{sink}" for sink in SINKS]

    async def forgotten() -> bool:
        """A group is forgotten once the broker has missed the members that were killed."""
        for group, done in admin.delete_consumer_groups(groups).items():
            try:
                await asyncio.to_thread(done.result, 10)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                    return False
            groups.remove(group)
        return True

    await until(forgotten, f"the groups {groups} are empty", 30)
