"""The cache sink: deletes what a change made stale, and acknowledges once no reader can put it back.

Idempotent, whatever the order: a delete too many costs a miss. Knows keys and tags, and no table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any

import structlog
from prometheus_client import Counter

from downriver.settings import Settings
from processors.change import Kind
from processors.sinks.base import APPLIED, Pace, SinkUnavailable, Verdict, retry
from processors.sinks.cache.client import TROUBLE, connect, server_name
from processors.sinks.cache.delayed import SCRIPT, SecondDelete
from processors.sinks.cache.keys import FRAME_MAGIC
from processors.sinks.cache.primary import Primary, Snapshot
from processors.sinks.cache.route import Invalidate
from processors.sinks.cache.unlink import by_slot, commands

log = structlog.get_logger(__name__)

ASK_FIRST_S = 0.05
VISIBLE_WAIT_S = 1.0
VISIBLE_POLL_S = 0.01

_keys_total = Counter("downriver_cache_invalidated_keys_total", "Keys deleted, repeated deletes included.", ["sink"])
_tags_total = Counter("downriver_cache_invalidated_tags_total", "Tags whose pages were invalidated.", ["sink"])
_early_total = Counter(
    "downriver_cache_not_yet_visible_total", "Changes streamed before their transaction was visible.", ["sink"]
)


class CacheSink:
    """Invalidates Redis; see `processors.sinks.base.Sink` for who calls what.

    The order within `write()` is what makes an acknowledgement true: ask the primary what is visible, delete, and
    acknowledge what was visible *before* the delete. Asked after it, a reader may have loaded the old row and stored it
    between the delete and the moment at which the commit became visible. A slow primary never delays the delete: then
    it is deleted at once, and again after the answer.
    """

    pace = Pace(max_records=5_000, extra=2)

    def __init__(self, settings: Settings, *, name: str = "cache", primary: Primary | None = None) -> None:
        self.name = name
        self._settings = settings.redis
        self._server = server_name(settings.redis)
        self._redis: Any = None  # redis-py types one method for its synchronous and asynchronous client at once
        self._primary = primary or Primary(settings.postgres)
        self._second = SecondDelete(self._delete_foreign)
        self._run_id: str | None = None
        self._new_connection = False

    async def open(self) -> None:
        """Connect to Redis and to the primary. May be called again after SinkUnavailable."""
        if self._redis is None:
            self._redis = connect(self._settings, **self._on_connect())
        try:
            await self._redis.ping()
        except TROUBLE as error:
            raise self._away(error) from error
        await self._notice_restart()
        await self._primary.ask()
        self._second.start()

    async def write(self, batch: Sequence[Invalidate]) -> Sequence[Verdict]:
        """Delete all of the batch's keys and tags. RETRY: streamed, but still not visible after a second.

        Raises:
            SinkUnavailable: Redis is away; or PostgreSQL is, and then the deletes are done but not final.
        """
        unproven = {at: item for at, item in enumerate(batch) if item.transaction and item.kind is not Kind.SNAPSHOT}
        if not unproven:
            await self._unlink(batch)
            return [APPLIED] * len(batch)
        asked = asyncio.create_task(self._primary.ask())
        try:
            await asyncio.wait({asked}, timeout=ASK_FIRST_S)
            before = _answer(asked)
            await self._unlink(batch)
            if before is not None:
                unproven = {at: item for at, item in unproven.items() if not _shows(before, item)}
                _early_total.labels(self.name).inc(len(unproven))
            if unproven:
                unproven = await self._once_visible(unproven, None if before else await asked)
        finally:
            asked.cancel()
        return [self._not_visible(unproven[at]) if at in unproven else APPLIED for at in range(len(batch))]

    async def shown(self) -> None:
        """Return at once: Redis shows a delete when it has answered it."""

    async def close(self) -> None:
        """Do the second deletes that are still due, and close both connections."""
        await self._second.close()
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None
        await self._primary.close()

    async def _once_visible(self, unproven: dict[int, Invalidate], snapshot: Snapshot | None) -> dict[int, Invalidate]:
        """Wait for the transactions to become visible, delete each item again once it is, return those that are not.

        Args:
            snapshot: the first answer, if it is there already.
        """
        give_up_s = time.monotonic() + VISIBLE_WAIT_S
        while True:
            snapshot = snapshot or await self._primary.ask()
            shown = {at: item for at, item in unproven.items() if _shows(snapshot, item)}
            if shown:
                await self._unlink(shown.values())
                unproven = {at: item for at, item in unproven.items() if at not in shown}
            if not unproven or time.monotonic() >= give_up_s:
                return unproven
            snapshot = None
            await asyncio.sleep(VISIBLE_POLL_S)

    async def _unlink(self, items: Collection[Invalidate]) -> None:
        """Delete values, leases and generations, each name once."""
        keys = dict.fromkeys(chain.from_iterable(item.keys for item in items))
        tags = dict.fromkeys(chain.from_iterable(item.tags for item in items))
        if not keys and not tags:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for names in commands(keys, tags, cluster=self._settings.cluster):
            pipeline.execute_command("UNLINK", *names)
        await self._send(pipeline)
        if self._new_connection:
            await self._notice_restart()
        self._second.add(keys)
        _keys_total.labels(self.name).inc(len(keys))
        _tags_total.labels(self.name).inc(len(tags))

    async def _delete_foreign(self, keys: Iterable[str]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for names in by_slot(keys, cluster=self._settings.cluster):
            pipeline.eval(SCRIPT, len(names), *names, FRAME_MAGIC)
        await self._send(pipeline)

    async def _send(self, pipeline: Any) -> None:
        try:
            await pipeline.execute()
        except TROUBLE as error:
            raise self._away(error) from error

    def _on_connect(self) -> dict[str, Any]:
        """Have new connections noticed: Redis may have restarted. In a cluster each node has its own id: not watched."""
        if self._settings.cluster:
            return {}

        async def connected(connection: Any) -> None:
            await connection.on_connect()
            self._new_connection = True

        return {"redis_connect_func": connected}

    async def _notice_restart(self) -> None:
        if self._settings.cluster:
            return
        self._new_connection = False
        try:
            run_id = str((await self._redis.info("server"))["run_id"])
        except TROUBLE:  # only a note in the log: no invalidation waits for it, and INFO may be forbidden
            return
        if self._run_id not in {None, run_id}:
            log.info("cache_server_restarted", server=self._server, run_id=run_id, was=self._run_id)
        self._run_id = run_id

    def _away(self, error: Exception) -> SinkUnavailable:
        return SinkUnavailable(f"{self._server} can't take invalidations: {error or type(error).__name__}")

    def _not_visible(self, item: Invalidate) -> Verdict:
        return retry(f"transaction {item.transaction} is streamed but not yet visible on {self._primary.name}")


def _answer(asked: asyncio.Task[Snapshot]) -> Snapshot | None:
    """Return the snapshot if it is there already; an error waits until the deletes are done."""
    return asked.result() if asked.done() and asked.exception() is None else None


def _shows(snapshot: Snapshot, item: Invalidate) -> bool:
    return snapshot.shows(item.transaction, item.lsn)
