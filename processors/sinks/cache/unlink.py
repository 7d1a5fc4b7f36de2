"""Which names go into which UNLINK. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from redis.crc import key_slot

from processors.sinks.cache.keys import lease_key, tag_key

NAMES = 1_000
"""In one command: more gain nothing (measured), and a longer one keeps other clients waiting. Even, see `commands`."""


def commands(keys: Iterable[str], tags: Iterable[str], *, cluster: bool) -> Iterator[list[str]]:
    """Yield the names for each UNLINK: lease and value of every key, the generation of every tag.

    A lease goes in one command with its value: deleted one after the other, a reader could set between the two. That
    holds as pairs are never split (`NAMES` is even, pairs come first). In a cluster a command holds one slot's names.
    """
    pairs = [(lease_key(key), key) for key in keys]
    generations = [tag_key(tag) for tag in tags]
    if not cluster:
        yield from _chunks([name for pair in pairs for name in pair] + generations)
        return
    slots: defaultdict[int, list[str]] = defaultdict(list)
    for pair in pairs:
        slots[key_slot(pair[1].encode())].extend(pair)
    for generation in generations:
        slots[key_slot(generation.encode())].append(generation)
    for names in slots.values():
        yield from _chunks(names)


def by_slot(keys: Iterable[str], *, cluster: bool) -> Iterator[Sequence[str]]:
    """Yield `keys` in pieces of which each fits one command."""
    if not cluster:
        yield from _chunks(list(keys))
        return
    slots: defaultdict[int, list[str]] = defaultdict(list)
    for key in keys:
        slots[key_slot(key.encode())].append(key)
    for names in slots.values():
        yield from _chunks(names)


def _chunks(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), NAMES):
        yield names[start : start + NAMES]
