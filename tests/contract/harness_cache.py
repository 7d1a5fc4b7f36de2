"""The cache under the sink contract: what a reader gets is what `get_or_load` answers.

The cache keeps no versions, and its commands carry no values: an invalidation makes the reader load again. So the harness
holds the source, and has a reader fill the cache with the old value before every commit: a command that is not carried
out, or carried out too late, leaves that old value to be read.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import psycopg
import redis
from redis.asyncio import Redis

from downriver.settings import Settings
from processors.change import Kind
from processors.sinks.base import Sink
from processors.sinks.cache.client import connect
from processors.sinks.cache.keys import lease_key, tag_key
from processors.sinks.cache.reader import Cache
from processors.sinks.cache.route import Invalidate
from processors.sinks.cache.sink import CacheSink
from tests.contract.harness import RemoteHarness


class CacheHarness(RemoteHarness):
    """Every second key is a page, which is invalidated by its tag."""

    kind = "cache"
    kinds = 2
    tells_stale = False
    refuses = False
    markers = (b"unlink",)

    def __init__(self, settings: Settings, transaction: int) -> None:
        address = redis.Redis.from_url(settings.redis.url).connection_pool.connection_kwargs
        super().__init__(address["host"], address["port"])
        self.settings = settings
        self.transaction = transaction
        self.name = f"contract:{uuid.uuid4().hex}"
        self.source: dict[str, tuple[int, int | None]] = {}
        self.keys = 0
        self.client: Any = None

    @classmethod
    @contextmanager
    def stored(cls, settings: Settings | None) -> Iterator[Self]:
        """See Harness. The commands carry a real transaction, one that is visible on the primary."""
        assert settings is not None
        # the shop's own database may not be there yet; transactions are the whole server's
        postgres = settings.postgres.model_copy(update={"database": "postgres"})
        with psycopg.connect(postgres.dsn(), autocommit=True) as source:
            row = source.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row is not None
        made = cls(settings.model_copy(update={"postgres": postgres}), row[0] % 2**32)
        try:
            yield made
        finally:
            with redis.Redis.from_url(settings.redis.url) as client:
                for key in made.source:
                    client.unlink(key, lease_key(key), tag_key(key))

    def build(self) -> Sink[Any]:
        """See Harness."""
        database = self.settings.redis.url.rpartition("/")[2]
        there = self.settings.redis.model_copy(update={"url": f"redis://{self.server}/{database}"})
        return CacheSink(self.settings.model_copy(update={"redis": there}))

    async def start(self) -> None:
        """Connect the reader, directly."""
        await super().start()
        self.client = connect(self.settings.redis)
        assert isinstance(self.client, Redis)

    async def stop(self) -> None:
        """See Harness."""
        await super().stop()
        await self.client.aclose()

    async def key(self) -> str:
        """See Harness."""
        self.keys += 1
        return f"{self.name}:{'page' if self.keys % 2 else 'row'}:{self.keys}"

    async def commit(self, key: str, version: int, value: int | None) -> Invalidate:
        """See Harness. The cache holds the value from before the commit when it is done."""
        await self.read(key)
        if version >= self.source.get(key, (0, None))[0]:
            self.source[key] = (version, value)
        keys, tags = ((), (key,)) if _is_page(key) else ((key,), ())
        kind, transaction = (Kind.STREAMED, self.transaction) if version else (Kind.SNAPSHOT, 0)
        return Invalidate(keys, tags, transaction, kind)

    async def read(self, key: str) -> int | None:
        """See Harness."""

        async def load(_: str) -> bytes | None:
            value = self.source.setdefault(key, (0, None))[1]
            return None if value is None else str(value).encode()

        found = await Cache(self.client).get_or_load(key, load, 60, tags=(key,) if _is_page(key) else ())
        return None if found is None else int(found)


def _is_page(key: str) -> bool:
    return ":page:" in key
