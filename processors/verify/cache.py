"""The cache against the source: every entry that a reader would be given must hold what the application would load now.

An entry that is not there is no difference: a cache may forget anything at any time. Which value a key must have is the
application's to say, so it is passed in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import orjson
import psycopg
from redis.asyncio import Redis, RedisCluster

from downriver.settings import Redis as RedisSettings
from processors.sinks.base import SinkUnavailable
from processors.sinks.cache.client import TROUBLE, server_name
from processors.sinks.cache.keys import LEASE_PREFIX, TAG_PREFIX, tag_key
from processors.sinks.cache.reader import decode_value
from processors.verify.model import RESTRICTED, Entry, Key, Look, Values

BATCH = 500


class Parsed(Protocol):
    """A cache key that the application knows."""

    @property
    def pattern(self) -> str:
        """The template that it was filled from."""

    @property
    def values(self) -> Mapping[str, str]:
        """What it was filled with, decoded."""

    @property
    def tags(self) -> Sequence[str]:
        """The tags that invalidate it, of a page."""


class Pages(Protocol):
    """What an application reads through its cache; the module `shop.pages` is one."""

    def parse(self, key: str, /) -> Parsed:
        """Return what is known of a key; raise ValueError if it is none of the application's."""

    async def load(self, key: str, connection: psycopg.AsyncConnection[Any], /) -> bytes | None:
        """Return the value that `key` must have now, None if there is no such thing."""


class CacheCheck:
    """Every entry against a fresh load. Redis has no order: entries are looked at as they come, a batch at a time."""

    sink = "cache"
    table = "keys"
    may_forget = True

    def __init__(
        self,
        settings: RedisSettings,
        client: Redis | RedisCluster,
        connection: psycopg.AsyncConnection[Any],
        pages: Pages,
    ) -> None:
        """Make the check; `connection` is in autocommit mode with ordinary rows (tuples): each load has a snapshot."""
        self._settings = settings
        self._client: Any = client  # redis-py types one method for its synchronous and asynchronous client at once
        self._connection = connection
        self._pages = pages

    def readable(self, key: Key) -> str:
        """Return the key with Restricted parts, such as an e-mail, masked."""
        (name,) = key
        parsed = self._pages.parse(name)
        masked = {column: "***" if column in RESTRICTED else value for column, value in parsed.values.items()}
        return parsed.pattern.format(**masked)

    async def first_look(self) -> AsyncIterator[Look]:
        """Yield every entry that a reader would be given, with what it must hold; in no order, an entry perhaps twice."""
        batch: list[str] = []
        with self._told():
            async for name in self._client.scan_iter(count=BATCH):
                key = name.decode(errors="replace")
                if self._known(key):
                    batch.append(key)
                if len(batch) == BATCH:
                    async for look in self._looks(batch):
                        yield look
                    batch.clear()
            async for look in self._looks(batch):
                yield look

    async def _looks(self, keys: Sequence[str]) -> AsyncIterator[Look]:
        for key, shown in await self._read(keys):
            yield key, (await self.source_at([key]))[key], shown

    async def source_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return what these keys must hold."""
        return {(key,): fields(await self._pages.load(key, self._connection)) for (key,) in keys}

    async def shown_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return what a reader would be given of these keys."""
        with self._told():
            return dict(await self._read([key for (key,) in keys]))

    def _known(self, key: str) -> bool:
        if key.startswith((LEASE_PREFIX, TAG_PREFIX)):
            return False
        try:
            self._pages.parse(key)
        except ValueError:
            return False
        return True

    async def _read(self, keys: Sequence[str]) -> list[Entry]:
        """Return the entries that are there and that a reader would accept.

        Tags are read after the values, as a reader does: then a page with the current generations was not invalidated
        between its load and now.
        """
        raws = await self._get(keys)
        tags = {key: [tag_key(tag) for tag in sorted(set(self._pages.parse(key).tags))] for key in keys}
        names = sorted({name for of_key in tags.values() for name in of_key})
        current = dict(zip(names, await self._get(names), strict=True))
        found: list[Entry] = []
        for key, raw in zip(keys, raws, strict=True):
            if raw is None:
                continue
            try:
                stored = decode_value(raw)
            except ValueError:
                continue  # not written by the reader half, which takes it for a miss
            if list(stored.generations) == [current[name] for name in tags[key]]:
                found.append(((key,), fields(stored.value)))
        return found

    async def _get(self, names: Iterable[str]) -> list[bytes | None]:
        pipeline = self._client.pipeline(transaction=False)
        for name in names:
            pipeline.get(name)
        got: list[bytes | None] = await pipeline.execute()
        return got

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except TROUBLE as error:
            msg = f"{server_name(self._settings)}: {error}"
            raise SinkUnavailable(msg) from error


def fields(value: bytes | None) -> Values:
    """Return a cached value field by field, so that a difference can name one; a value that is no object is one field."""
    if value is None:
        return {"value": None}
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return {"value": value}
    if not isinstance(parsed, dict):
        return {"value": value}
    # `bytes` as well: readers compare bytes, and 1.0 is not 1.00
    return parsed | {"bytes": value}
