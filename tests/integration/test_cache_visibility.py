"""The visibility check against the real PostgreSQL: a transaction that is held open is not visible, then it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from redis import Redis

from downriver.settings import Redis as RedisSettings
from downriver.settings import Settings
from processors.change import Kind
from processors.sinks.base import APPLIED, Outcome
from processors.sinks.cache import sink as sink_module
from processors.sinks.cache.primary import XIDS, Primary
from processors.sinks.cache.route import Invalidate
from processors.sinks.cache.sink import CacheSink
from tests.support.valkey import valkey

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with valkey(tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture
async def writer(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(settings.postgres.dsn(dbname="postgres")) as connection:
        yield connection


@pytest.fixture
async def sink(settings: Settings, port: int) -> AsyncIterator[CacheSink]:
    postgres = settings.postgres.model_copy(update={"database": "postgres"})
    redis = RedisSettings(url=f"redis://127.0.0.1:{port}/0")
    sink = CacheSink(settings.model_copy(update={"postgres": postgres, "redis": redis}))
    await sink.open()
    yield sink
    await sink.close()


async def begin(writer: psycopg.AsyncConnection) -> Invalidate:
    """Give the open transaction its id, as its first write would; return what its change would invalidate."""
    row = await (
        await writer.execute("SELECT pg_current_xact_id()::text::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint")
    ).fetchone()
    assert row is not None
    return Invalidate(("product:1",), (), row[0] % XIDS, Kind.STREAMED, row[1])


async def test_an_open_transaction_is_retried_and_a_committed_one_is_acknowledged(
    sink: CacheSink, writer: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "VISIBLE_WAIT_S", 0.1)
    item = await begin(writer)
    (verdict,) = await sink.write([item])
    assert verdict.outcome is Outcome.RETRY
    assert f"transaction {item.transaction}" in verdict.reason
    await writer.commit()
    assert await sink.write([item]) == [APPLIED]


async def test_a_commit_that_becomes_visible_while_the_sink_waits_is_followed_by_a_delete(
    sink: CacheSink, port: int, writer: psycopg.AsyncConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink_module, "VISIBLE_WAIT_S", 30)
    item = await begin(writer)
    with Redis(port=port) as redis:
        redis.set("product:1", b"old")
        writing = asyncio.create_task(sink.write([item]))
        async with asyncio.timeout(10):
            while redis.exists("product:1"):
                await asyncio.sleep(0.005)
        redis.set("product:1", b"old, loaded before the commit was visible")
        await writer.commit()
        assert await writing == [APPLIED]
        assert redis.get("product:1") is None


async def test_a_rolled_back_and_an_earlier_transaction_hold_nothing_up(
    sink: CacheSink, writer: psycopg.AsyncConnection
) -> None:
    earlier = await begin(writer)
    await writer.rollback()
    held = await begin(writer)
    assert held.transaction != earlier.transaction
    assert await sink.write([earlier]) == [APPLIED]


async def test_a_lost_connection_is_made_again(settings: Settings, writer: psycopg.AsyncConnection) -> None:
    primary = Primary(settings.postgres.model_copy(update={"database": "postgres"}))
    await primary.ask()
    connection = primary._connection
    assert connection is not None
    await writer.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(Exception, match="can't say which transactions are visible"):
        await primary.ask()
    assert (await primary.ask()).lsn > 0
    await primary.close()


async def test_a_question_that_is_given_up_does_not_answer_the_next(
    settings: Settings, writer: psycopg.AsyncConnection
) -> None:
    primary = Primary(settings.postgres.model_copy(update={"database": "postgres"}))
    for _ in range(5):
        asking = asyncio.create_task(primary.ask())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        item = await begin(writer)
        assert not (await primary.ask()).shows(item.transaction, item.lsn)
        await writer.commit()
        assert (await primary.ask()).shows(item.transaction, item.lsn)
    await primary.close()
