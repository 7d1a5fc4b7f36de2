"""Waiting for what is away: back-off with jitter, and who is waited for since when. The clock and the sleep are injected."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)


class WaitedTooLong(Exception):
    """A server stayed away longer than the limit that was set; the message says which and for how long."""


@dataclass(slots=True)
class Waits:
    """What the worker waits for now, and since when. Shown by its health page.

    Args:
        limit_s: a wait longer than this raises WaitedTooLong; None: wait for ever.
    """

    initial_s: float = 0.1
    max_s: float = 10.0
    limit_s: float | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _open: dict[int, tuple[str, float]] = field(default_factory=dict)

    def begin(self, who: str) -> Wait:
        """Start a series of attempts at `who` (a server, in words)."""
        return Wait(self, who)

    def current(self) -> dict[str, float]:
        """Return who is waited for, and for how many seconds by now."""
        now = self.clock()
        longest: dict[str, float] = {}
        for who, since in self._open.values():
            longest[who] = max(longest.get(who, 0.0), now - since)
        return longest

    def opened(self, wait: Wait) -> None:
        """Note that `wait` began; called by it."""
        self._open[id(wait)] = (wait.who, wait.started)

    def closed(self, wait: Wait) -> None:
        """Note that `wait` is over; called by it."""
        self._open.pop(id(wait), None)


@dataclass(slots=True)
class Wait:
    """One series of attempts: `failed` after each failure, `over` at the end."""

    waits: Waits
    who: str
    attempts: int = 0
    started: float = 0.0

    async def failed(self, reason: str) -> None:
        """Note a failed attempt, log it (less and less often) and sleep before the next.

        Raises:
            WaitedTooLong: past the limit.
        """
        waits = self.waits
        if not self.attempts:
            self.started = waits.clock()
            waits.opened(self)
        self.attempts += 1
        waited_s = waits.clock() - self.started
        if self.attempts & (self.attempts - 1) == 0:  # 1st, 2nd, 4th, 8th …
            log.warning("waiting", on=self.who, reason=reason, attempt=self.attempts, waited_s=round(waited_s, 1))
        if waits.limit_s is not None and waited_s > waits.limit_s:
            msg = f"{self.who} was away for {waited_s:.0f} s, longer than the limit of {waits.limit_s:.0f} s: {reason}"
            raise WaitedTooLong(msg)
        delay = min(waits.initial_s * 2 ** min(self.attempts - 1, 20), waits.max_s)
        await waits.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  # jitter, no secret

    def over(self) -> None:
        """End the series: the server answered, or the attempt was given up."""
        if self.attempts:
            self.waits.closed(self)
            waited_s = self.waits.clock() - self.started
            log.info("waited", on=self.who, attempts=self.attempts, waited_s=round(waited_s, 1))
            self.attempts = 0
