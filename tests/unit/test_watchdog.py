"""The watchdog ends a worker that hangs or stalls, and leaves one alone that waits for a server."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest

from downriver.exits import Exit
from processors.engine.watchdog import Pulse, Watchdog


@pytest.fixture
def terminated(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the process would have been told to stop."""
    told = threading.Event()

    def kill(_: int, number: int) -> None:
        assert number == signal.SIGTERM
        told.set()

    monkeypatch.setattr("processors.engine.watchdog.os.kill", kill)
    return told


def dog(lag: int, *, waiting: bool = False, loop_stall_s: float = 5.0, stall_s: float = 0.1) -> Watchdog:
    return Watchdog(Pulse(lambda: lag, lambda: 0.0, lambda: waiting), loop_stall_s, stall_s, lambda code: None)


async def test_lag_without_progress_ends_the_worker(terminated: threading.Event) -> None:
    watchdog = dog(lag=5, loop_stall_s=1)
    watchdog.start()
    assert await asyncio.to_thread(terminated.wait, 5)
    assert watchdog.exit_code == Exit.STALLED
    watchdog.stop()


@pytest.mark.parametrize(("lag", "waiting"), [(0, False), (5, True)])
async def test_no_lag_or_a_known_wait_is_no_stall(terminated: threading.Event, lag: int, waiting: bool) -> None:
    watchdog = dog(lag=lag, waiting=waiting, loop_stall_s=0.4)
    watchdog.start()
    await asyncio.sleep(0.5)
    assert not terminated.is_set()
    assert watchdog.exit_code is None
    watchdog.stop()


async def test_a_blocked_loop_ends_the_process_at_once() -> None:
    left: list[int] = []
    ended = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        ended.set()

    watchdog = Watchdog(Pulse(lambda: 0, time.monotonic, lambda: False), 0.2, 60, leave)
    watchdog.start()
    await asyncio.sleep(0.05)
    ended.wait(5)  # blocks the loop: that is what is tested
    assert left == [Exit.STALLED]
    watchdog.stop()


async def test_the_first_reason_to_end_decides(terminated: threading.Event) -> None:
    watchdog = dog(lag=0)
    watchdog.end(Exit.SERVER_AWAY, "kafka was away")
    watchdog.end(Exit.FAILED, "and so on")
    assert watchdog.exit_code == Exit.SERVER_AWAY
    assert await asyncio.to_thread(terminated.wait, 5)
    watchdog.stop()
