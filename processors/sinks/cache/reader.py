"""The reader half: a cache-aside read that never keeps what an invalidation has made stale. For applications.

It needs redis-py and keys.py, nothing else of ours. On a miss it takes a lease, loads, and stores only while its lease
exists; every invalidation deletes value and lease together.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from processors.sinks.cache.keys import FRAME_MAGIC, lease_key, tag_key

_TROUBLE = (RedisError, RedisClusterException, OSError, TimeoutError)
_TOKEN_BYTES = 16
_NEGATIVE = 0x80
_HEAD = len(FRAME_MAGIC) + 1
_FOREIGN_HEAD = 64
_POLL_S = 0.01
_GENERATION_TTL_S = 86_400
_MAX_TAGS = _NEGATIVE - 1

LEASE_SCRIPT = """
-- value, lease; token, lease in ms, the first bytes of a value that the reader has seen and may not use
if redis.call('STRLEN', KEYS[1]) > 0 then  -- an empty value is none of ours and of no use: as if it were absent
  if #ARGV[3] == 0 or redis.call('GETRANGE', KEYS[1], 0, #ARGV[3] - 1) ~= ARGV[3] then return 2 end
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
"""
STORE_SCRIPT = """
-- value, lease; token, the framed value ('' gives the lease back), its life in ms
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
if #ARGV[2] > 0 then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


class _Lease(IntEnum):
    """What LEASE_SCRIPT answers."""

    HELD = 0
    GRANTED = 1
    LOOK_AGAIN = 2


class Read(StrEnum):
    """How a read ended."""

    HIT = "hit"
    STORED = "stored"
    """A miss: loaded and stored."""
    REFUSED = "refused"
    """A miss: loaded, not stored, because an invalidation (or an eviction) took the lease meanwhile."""
    HELD = "held"
    """A miss: loaded, not stored, because another reader holds the lease and did not store in time."""
    AWAY = "away"
    """Redis gave trouble: loaded, as if there were no cache."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a cache key holds: the value, None for "there is no such row", and the generations of a page's tags."""

    value: bytes | None
    generations: tuple[bytes, ...] = ()


def encode_value(stored: Stored) -> bytes:
    """Frame a value: magic, one byte (128 for a negative answer, plus the number of tags), generations, value."""
    head = (_NEGATIVE if stored.value is None else 0) | len(stored.generations)
    return b"".join((FRAME_MAGIC, bytes((head,)), *stored.generations, stored.value or b""))


def decode_value(raw: bytes) -> Stored:
    """Read a framed value.

    Raises:
        ValueError: the reader half did not write it.
    """
    if len(raw) < _HEAD or not raw.startswith(FRAME_MAGIC):
        msg = f"the cached value does not start with {FRAME_MAGIC!r}: something else than the reader half wrote it"
        raise ValueError(msg)
    tags = raw[_HEAD - 1] & ~_NEGATIVE
    end = _HEAD + tags * _TOKEN_BYTES
    if len(raw) < end:
        msg = f"the cached value ends within the generations of its {tags} tags"
        raise ValueError(msg)
    generations = tuple(raw[at : at + _TOKEN_BYTES] for at in range(_HEAD, end, _TOKEN_BYTES))
    return Stored(None if raw[_HEAD - 1] & _NEGATIVE else raw[end:], generations)


