"""The cache under measurement: what is in it before, what must be left of it after, and what Redis itself can do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import redis

from bench.records import CATEGORIES, Load
from downriver.settings import Settings

VALUE = b"x" * 200
SPARED = {b"order:0", b"user:0", b"product:of-nobody"}
"""Keys that no record is about: they must survive."""
BATCH = 1_000


def keys_of(load: Load) -> Iterator[str]:
    """Yield every key that the load makes stale: products, and the generations of their categories."""
    for row in load.rows():
        yield f"product:{row['id']}"
    for number in range(min(CATEGORIES, load.distinct)):
        yield f"tag:{{products:category:category-{number}}}"


def prepare(settings: Settings, load: Load) -> None:
    """Empty the cache and fill it with a value under every key, and under those that must survive."""
    with redis.Redis.from_url(settings.redis.url) as cache:
        cache.flushdb()
        keys = keys_of(load)
        while some := list(islice(keys, BATCH)):
            cache.mset(dict.fromkeys(some, VALUE))
        cache.mset(dict.fromkeys(SPARED, VALUE))


def unequal(settings: Settings) -> list[str]:
    """Tell what is in the cache and should not be, and what should and is not."""
    with redis.Redis.from_url(settings.redis.url) as cache:
        held = set(cache.scan_iter(count=10_000))
    wrong = [f"{key.decode()} is stale and still there" for key in sorted(held - SPARED)[:3]]
    return wrong + [f"{key.decode()} was deleted and is nobody's" for key in sorted(SPARED - held)]


def limit(settings: Settings, load: Load) -> float:
    """Return the seconds that one connection takes to DEL all keys of a prepared cache, BATCH a command."""
    keys = list(keys_of(load))
    with redis.Redis.from_url(settings.redis.url) as cache:
        began = time.perf_counter()
        for place in range(0, len(keys), BATCH):
            cache.delete(*keys[place : place + BATCH])
        return time.perf_counter() - began
