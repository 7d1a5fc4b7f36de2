"""A way to a real server that a test can break: the server vanishes, or its answers to writes are lost. Knows no sink."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tests.support.valkey import free_port


class Proxy:
    """A loopback port in front of a real server, which can vanish, or lose the answers to what holds a marker.

    Attributes:
        markers: lower case; what marks a request whose answer is lost. Empty: none is.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = free_port()
        self.markers: tuple[bytes, ...] = ()
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Take connections, from now on or again."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def vanish(self) -> None:
        """Break all connections and refuse new ones."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if server is not None:
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            back, there = await asyncio.open_connection(*self._target)
            self._writers.add(there)
            marked = asyncio.Event()
            ways = [
                asyncio.create_task(self._requests(reader, there, marked)),
                asyncio.create_task(self._answers(back, writer, marked)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
                    self._writers.discard(end)
            self._tasks.discard(task)

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, marked: asyncio.Event
    ) -> None:
        tail = b""
        with suppress(OSError):
            while data := await reader.read(2**16):
                tail = (tail[-64:] + data).lower()  # a marker may be cut in two
                if any(marker in tail for marker in self.markers):
                    marked.set()
                writer.write(data)
                await writer.drain()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, marked: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                if marked.is_set():
                    return
                writer.write(data)
                await writer.drain()
