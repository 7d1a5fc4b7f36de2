"""Refreshes of one index, shared: many wait, at most one runs, and no more than half of the time.

A server that is busy refreshes slowly, and so is asked less often: at a fixed pace the refreshes were what kept it busy.

A document counts as shown only by a refresh that started after its write was answered. Knows no documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PACE_S = 0.1
"""Between the end of one refresh and the start of the next, at least. Each makes a segment, so a burst of batches shares one;
far below the strictest rule (1 minute), and below what a person notices."""
MOST_S = 1.0
"""The longest pause that a slow refresh is answered with."""


class Refresher:
    """Knows how many writes were answered and how many of them the last refresh covers."""

    def __init__(self, refresh: Callable[[], Awaitable[None]], pace_s: float = PACE_S) -> None:
        self._refresh = refresh
        self._pace_s = pace_s
        self._written = 0
        self._covered = 0
        self._next_at_s = float("-inf")
        self._running: asyncio.Task[None] | None = None

    def wrote(self) -> None:
        """Note that a write was answered, or was found done already, perhaps by a worker that never refreshed."""
        self._written += 1

    async def shown(self) -> None:
        """Return when a reader sees every write noted so far. Raises what the refresh raised: SinkUnavailable."""
        target = self._written
        while self._covered < target:
            if self._running is None or self._running.done():
                self._running = asyncio.create_task(self._run())
                self._running.add_done_callback(self._ended)
            # shielded: one waiter that is cancelled must not take the others' refresh away
            await asyncio.shield(self._running)

    async def close(self) -> None:
        """End the refresh under way, if there is one."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._next_at_s - loop.time()))
        starting, began_at_s = self._written, loop.time()
        try:
            await self._refresh()
        finally:
            now = loop.time()
            self._next_at_s = now + max(self._pace_s, min(now - began_at_s, MOST_S))
        self._covered = starting

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._running is task:
            self._running = None
        if not task.cancelled():
            task.exception()  # marks it as seen: the waiters got it, and there may be none left
