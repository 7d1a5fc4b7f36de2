"""The cache sink against a real server: what it deletes, when it acknowledges, what it says when a server is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.asyncio import RedisCluster
from structlog.testing import capture_logs

from downriver.settings import Postgres, Settings
from downriver.settings import Redis as RedisSettings
from processors.change import Kind
from processors.sinks.base import APPLIED, Outcome, SinkUnavailable
from processors.sinks.cache import delayed
from processors.sinks.cache import sink as sink_module
from processors.sinks.cache.delayed import SecondDelete
from processors.sinks.cache.keys import fill, lease_key, tag_key
from processors.sinks.cache.primary import Primary, Snapshot
from processors.sinks.cache.reader import Cache, Read, Stored, encode_value
from processors.sinks.cache.route import Invalidate
from processors.sinks.cache.sink import CacheSink
from tests.support.valkey import free_port, valkey

ALL_SHOWN = Snapshot(1_000_000, frozenset(), 0)


class Shown(Primary):
    """A primary that answers from a list, its last entry for ever."""

    def __init__(self, *answers: Snapshot | Exception) -> None:
        super().__init__(Postgres())
        self.answers = list(answers)

    async def ask(self) -> Snapshot:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def configured(port: int, **redis: Any) -> Settings:
    return Settings(redis=RedisSettings(url=f"redis://127.0.0.1:{port}/0", timeout_s=1, **redis))


def invalidate(*keys: str, tags: tuple[str, ...] = (), transaction: int = 7, kind: Kind = Kind.STREAMED) -> Invalidate:
    return Invalidate(keys, tags, transaction, kind)


@contextmanager
def one_node_cluster(folder: Path) -> Iterator[int]:
    with valkey(folder, "--cluster-enabled", "yes") as port, Redis(port=port) as redis:
        redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        give_up_s = time.monotonic() + 20
        while b"cluster_state:ok" not in redis.execute_command("CLUSTER", "INFO"):
            assert time.monotonic() < give_up_s
            time.sleep(0.02)
        yield port


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with valkey(tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture
def redis(port: int) -> Iterator[Redis]:
    with Redis(port=port) as client:
        client.flushdb()
        yield client


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[CacheSink], Any]]:
    sinks: list[CacheSink] = []

    async def open_it(sink: CacheSink) -> CacheSink:
        sinks.append(sink)
        await sink.open()
        return sink

    yield open_it
    for sink in sinks:
        await sink.close()


async def test_values_leases_and_generations_vanish_and_nothing_else(port: int, redis: Redis, opened: Any) -> None:
    doomed = [fill("user:email:{email}", email="{a}:b@x"), *(f"product:{number}" for number in range(2_500))]
    for key in [*doomed, "product:kept"]:
        redis.mset({key: b"v", lease_key(key): b"t"})
    redis.mset({tag_key("users:active"): b"g", tag_key("other"): b"g"})
    sink = await opened(CacheSink(configured(port), primary=Shown(ALL_SHOWN)))

    batch = [invalidate(key) for key in doomed] + [invalidate(tags=("users:active",)), invalidate(doomed[0])]

    assert await sink.write(batch) == [APPLIED] * len(batch)
    assert set(redis.keys()) == {b"product:kept", b"lease:{product:kept}", tag_key("other").encode()}
    await sink.shown()


async def test_an_empty_batch_is_nothing(port: int, opened: Any) -> None:
    sink = await opened(CacheSink(configured(port), primary=Shown(ALL_SHOWN)))
    assert await sink.write([]) == []


async def test_only_the_items_that_are_not_visible_are_retried(
    port: int, redis: Redis, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "VISIBLE_WAIT_S", 0.03)
    sink = await opened(CacheSink(configured(port), primary=Shown(Snapshot(10, frozenset({8}), 0))))
    redis.mset({"a": b"v", "b": b"v", "c": b"v"})

    verdicts = await sink.write([invalidate("a", transaction=7), invalidate("b", transaction=8), invalidate("c")])

    assert [verdict.outcome for verdict in verdicts] == [Outcome.APPLIED, Outcome.RETRY, Outcome.APPLIED]
    assert "transaction 8" in verdicts[1].reason
    assert redis.keys() == []


async def test_what_was_set_before_the_commit_became_visible_is_deleted_again(
    port: int, redis: Redis, opened: Any
) -> None:
    """The reader sets after the first delete; the second answer of the primary is followed by another delete."""

    class Meanwhile(Shown):
        async def ask(self) -> Snapshot:
            answer = await super().ask()
            if answer.running:
                asyncio.get_running_loop().call_later(0.005, redis.set, "product:1", b"old")
            return answer

    primary = Meanwhile(
        Snapshot(10, frozenset(), 0), *[Snapshot(10, frozenset({7}), 0)] * 4, Snapshot(10, frozenset(), 0)
    )
    sink = await opened(CacheSink(configured(port), primary=primary))
    assert await sink.write([invalidate("product:1")]) == [APPLIED]
    assert redis.get("product:1") is None


async def test_snapshot_rows_and_rows_without_transaction_need_no_primary(port: int, redis: Redis, opened: Any) -> None:
    gone = SinkUnavailable("PostgreSQL is away")
    sink = await opened(CacheSink(configured(port), primary=Shown(ALL_SHOWN, gone)))
    redis.mset({"a": b"v", "b": b"v"})
    batch = [invalidate("a", kind=Kind.SNAPSHOT, transaction=3), invalidate("b", transaction=0)]
    assert await sink.write(batch) == [APPLIED, APPLIED]
    assert redis.keys() == []


async def test_without_the_primary_keys_are_deleted_and_nothing_is_acknowledged(
    port: int, redis: Redis, opened: Any
) -> None:
    sink = await opened(CacheSink(configured(port), primary=Shown(ALL_SHOWN, SinkUnavailable("PostgreSQL is away"))))
    redis.set("a", b"v")
    with pytest.raises(SinkUnavailable, match="PostgreSQL is away"):
        await sink.write([invalidate("a")])
    assert redis.get("a") is None


async def test_a_silent_primary_does_not_delay_the_delete(port: int, redis: Redis, opened: Any) -> None:
    class Silent(Shown):
        answers_now = asyncio.Event()

        async def ask(self) -> Snapshot:
            if redis.exists("a"):
                await self.answers_now.wait()
            return ALL_SHOWN

    primary = Silent(ALL_SHOWN)
    sink = await opened(CacheSink(configured(port), primary=primary))
    redis.set("a", b"v")
    writing = asyncio.create_task(sink.write([invalidate("a")]))
    async with asyncio.timeout(10):
        while redis.exists("a"):
            await asyncio.sleep(0.005)
    assert not writing.done()
    redis.set("a", b"a late reader's old value")
    primary.answers_now.set()
    assert await writing == [APPLIED]
    assert redis.get("a") is None


async def test_a_primary_that_is_away_is_named(port: int) -> None:
    nobody = free_port()
    settings = configured(port).model_copy(update={"postgres": Postgres(host="127.0.0.1", port=nobody)})
    sink = CacheSink(settings)
    with pytest.raises(SinkUnavailable, match=f"PostgreSQL at 127.0.0.1:{nobody} can't say"):
        await sink.open()
    await sink.close()


async def test_a_redis_that_is_away_is_named_and_a_restarted_one_simply_works(tmp_path: Path, opened: Any) -> None:
    port = free_port()
    sink = CacheSink(configured(port), primary=Shown(ALL_SHOWN))
    with pytest.raises(SinkUnavailable, match=f"Redis at 127.0.0.1:{port} can't take invalidations"):
        await sink.open()
    with valkey(tmp_path, port=port):
        await opened(sink)
        assert await sink.write([invalidate("a")]) == [APPLIED]
    with pytest.raises(SinkUnavailable, match=str(port)):
        await sink.write([invalidate("a")])
    with valkey(tmp_path, port=port), Redis(port=port) as redis, capture_logs() as logs:
        redis.set("a", b"v")
        assert await sink.write([invalidate("a")]) == [APPLIED]
        assert redis.get("a") is None
    assert [entry["event"] for entry in logs if entry["log_level"] == "info"] == ["cache_server_restarted"]


async def test_a_read_only_replica_is_unavailable(tmp_path: Path, opened: Any) -> None:
    with valkey(tmp_path) as port, Redis(port=port) as redis:
        sink = await opened(CacheSink(configured(port), primary=Shown(ALL_SHOWN)))
        redis.replicaof("127.0.0.1", free_port())
        with pytest.raises(SinkUnavailable, match="read only"):
            await sink.write([invalidate("a")])


async def test_a_full_redis_still_takes_invalidations(tmp_path: Path, opened: Any) -> None:
    with valkey(tmp_path, "--maxmemory-policy", "noeviction") as port, Redis(port=port) as redis:
        redis.set("a", b"v")
        sink = await opened(CacheSink(configured(port), primary=Shown(ALL_SHOWN)))
        redis.config_set("maxmemory", 1)
        assert await sink.write([invalidate("a")]) == [APPLIED]
        assert redis.get("a") is None


async def test_a_wrong_password_is_unavailable_and_the_right_one_works(tmp_path: Path, opened: Any) -> None:
    with valkey(tmp_path, "--requirepass", "right") as port:
        wrong = CacheSink(configured(port, password=SecretStr("no-such-secret")), primary=Shown(ALL_SHOWN))
        with pytest.raises(SinkUnavailable, match=f"Redis at 127.0.0.1:{port}") as raised:
            await wrong.open()
        assert "no-such-secret" not in str(raised.value)
        await wrong.close()
        right = await opened(CacheSink(configured(port, password=SecretStr("right")), primary=Shown(ALL_SHOWN)))
        assert await right.write([invalidate("a")]) == [APPLIED]


async def test_a_cluster_deletes_across_all_slots(tmp_path: Path, opened: Any) -> None:
    with one_node_cluster(tmp_path) as port, Redis(port=port) as redis:
        keys = [f"product:{number}" for number in range(300)]
        for name in [*keys, *map(lease_key, keys), tag_key("users:active")]:
            redis.set(name, b"v")
        sink = await opened(CacheSink(configured(port, cluster=True), primary=Shown(ALL_SHOWN)))
        batch = [*map(invalidate, keys), invalidate(tags=("users:active",))]
        assert await sink.write(batch) == [APPLIED] * len(batch)
        assert redis.keys() == []
        redis.mset({"product:1": b"late"})
        await sink.close()
        assert redis.keys() == []


async def test_the_reader_half_works_on_a_cluster(tmp_path: Path, opened: Any) -> None:
    async def load(_: str) -> bytes:
        return b"page"

    with one_node_cluster(tmp_path) as port:
        sink = await opened(CacheSink(configured(port, cluster=True), primary=Shown(ALL_SHOWN)))
        async with RedisCluster(port=port, host="127.0.0.1") as client:
            cache = Cache(client)
            for _ in range(2):
                assert await cache.get_or_load("users:active:page:1", load, 60, tags=["users:active", "all"]) == b"page"
            await sink.write([invalidate(tags=("all",))])
            assert await cache.get_or_load("users:active:page:1", load, 60, tags=["users:active", "all"]) == b"page"
            assert cache.counts == {Read.STORED: 2, Read.HIT: 1}


async def test_the_second_delete_spares_what_the_reader_half_stored(port: int, redis: Redis, opened: Any) -> None:
    sink = await opened(CacheSink(configured(port), primary=Shown(ALL_SHOWN)))
    await sink.write([invalidate("text", "framed", "hash", "none")])
    framed = encode_value(Stored(b"true"))
    redis.mset({"text": b"old", "framed": framed})
    redis.hset("hash", "price", "1")
    await sink.close()
    assert redis.keys() == [b"framed"]
    assert redis.get("framed") == framed


async def test_the_second_delete_comes_by_itself_and_early_when_too_much_is_held() -> None:
    deleted: list[set[str]] = []
    called = asyncio.Event()

    async def delete(keys: Any) -> None:
        deleted.append(set(keys))
        called.set()

    second = SecondDelete(delete, after_s=3_600, limit=3)
    second.start()
    second.add(["a", "b"])
    second.add(["b", "c"])
    assert len(second) == 3
    second.add(["d"])
    await asyncio.wait_for(called.wait(), 10)
    assert deleted == [{"a", "b", "c", "d"}]
    assert len(second) == 0
    second.add(["e"])
    await second.close()
    assert deleted[1:] == [{"e"}]


async def test_closing_does_not_wait_for_a_silent_redis_once_for_every_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def delete(_: Any) -> None:
        raise SinkUnavailable("Redis is away")

    monkeypatch.setattr(delayed, "GATHER_S", 0)  # a bucket for each call
    second = SecondDelete(delete)
    second.add(["a"])
    second.add(["b", "c"])
    with capture_logs() as logs:
        await second.close()
    assert [(entry["event"], entry["keys"]) for entry in logs] == [("second_delete_skipped", 3)]
    assert len(second) == 0
