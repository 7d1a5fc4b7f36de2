"""The reader half against a real server: how each read ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from processors.sinks.cache.keys import lease_key, tag_key
from processors.sinks.cache.reader import Cache, Read, Stored, decode_value, encode_value
from tests.support.valkey import free_port, valkey

KEY = "product:1"


class Row:
    """The source: how often it was asked, and what it says."""

    def __init__(self, value: bytes | None = b"row") -> None:
        self.value = value
        self.asked: list[str] = []

    async def load(self, key: str) -> bytes | None:
        self.asked.append(key)
        return self.value


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with valkey(tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture
async def redis(port: int) -> AsyncIterator[Redis]:
    async with Redis(port=port) as client:
        await client.flushdb()
        yield client


async def test_a_miss_is_stored_with_a_life_and_the_next_read_is_a_hit(redis: Redis) -> None:
    cache, row, ends = Cache(redis), Row(), list[Read]()
    for _ in range(3):
        assert await cache.get_or_load(KEY, row.load, 60, on_outcome=ends.append) == b"row"
    assert ends == [Read.STORED, Read.HIT, Read.HIT]
    assert cache.counts == {Read.STORED: 1, Read.HIT: 2}
    assert row.asked == [KEY]
    assert 54_000 - 1_000 < await redis.pttl(KEY) <= 60_000
    assert await redis.keys() == [KEY.encode()]  # the lease is gone


async def test_no_row_is_an_answer_too_and_lives_shorter(redis: Redis) -> None:
    cache, row = Cache(redis, negative_ttl_s=5), Row(None)
    assert [await cache.get_or_load(KEY, row.load, 60) for _ in range(2)] == [None, None]
    assert row.asked == [KEY]
    assert await redis.pttl(KEY) <= 5_000
    assert await cache.peek(KEY) == Stored(None)


async def test_an_empty_value_is_not_no_row(redis: Redis) -> None:
    cache, row = Cache(redis), Row(b"")
    assert [await cache.get_or_load(KEY, row.load, 60) for _ in range(2)] == [b"", b""]
    assert row.asked == [KEY]


async def test_an_invalidation_during_the_load_refuses_the_value(redis: Redis) -> None:
    async def load(_: str) -> bytes:
        await redis.unlink(lease_key(KEY), KEY)
        return b"old"

    cache = Cache(redis)
    assert await cache.get_or_load(KEY, load, 60) == b"old"
    assert cache.counts == {Read.REFUSED: 1}
    assert await redis.keys() == []


async def test_a_lease_that_ran_out_refuses_the_value_even_when_another_reader_took_one(redis: Redis) -> None:
    second = Cache(redis)

    async def load(_: str) -> bytes:
        await redis.unlink(lease_key(KEY))
        tasks.append(asyncio.create_task(second.get_or_load(KEY, slow, 60)))
        await taken.wait()
        return b"old"

    async def slow(_: str) -> bytes:
        taken.set()
        await finish.wait()
        return b"new"

    taken, finish, tasks = asyncio.Event(), asyncio.Event(), list[asyncio.Task[bytes | None]]()
    first = Cache(redis)
    assert await first.get_or_load(KEY, load, 60) == b"old"
    assert first.counts == {Read.REFUSED: 1}
    finish.set()
    assert await tasks[0] == b"new"
    assert second.counts == {Read.STORED: 1}
    assert await first.peek(KEY) == Stored(b"new")


async def test_many_readers_of_one_missing_key_load_it_once(redis: Redis) -> None:
    cache, asked, finish = Cache(redis, wait_s=30), list[str](), asyncio.Event()

    async def load(key: str) -> bytes:
        asked.append(key)
        await finish.wait()
        return b"row"

    await redis.config_resetstat()
    reads = [asyncio.create_task(cache.get_or_load(KEY, load, 60)) for _ in range(20)]
    async with asyncio.timeout(10):
        while (await redis.info("commandstats")).get("cmdstat_eval", {"calls": 0})["calls"] < 20:  # asked for the lease
            await asyncio.sleep(0.005)
    finish.set()
    assert await asyncio.gather(*reads) == [b"row"] * 20
    assert asked == [KEY]
    assert cache.counts == {Read.STORED: 1, Read.HIT: 19}


async def test_a_reader_that_may_not_store_loads_by_itself(redis: Redis) -> None:
    await redis.set(lease_key(KEY), b"of another reader", px=60_000)
    cache, row = Cache(redis, wait_s=0.02), Row()
    assert await cache.get_or_load(KEY, row.load, 60) == b"row"
    assert cache.counts == {Read.HELD: 1}
    assert await redis.get(KEY) is None
    assert await redis.get(lease_key(KEY)) == b"of another reader"


async def test_a_lease_ends_by_itself(redis: Redis) -> None:
    async def load(_: str) -> bytes:
        assert 0 < await redis.pttl(lease_key(KEY)) <= 2_000
        return b"row"

    await Cache(redis, lease_s=2).get_or_load(KEY, load, 60)


async def test_a_load_that_fails_gives_the_lease_back(redis: Redis) -> None:
    async def fail(_: str) -> bytes:
        raise TimeoutError("the database is slow")

    cache = Cache(redis)
    with pytest.raises(TimeoutError, match="the database is slow"):
        await cache.get_or_load(KEY, fail, 60)
    assert await redis.keys() == []
    assert not cache.counts


async def test_a_page_is_a_hit_until_one_of_its_tags_is_invalidated(redis: Redis) -> None:
    cache, row = Cache(redis), Row(b"page 1")
    for tags in (["a", "b"], ["b", "a", "b"]):
        assert await cache.get_or_load(KEY, row.load, 60, tags=tags) == b"page 1"
    assert len(row.asked) == 1
    row.value = b"page 2"
    await redis.unlink(tag_key("b"))
    assert await cache.peek(KEY, tags=["a", "b"]) is None
    assert await cache.get_or_load(KEY, row.load, 60, tags=["a", "b"]) == b"page 2"
    assert await cache.get_or_load(KEY, row.load, 60, tags=["a", "b"]) == b"page 2"
    assert cache.counts == {Read.STORED: 2, Read.HIT: 2}


async def test_a_generation_that_comes_back_does_not_bring_its_pages_back(redis: Redis) -> None:
    cache = Cache(redis)
    await cache.get_or_load(KEY, Row(b"old page").load, 60, tags=["a"])
    await redis.unlink(tag_key("a"))
    await cache.get_or_load("another:page", Row().load, 60, tags=["a"])  # makes a new generation
    assert await cache.peek(KEY, tags=["a"]) is None


async def test_a_page_whose_tag_is_invalidated_during_the_load_is_never_accepted(redis: Redis) -> None:
    async def load(_: str) -> bytes:
        await redis.unlink(tag_key("a"))
        return b"old page"

    cache = Cache(redis)
    await cache.get_or_load(KEY, load, 60, tags=["a"])
    await cache.get_or_load("another:page", Row().load, 60, tags=["a"])
    assert await cache.peek(KEY, tags=["a"]) is None


@pytest.mark.parametrize("tags", [[], ["b"], ["a", "b"]])
async def test_a_value_with_other_tags_is_a_miss_and_is_replaced(redis: Redis, tags: list[str]) -> None:
    cache, row = Cache(redis), Row(b"new")
    await cache.get_or_load(KEY, Row(b"old").load, 60, tags=["a"])
    assert [await cache.get_or_load(KEY, row.load, 60, tags=tags) for _ in range(2)] == [b"new", b"new"]
    assert cache.counts == {Read.STORED: 2, Read.HIT: 1}


@pytest.mark.parametrize("foreign", [b"", b"x", b'{"price": 1}' * 100])
async def test_a_value_that_somebody_else_wrote_is_a_miss_and_is_replaced(redis: Redis, foreign: bytes) -> None:
    await redis.set(KEY, foreign)
    cache, row = Cache(redis), Row()
    assert await cache.get_or_load(KEY, row.load, 60) == b"row"
    assert cache.counts == {Read.STORED: 1}
    raw = await redis.get(KEY)
    assert isinstance(raw, bytes)
    assert decode_value(raw) == Stored(b"row")


async def test_a_value_that_arrives_between_look_and_lease_is_taken(redis: Redis) -> None:
    class Late(Redis):
        looked = False

        async def execute_command(self, *args: object, **options: object) -> object:
            answer = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            if args[0] == "GET" and not self.looked:
                self.looked = True
                await redis.set(KEY, encode_value(Stored(b"just stored")))
            return answer

    async with Late(connection_pool=redis.connection_pool) as late:
        cache, row = Cache(late), Row()
        assert await cache.get_or_load(KEY, row.load, 60) == b"just stored"
    assert row.asked == []
    assert await redis.get(lease_key(KEY)) is None


async def test_without_redis_every_read_loads() -> None:
    async with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as nobody:
        cache, row = Cache(nobody), Row()
        assert [await cache.get_or_load(KEY, row.load, 60, tags=["a"]) for _ in range(2)] == [b"row", b"row"]
    assert cache.counts == {Read.AWAY: 2}


async def test_redis_that_dies_during_the_load_costs_only_the_store(tmp_path: Path) -> None:
    port = free_port()
    server = valkey(tmp_path, port=port)
    server.__enter__()

    async def load(_: str) -> bytes:
        server.__exit__(None, None, None)
        return b"row"

    async with Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
        cache = Cache(client)
        assert await cache.get_or_load(KEY, load, 60) == b"row"
    assert cache.counts == {Read.AWAY: 1}


async def test_a_full_redis_that_may_not_evict_costs_only_the_store(tmp_path: Path) -> None:
    with valkey(tmp_path, "--maxmemory-policy", "noeviction") as port:
        async with Redis(port=port) as client:
            await client.config_set("maxmemory", 1)
            cache, row = Cache(client), Row()
            assert await cache.get_or_load(KEY, row.load, 60) == b"row"
    assert cache.counts == {Read.AWAY: 1}
