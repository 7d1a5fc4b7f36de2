"""A thread that ends the process when the event loop hangs, or when there is lag and nothing moves.

Kafka's heartbeats run in a thread of their own, so a worker whose loop hangs keeps its partitions for ever (tried: 75 s):
nobody else would take them over. Ending the process is what hands them on.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from downriver.exits import Exit

log = structlog.get_logger(__name__)
STOP_S = 15.0
"""How long a graceful stop may take once the end is decided."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What the watchdog looks at; called in its thread, must not block."""

    lag: Callable[[], int]
    """Records fetched or known of, and not delivered."""
    progress_at: Callable[[], float]
    """Monotonic seconds of the last delivery, or of the last assignment."""
    waiting: Callable[[], bool]
    """Whether the delivery waits for a server that it knows to be away: that is no stall."""


@dataclass(slots=True)
class Watchdog:
    """Start it from the event loop with `start()`."""

    pulse: Pulse
    loop_stall_s: float
    stall_s: float
    exit: Callable[[int], object] = os._exit
    exit_code: Exit | None = None
    _beat: float = field(default_factory=time.monotonic)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start the thread and the beat that it listens to."""
        loop = asyncio.get_running_loop()

        def beat() -> None:
            self._beat = time.monotonic()
            if not self._stopped.is_set():
                loop.call_later(min(0.5, self.loop_stall_s / 4), beat)

        beat()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching: the worker is stopping in order."""
        self._stopped.set()

    def end(self, code: Exit, reason: str) -> None:
        """End the worker: a graceful stop, then, if that hangs, a hard exit. Returns at once; the first call decides."""
        if self.exit_code is not None:
            return
        self.exit_code = code
        log.critical("worker_ends", code=int(code), reason=reason)
        threading.Thread(target=self._end, name="watchdog-end", args=(code,), daemon=True).start()

    def _end(self, code: Exit) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._stopped.wait(STOP_S):
            self.exit(int(code))

    def _watch(self) -> None:
        while not self._stopped.wait(min(0.5, self.loop_stall_s / 4)):
            now = time.monotonic()
            if now - self._beat > self.loop_stall_s:
                reason = f"the event loop has not run for {now - self._beat:.1f} s; the stacks of all threads follow"
                log.critical("loop_hangs", code=int(Exit.STALLED), reason=reason)
                faulthandler.dump_traceback(sys.stderr)
                self.exit(int(Exit.STALLED))
                return
            idle_s = now - self.pulse.progress_at()
            if idle_s > self.stall_s and not self.pulse.waiting() and (lag := self.pulse.lag()):
                reason = f"{lag} records lag and nothing was delivered for {idle_s:.0f} s; a new worker takes over"
                self.end(Exit.STALLED, reason)
                return
