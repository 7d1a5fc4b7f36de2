"""The shop's readers: what a storefront asks the cache for, all the while, by the reader half that a customer would use."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import accumulate
from uuid import UUID

import psycopg
from redis.asyncio import Redis, RedisCluster

from downriver.settings import Settings
from processors.sinks.cache.client import connect
from processors.sinks.cache.keys import fill
from processors.sinks.cache.reader import Cache, Read
from shop import pages
from shop.demo.ending import cancelled

PAUSE_S = 0.01
HOT = 1_000
"""Products, users and orders that are looked at, the first ones most."""
EMAILS = 100


class Readers:
    """So many readers, each with a connection of its own to the primary."""

    def __init__(self, settings: Settings, count: int, seed: int) -> None:
        self._settings = settings
        self._count = count
        self._seed = seed
        self._client: Redis | RedisCluster | None = None
        self._cache: Cache | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.failures = 0

    @property
    def reads(self) -> int:
        """How many reads were answered."""
        return self._cache.counts.total() if self._cache else 0

    @property
    def hit_rate(self) -> float:
        """The share of the reads that the cache answered; 0 before the first."""
        return self._cache.counts[Read.HIT] / self.reads if self._cache and self.reads else 0.0

    async def start(self) -> None:
        """Choose the keys and start reading."""
        client = connect(self._settings.redis, socket_timeout=0.5, socket_connect_timeout=0.5)
        self._client = client
        self._cache = Cache(client)
        keys = await self._keys()
        weights = list(accumulate(1 / (1 + index) ** 0.8 for index in range(len(keys))))
        for number in range(self._count):
            choose = random.Random(f"{self._seed}-{number}")  # noqa: S311  # which page is looked at, no secret
            self._tasks.append(asyncio.create_task(self._read(choose, keys, weights)))

    async def stop(self) -> None:
        """Stop reading."""
        await cancelled(self._tasks)
        if self._client is not None:
            await self._client.aclose()

    async def _keys(self) -> list[str]:
        """Return keys of every pattern, the ones that are asked for most first."""
        async with await psycopg.AsyncConnection.connect(self._settings.postgres.dsn()) as connection:

            async def column(query: str, count: int) -> list[str]:
                cursor = await connection.execute(query.encode(), (count,))
                return [str(row[0]) for row in await cursor.fetchall()]

            products = await column("SELECT id FROM products ORDER BY created_at, id LIMIT %s", HOT)
            users = await column("SELECT id FROM users ORDER BY created_at, id LIMIT %s", HOT // 4)
            emails = await column("SELECT email FROM users ORDER BY created_at, id LIMIT %s", EMAILS)
            orders = await column("SELECT id FROM orders ORDER BY ordered_at DESC, id LIMIT %s", HOT // 4)
            categories = await column("SELECT DISTINCT category FROM products ORDER BY 1 LIMIT %s", 20)
        keys = [fill("users:active:page:{n}", n=number) for number in (1, 2)]
        keys += [fill("products:category:{category}:page:{n}", category=name, n=1) for name in categories]
        for product in products:
            keys += [fill(pattern, **{name: UUID(product)}) for pattern, name in _OF_A_PRODUCT]
        keys += [fill("user:{id}", id=UUID(user)) for user in users]
        keys += [fill("user:{id}:orders", id=UUID(user)) for user in users]
        keys += [fill("user:email:{email}", email=email) for email in emails]
        keys += [fill("order:{id}", id=UUID(order)) for order in orders]
        return keys

    async def _read(self, choose: random.Random, keys: Sequence[str], weights: Sequence[float]) -> None:
        cache = self._cache
        assert cache is not None  # noqa: S101  # set before the readers start
        connection: psycopg.AsyncConnection[object] | None = None
        try:
            while True:
                if connection is None or connection.closed:
                    dsn = self._settings.postgres.dsn(application_name="downriver-demo-reader")
                    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
                key = choose.choices(keys, cum_weights=weights)[0]
                page = pages.parse(key)
                open_connection = connection

                async def load(wanted: str, through: psycopg.AsyncConnection[object] = open_connection) -> bytes | None:
                    return await pages.load(wanted, through)

                try:
                    await cache.get_or_load(key, load, page.ttl_s, tags=page.tags)
                except psycopg.Error:
                    self.failures += 1
                    await connection.close()
                await asyncio.sleep(PAUSE_S)
        finally:
            if connection is not None:
                await connection.close()


_OF_A_PRODUCT = (("product:{id}", "id"), ("inventory:{product_id}", "product_id"))
