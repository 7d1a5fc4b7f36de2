"""What the sink contract asks of each kind of sink: how to write a key, how a reader reads it, how to break the way there.

A harness knows one sink and its store; the suite knows none. `MemoryHarness` is the reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from downriver.settings import Settings
from processors.sinks.base import Outcome, Sink
from tests.contract.harness_proxy import Proxy
from tests.support.memory import MemorySink, Put, away, reply_lost


class Harness(ABC):
    """One kind of sink on a store of its own.

    A key holds a whole number from 1 on, or nothing. Version 0 is a snapshot row's; the others follow in order.
    """

    kind: ClassVar[str]
    """The key in SINKS."""
    tells_stale: ClassVar[bool]
    """Whether a command that changes nothing is STALE. A store that sorts versions out by itself answers APPLIED."""
    refuses: ClassVar[bool]
    """Whether there are commands that the store refuses for what they hold."""
    kinds: ClassVar[int]
    """How many kinds of keys there are, each with commands of its own. Keys take turns."""
    remote: ClassVar[bool]
    """Whether there is a server, which can be away when the sink is opened."""

    def __init__(self) -> None:
        self.sinks: list[Sink[Any]] = []

    @classmethod
    @abstractmethod
    @contextmanager
    def stored(cls, settings: Settings | None) -> Iterator[Self]:
        """Give a harness whose store holds nothing yet; remove what it holds afterwards.

        Args:
            settings: of the running stack; None where `remote` is false.
        """

    @abstractmethod
    def build(self) -> Sink[Any]:
        """Build one more sink to the same store, unopened."""

    @abstractmethod
    async def key(self) -> str:
        """Return a key that the store has never seen."""

    @abstractmethod
    async def commit(self, key: str, version: int, value: int | None) -> Any:
        """Note that the source now holds `value` (None: deleted), if `version` is its newest; return the sink's command."""

    @abstractmethod
    async def read(self, key: str) -> int | None:
        """Return what a reader of the store gets for `key`, past the way that the sink takes."""

    async def seen(self, key: str) -> Any:
        """Return everything that a reader can see of `key`."""
        return await self.read(key)

    def poisons(self) -> Sequence[Any]:
        """Return commands that the store refuses, each for another reason; none unless `refuses`."""
        return ()

    @property
    @abstractmethod
    def server(self) -> str:
        """What a message must hold to name the server."""

    @abstractmethod
    async def away(self) -> None:
        """Take the server away from every sink that was built: connections break, new ones are refused."""

    @abstractmethod
    async def lose_replies(self) -> None:
        """Let writes through and lose the answers, until `back()`."""

    @abstractmethod
    async def back(self) -> None:
        """End what `away()` or `lose_replies()` began."""

    async def one_of_each(self) -> list[str]:
        """Return new keys, one of each kind."""
        return [await self.key() for _ in range(self.kinds)]

    async def commits(self, keys: Sequence[str], version: int, value: int | None) -> list[Any]:
        """Return the commands of the same change of each key."""
        return [await self.commit(key, version, value) for key in keys]

    async def reads(self, keys: Sequence[str]) -> list[int | None]:
        """Return what a reader gets for each key."""
        return [await self.read(key) for key in keys]

    async def sees(self, keys: Sequence[str]) -> list[Any]:
        """Return everything that a reader can see of each key."""
        return [await self.seen(key) for key in keys]

    def sink(self) -> Sink[Any]:
        """Build a sink; `stop()` closes it."""
        self.sinks.append(self.build())
        return self.sinks[-1]

    async def opened(self) -> Sink[Any]:
        """Build a sink and open it."""
        sink = self.sink()
        await sink.open()
        return sink

    @abstractmethod
    async def start(self) -> None:
        """Get ready for one test: whatever belongs to its event loop."""

    async def stop(self) -> None:
        """Close every sink of the test."""
        await self.back()
        for sink in self.sinks:
            await sink.close()
        self.sinks.clear()

    @property
    def no_news(self) -> Outcome:
        """The verdict on a command that changes nothing."""
        return Outcome.STALE if self.tells_stale else Outcome.APPLIED


class MemoryHarness(Harness):
    """The reference: several sinks over one dictionary."""

    kind = "memory"
    kinds = 1
    tells_stale = True
    refuses = False
    remote = False
    server = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, tuple[int, str | None]] = {}
        self.made = 0

    @classmethod
    @contextmanager
    def stored(cls, settings: Settings | None) -> Iterator[Self]:
        """See Harness."""
        yield cls()

    def build(self) -> Sink[Any]:
        """See Harness."""
        return MemorySink(rows=self.rows)

    async def start(self) -> None:
        """Nothing belongs to an event loop here."""

    async def key(self) -> str:
        """See Harness."""
        self.made += 1
        return f"key {self.made}"

    async def commit(self, key: str, version: int, value: int | None) -> Put:
        """See Harness."""
        return Put(key, version, None if value is None else str(value))

    async def read(self, key: str) -> int | None:
        """See Harness."""
        _, value = self.rows.get(key, (0, None))
        return None if value is None else int(value)

    def _memories(self) -> list[MemorySink]:
        return [sink for sink in self.sinks if isinstance(sink, MemorySink)]

    async def away(self) -> None:
        """See Harness."""
        for sink in self._memories():
            sink.faults[:] = [away] * 100

    async def lose_replies(self) -> None:
        """See Harness."""
        for sink in self._memories():
            sink.faults[:] = [reply_lost(sink)] * 100

    async def back(self) -> None:
        """See Harness."""
        for sink in self._memories():
            sink.faults.clear()


class RemoteHarness(Harness):
    """A sink whose server is reached through a proxy of the test's own."""

    remote = True
    markers: ClassVar[tuple[bytes, ...]]
    """What, in a request, says that it is a write."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.proxy = Proxy(host, port)

    @property
    def server(self) -> str:
        """See Harness."""
        return f"127.0.0.1:{self.proxy.port}"

    async def away(self) -> None:
        """See Harness."""
        await self.proxy.vanish()

    async def lose_replies(self) -> None:
        """See Harness."""
        self.proxy.markers = self.markers

    async def back(self) -> None:
        """See Harness."""
        self.proxy.markers = ()
        await self.proxy.listen()

    async def start(self) -> None:
        """Listen on this test's event loop."""
        await self.proxy.listen()

    async def stop(self) -> None:
        """Close the sinks, then the way to the server."""
        await super().stop()
        await self.proxy.vanish()
