"""Shared refreshes: a waiter gets one that started after its write, and never more run than are needed."""

from __future__ import annotations

import asyncio

import pytest

from processors.sinks.base import SinkUnavailable
from processors.sinks.search.refresh import Refresher


class Server:
    """Refreshes that end when the test lets them."""

    def __init__(self) -> None:
        self.written = 0
        self.visible = 0
        self.started = 0
        self.running = 0
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.error: Exception | None = None

    async def refresh(self) -> None:
        self.started += 1
        self.running += 1
        assert self.running == 1
        seen = self.written
        self.begun.set()
        await self.gate.wait()
        self.running -= 1
        if self.error:
            raise self.error
        self.visible = seen


async def test_nothing_written_needs_no_refresh() -> None:
    server = Server()
    await Refresher(server.refresh).shown()
    assert server.started == 0


async def test_a_refresh_that_began_before_the_write_does_not_show_it() -> None:
    server = Server()
    refresher = Refresher(server.refresh, pace_s=0)

    async def write_and_wait() -> int:
        server.written += 1
        mine = server.written
        refresher.wrote()
        await refresher.shown()
        assert server.visible >= mine
        return mine

    first = asyncio.create_task(write_and_wait())
    await server.begun.wait()
    others = [asyncio.create_task(write_and_wait()) for _ in range(5)]
    await asyncio.sleep(0)
    server.gate.set()
    assert await asyncio.gather(first, *others) == [1, 2, 3, 4, 5, 6]
    assert server.started == 2, "the five share one"
    await refresher.shown()
    assert server.started == 2


async def test_who_is_cancelled_takes_no_refresh_away() -> None:
    server = Server()
    refresher = Refresher(server.refresh, pace_s=0)
    server.written = 1
    refresher.wrote()
    leaving, staying = asyncio.create_task(refresher.shown()), asyncio.create_task(refresher.shown())
    await server.begun.wait()
    leaving.cancel()
    server.gate.set()
    await staying
    assert (server.visible, server.started) == (1, 1)
    assert leaving.cancelled()


async def test_a_failed_refresh_fails_its_waiters_and_the_next_call_tries_again() -> None:
    server = Server()
    server.gate.set()
    refresher = Refresher(server.refresh, pace_s=0)
    refresher.wrote()
    server.written, server.error = 1, SinkUnavailable("away")
    results = list(await asyncio.gather(refresher.shown(), refresher.shown(), return_exceptions=True))
    assert results == [server.error, server.error]
    server.error = None
    await refresher.shown()
    assert (server.visible, server.started) == (1, 2)


async def test_refreshes_are_paced() -> None:
    server = Server()
    server.gate.set()
    refresher = Refresher(server.refresh, pace_s=0.05)
    loop = asyncio.get_running_loop()
    refresher.wrote()
    await refresher.shown()
    ended_s = loop.time()
    refresher.wrote()
    await refresher.shown()
    assert loop.time() - ended_s >= 0.045
    assert server.started == 2


async def test_close_ends_a_refresh_under_way() -> None:
    server = Server()
    refresher = Refresher(server.refresh, pace_s=0)
    refresher.wrote()
    waiting = asyncio.create_task(refresher.shown())
    await server.begun.wait()
    await refresher.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_slow_server_is_left_alone_as_long_as_it_took() -> None:
    server = Server()
    refresher = Refresher(server.refresh, pace_s=0)
    loop = asyncio.get_running_loop()
    refresher.wrote()
    began_s = loop.time()
    loop.call_later(0.1, server.gate.set)
    await refresher.shown()
    took_s = loop.time() - began_s
    refresher.wrote()
    await refresher.shown()
    assert loop.time() - began_s >= 2 * took_s - 0.01
    assert server.started == 2
