"""Every server of the pipeline goes away under load and comes back: what was committed arrives, and readers see nothing stale."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from downriver.exits import Exit
from downriver.settings import Settings
from processors.propagation.rules import Rule, RuleSet, load_rules, rule_set
from processors.propagation.status import Health, Status
from processors.sinks.cache.reader import Read
from shop.demo.readers import Readers
from tests.support.pipeline import Pipeline, filled_pipeline, until
from tests.support.stack import RunningStack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.fault,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]

SOON_S = 3.0
"""A limit for the monitor, in place of the product's minutes: so long a server is away at least."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pipeline(
    stack: RunningStack, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pipeline]:
    async with filled_pipeline(stack, settings, tmp_path_factory.mktemp("logs")) as made:
        yield made


def strict_rules() -> RuleSet:
    """Return the product's rules with a limit that a test can wait for."""
    return rule_set([Rule(rule.name, rule.counts, SOON_S) for rule in load_rules()])


def seen(status: Status, rule: str, sink: str) -> tuple[Health, float, int]:
    """Return state, age of the oldest unseen change and number of changes seen."""
    found = status.standings[rule, sink]
    return found.state, found.oldest_s or 0.0, found.figures.count


async def a_product(pipeline: Pipeline, number: int) -> str:
    ((found,),) = await pipeline.execute(
        "SELECT product_id FROM inventory WHERE quantity < 1000000 GROUP BY 1 ORDER BY 1 OFFSET %s LIMIT 1", number
    )
    return str(found)


async def invalidates(pipeline: Pipeline, product: str) -> None:
    """Hold that a cached entry leaves the cache once its product changes, and that the next read is true."""
    key = f"inventory:{product}"
    outcome, before = await pipeline.read(key)
    assert outcome in {Read.STORED, Read.HIT}
    await pipeline.execute("UPDATE inventory SET quantity = quantity + 1 WHERE product_id = %s", product)
    await pipeline.gone(key)
    outcome, after = await pipeline.read(key)
    assert outcome in {Read.STORED, Read.HIT}
    assert after != before


async def test_elasticsearch_away_makes_search_late_and_nothing_else(pipeline: Pipeline, faults: RunningStack) -> None:
    base = await pipeline.status()
    async with pipeline.changing(seed=21) as account, pipeline.monitor(strict_rules()) as monitor:
        with faults.paused("elasticsearch"):
            looks: list[Status] = []

            async def late() -> bool:
                looks.append(await monitor.look(2.0, base))
                return seen(looks[-1], "inventory", "search")[0] is Health.LATE

            await until(late, "search is late")
            first = looks[-1]
            for number in range(3):
                await invalidates(pipeline, await a_product(pipeline, number))
            then = await monitor.look(2.0, base)
            away_s = then.at_s - first.at_s
            ages = [seen(status, "inventory", "search")[1] for status in (first, then)]
            assert ages[0] > SOON_S
            assert ages[1] - ages[0] == pytest.approx(away_s, abs=0.5)  # the same change is the oldest all the while
            for sink in ("cache", "analytics"):
                assert seen(then, "inventory", sink)[2] > seen(first, "inventory", sink)[2], sink
                assert seen(then, "inventory", sink)[1] < ages[1], sink
            assert seen(then, "inventory", "search")[2] == seen(first, "inventory", "search")[2]
            assert "unseen" in then.standings["inventory", "search"].why
    await pipeline.prove(base, account, in_time=False)
    assert not pipeline.told


async def test_a_registry_that_is_away_is_waited_for_even_by_a_worker_that_starts(
    pipeline: Pipeline, faults: RunningStack
) -> None:
    base = await pipeline.status()
    async with pipeline.changing(seed=22) as account:
        await asyncio.to_thread(faults.kill, "registry")
        await pipeline.kill("cache")

        async def waits() -> bool:
            return "the schema registry at" in pipeline.crew.tail("cache")

        await until(waits, "the new worker says that it waits for the registry")
        key = f"inventory:{await a_product(pipeline, 5)}"
        assert (await pipeline.read(key))[0] is Read.STORED
        await pipeline.execute("UPDATE inventory SET reserved = 0 WHERE product_id = %s", key.partition(":")[2])
        await asyncio.to_thread(faults.start, "registry")
        await pipeline.gone(key)
    await pipeline.prove(base, account, in_time=False)


async def test_kafka_stopped_and_started_under_load_loses_nothing(pipeline: Pipeline, faults: RunningStack) -> None:
    base = await pipeline.status()
    pipeline.told.clear()
    async with pipeline.changing(seed=23) as account:
        await asyncio.to_thread(faults.stop, "kafka")
        await pipeline.execute("UPDATE inventory SET reserved = 0 WHERE product_id = %s", await a_product(pipeline, 6))
        await asyncio.to_thread(faults.start, "kafka")
        await invalidates(pipeline, await a_product(pipeline, 7))
    await pipeline.prove(base, account, in_time=False)
    ends = [
        end
        for end in pipeline.told
        if f"exit code {Exit.STALLED}" not in end and f"exit code {Exit.SERVER_AWAY}" not in end
    ]
    assert ends == []  # a worker survives, or ends with a code that says why


async def test_connect_killed_hard_and_started_again_loses_nothing(pipeline: Pipeline, faults: RunningStack) -> None:
    base = await pipeline.status()
    async with pipeline.changing(seed=24) as account:
        await asyncio.to_thread(faults.kill, "connect")
        await pipeline.execute("DELETE FROM reviews WHERE id = (SELECT id FROM reviews ORDER BY id LIMIT 1)")
        await asyncio.to_thread(faults.start, "connect")
        await invalidates(pipeline, await a_product(pipeline, 8))
    await pipeline.prove(base, account, in_time=False)


async def test_postgres_restarted_under_load_loses_nothing(pipeline: Pipeline, faults: RunningStack) -> None:
    base = await pipeline.status()
    async with pipeline.changing(seed=25) as account:
        await asyncio.to_thread(faults.stop, "postgres")
        await asyncio.to_thread(faults.start, "postgres")
        await invalidates(pipeline, await a_product(pipeline, 9))
    await pipeline.prove(base, account, in_time=False)


async def test_redis_restarted_empty_under_its_readers_shows_nothing_stale(
    pipeline: Pipeline, faults: RunningStack
) -> None:
    base = await pipeline.status()
    readers = Readers(pipeline.settings, 3, 5)
    await readers.start()
    try:
        async with pipeline.changing(seed=26) as account:
            await asyncio.to_thread(faults.kill, "redis")
            await asyncio.to_thread(faults.start, "redis")
            for number in range(10, 13):
                await invalidates(pipeline, await a_product(pipeline, number))
            filled_at = readers.reads

            async def read_on() -> bool:
                return readers.reads > filled_at + 50

            await until(read_on, "readers read on")
        await pipeline.prove(base, account, in_time=False)
        assert (await pipeline.compared("cache")).compared["cache"] > 10
    finally:
        await readers.stop()