class Cache:
    """Reads through Redis; build one a process and share it.

    Args:
        client: speaks bytes (`decode_responses=False`). Give it a short `socket_timeout` and no long retries, for a
            silent Redis delays every read by them: `Redis(host=…, socket_timeout=0.25, socket_connect_timeout=0.25,
            retry=Retry(NoBackoff(), 1))`. The policy of the server must be free to evict: nothing here relies on a key.
        lease_s: a load that takes longer is not stored; a reader that dies while loading keeps others from storing so long.
        wait_s: how long a reader waits for another one that is loading the same key, before it loads by itself.
        negative_ttl_s: longest life of the answer None.
        jitter: up to this share is taken off each time to live, so that keys filled together do not expire together.

    Attributes:
        counts: how many reads ended how.
    """

    def __init__(
        self,
        client: Redis | RedisCluster,
        *,
        lease_s: float = 5.0,
        wait_s: float = 0.2,
        negative_ttl_s: float = 30.0,
        jitter: float = 0.1,
    ) -> None:
        if client.get_encoder().decode_responses:
            msg = "the reader half needs a Redis client with decode_responses=False: cached values are bytes"
            raise ValueError(msg)
        self._client: Any = client  # redis-py types one method for its synchronous and asynchronous client at once
        self._lease_ms = max(1, round(lease_s * 1000))
        self._wait_s = wait_s
        self._negative_ttl_s = negative_ttl_s
        self._jitter = jitter
        self.counts: Counter[Read] = Counter()

    async def get_or_load(
        self,
        key: str,
        load: Callable[[str], Awaitable[bytes | None]],
        ttl_s: float,
        *,
        tags: Iterable[str] = (),
        on_outcome: Callable[[Read], None] | None = None,
    ) -> bytes | None:
        """Return the cached value of `key`, or what `load(key)` returns, and keep that if it is still true.

        `load` MUST read from the primary in a snapshot that is opened after it was called: a new transaction, or one
        statement outside of a transaction. A snapshot from before the lease may miss a commit whose invalidation has
        already passed; nothing would delete what it read.

        Trouble with Redis is counted, never raised; what `load` raises is.

        Args:
            key: built by `keys.fill`.
            ttl_s: seconds to live.
            tags: of a page: it is a hit only while none of them was invalidated. The same for every read of this key.

        Raises:
            ValueError: more than 127 tags.
        """
        names = tuple(sorted(set(tags)))
        if len(names) > _MAX_TAGS:
            msg = f"{key} has {len(names)} tags; a page can carry {_MAX_TAGS}"
            raise ValueError(msg)
        token = secrets.token_bytes(_TOKEN_BYTES)
        try:
            found, granted = await self._find_or_lease(key, names, token)
            # A page's generations are read (or made) BEFORE the load: an invalidation during the load then replaces
            # them, and the page, which carries the old ones, is never accepted.
            generations = await self._make_generations(names) if granted else ()
        except _TROUBLE:
            return self._told(Read.AWAY, on_outcome, await load(key))
        if found is not None:
            return self._told(Read.HIT, on_outcome, found.value)
        if not granted:
            return self._told(Read.HELD, on_outcome, await load(key))
        try:
            value = await load(key)
        except Exception:
            await self._store(key, token, b"", 1)  # gives the lease back, so that the next reader may store
            raise
        life_s = ttl_s if value is not None else min(ttl_s, self._negative_ttl_s)
        life_s *= 1 - self._jitter * random.random()  # noqa: S311 - spreads load, hides nothing
        framed = encode_value(Stored(value, generations))
        return self._told(await self._store(key, token, framed, max(1, round(life_s * 1000))), on_outcome, value)

    async def peek(self, key: str, *, tags: Iterable[str] = ()) -> Stored | None:
        """Return what a read of `key` would take from the cache now, None for a miss. Raises what redis-py raises."""
        found, _ = await self._look(key, tuple(sorted(set(tags))))
        return found

    async def _find_or_lease(self, key: str, tags: tuple[str, ...], token: bytes) -> tuple[Stored | None, bool]:
        """Return the value, or whether the lease was granted. Waits a little for another reader that holds it."""
        give_up = time.monotonic() + self._wait_s
        while True:
            found, unusable = await self._look(key, tags)
            if found is not None:
                return found, False
            asked = (LEASE_SCRIPT, 2, key, lease_key(key), token, self._lease_ms, unusable)
            answer = _Lease(await self._client.eval(*asked))
            if answer is _Lease.GRANTED:
                return None, True
            if time.monotonic() >= give_up:
                return None, False
            if answer is _Lease.HELD:
                await asyncio.sleep(_POLL_S)

    async def _look(self, key: str, tags: tuple[str, ...]) -> tuple[Stored | None, bytes]:
        """Return the usable value, or the first bytes of one that can't be used (empty: there is none)."""
        raw: bytes | None = await self._client.get(key)
        if raw is None:
            return None, b""
        try:
            stored = decode_value(raw)
        except ValueError:
            return None, raw[:_FOREIGN_HEAD]
        # The current generations are read AFTER the page: if they are equal then, no invalidation came between the
        # page's load and that moment. Read before, an invalidation between the two reads would go unnoticed.
        current = [await self._client.get(tag_key(tag)) for tag in tags]
        if list(stored.generations) == current:
            return stored, b""
        return None, raw[: _HEAD + len(stored.generations) * _TOKEN_BYTES]

    async def _make_generations(self, tags: tuple[str, ...]) -> tuple[bytes, ...]:
        """Return the generation of each tag. A new one is random: a counter, once evicted, would revive old pages."""
        generations = []
        for tag in tags:
            new = secrets.token_bytes(_TOKEN_BYTES)
            old: bytes | None = await self._client.set(tag_key(tag), new, nx=True, get=True, ex=_GENERATION_TTL_S)
            generations.append(new if old is None else old)
        return tuple(generations)

    async def _store(self, key: str, token: bytes, framed: bytes, life_ms: int) -> Read:
        try:
            stored = await self._client.eval(STORE_SCRIPT, 2, key, lease_key(key), token, framed, life_ms)
        except _TROUBLE:
            return Read.AWAY
        return Read.STORED if stored else Read.REFUSED

    def _told(self, read: Read, on_outcome: Callable[[Read], None] | None, value: bytes | None) -> bytes | None:
        self.counts[read] += 1
        if on_outcome is not None:
            on_outcome(read)
        return value
