"""A second delete, some seconds after the first, for readers that don't use the reader half and set what they read late.

Best effort, bounded, in memory; nothing waits for it. Values that the reader half stored are left alone: they are true.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import structlog

from processors.sinks.base import SinkUnavailable

log = structlog.get_logger(__name__)

AFTER_S = 5.0
GATHER_S = 0.5
LIMIT = 500_000
"""Keys held, about 65 MB. Above it the oldest are deleted early."""

SCRIPT = """
-- keys; the magic of values that the reader half stored
for i = 1, #KEYS do
  local head = redis.pcall('GETRANGE', KEYS[i], 0, #ARGV[1] - 1)  -- an error (not a string) is a table, and differs
  if head ~= ARGV[1] then redis.call('UNLINK', KEYS[i]) end
end
return #KEYS
"""


class SecondDelete:
    """Keys in buckets by the time they are due; a key changed often is deleted again at most every `GATHER_S`.

    Args:
        delete: deletes the keys whose values are foreign; raises SinkUnavailable.
    """

    def __init__(
        self, delete: Callable[[Iterable[str]], Awaitable[None]], *, after_s: float = AFTER_S, limit: int = LIMIT
    ) -> None:
        self._delete = delete
        self._after_s = after_s
        self._limit = limit
        self._buckets: deque[tuple[float, set[str]]] = deque()
        self._held = 0
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return self._held

    def add(self, keys: Iterable[str]) -> None:
        """Delete `keys` again `after_s` to `after_s + GATHER_S` from now."""
        due_s = time.monotonic() + self._after_s + GATHER_S
        if not self._buckets or self._buckets[-1][0] <= due_s - GATHER_S:
            self._buckets.append((due_s, set()))
        bucket = self._buckets[-1][1]
        before = len(bucket)
        bucket.update(keys)
        self._held += len(bucket) - before

    def start(self) -> None:
        """Begin to delete what is due."""
        if self._task is None:
            self._task = asyncio.create_task(self._forever(), name="second delete")

    async def close(self) -> None:
        """Delete all that is held now, whether due or not."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        await self._run(all_of_them=True)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(GATHER_S)
            await self._run()

    async def _run(self, *, all_of_them: bool = False) -> None:
        now_s = time.monotonic()
        while self._buckets and (all_of_them or self._held > self._limit or self._buckets[0][0] <= now_s):
            _, keys = self._buckets.popleft()
            self._held -= len(keys)
            try:
                await self._delete(keys)
            except SinkUnavailable as error:
                # Not tried again: Redis away this long has most likely lost the values too, and the keys were deleted once.
                skipped = len(keys)
                if all_of_them:  # closing: don't wait for the same silence once for every bucket
                    skipped += self._held
                    self._buckets.clear()
                    self._held = 0
                log.warning("second_delete_skipped", keys=skipped, error=str(error))
