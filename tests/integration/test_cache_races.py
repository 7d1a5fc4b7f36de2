"""Every order in which a reader, a commit and an invalidation can meet: the real reader and the real sink on a real server.

A stage lets one actor at a time take one step (one command to the server, one look at the source). All schedules are
walked through, and after each the cache must hold nothing old. A plain cache-aside reader under the same schedules
shows that the walk finds races; so does a sink that asks what is visible after its delete instead of before.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import ConnectionPool, Redis

from downriver.settings import Redis as RedisSettings
from downriver.settings import Settings
from processors.change import Kind
from processors.sinks.base import APPLIED, Outcome
from processors.sinks.cache import sink as sink_module
from processors.sinks.cache.primary import Primary, Snapshot
from processors.sinks.cache.reader import Cache
from processors.sinks.cache.route import Invalidate
from processors.sinks.cache.sink import CacheSink
from tests.support.valkey import valkey

KEY, TAG = "product:1", "products:category:toys"
OLD, NEW = b"old", b"new"
TRANSACTION = 700
SETTINGS = Settings(redis=RedisSettings(url="redis://127.0.0.1:6379"))


class Stage:
    """Actors that take turns. An actor parks before each step; `choose` says which of the parked ones goes on."""

    def __init__(self, choose: Callable[[int], int]) -> None:
        self._choose = choose
        self._parked: dict[str, asyncio.Future[None]] = {}
        self._waiting: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def enter(self, name: str, act: Awaitable[None]) -> None:
        async def run() -> None:
            await act

        self._tasks[name] = asyncio.create_task(run())
        self._tasks[name].add_done_callback(lambda _: self._changed.set())

    async def step(self, name: str) -> None:
        self._parked[name] = asyncio.get_running_loop().create_future()
        self._changed.set()
        await self._parked[name]

    async def until(self, name: str, event: asyncio.Event) -> None:
        if not event.is_set():
            self._waiting.add(name)
            self._changed.set()
            await event.wait()

    def happen(self, event: asyncio.Event) -> None:
        event.set()
        self._waiting.clear()

    async def play(self) -> None:
        while True:
            self._changed.clear()
            running = [name for name, task in self._tasks.items() if not task.done()]
            if not running:
                break
            if all(name in self._parked or name in self._waiting for name in running):
                names = sorted(self._parked)
                self._parked.pop(names[self._choose(len(names))]).set_result(None)
                continue
            await asyncio.wait_for(self._changed.wait(), 20)
        for task in self._tasks.values():
            task.result()


def every_schedule() -> Iterator[Callable[[int], int]]:
    """Yield choosers that together take every path: depth first, each path once."""
    path: list[tuple[int, int]] = []
    while True:
        at = -1

        def choose(options: int) -> int:
            nonlocal at
            at += 1
            if at == len(path):
                path.append((0, options))
            assert path[at][1] == options, "a schedule must play out the same each time"
            return path[at][0]

        yield choose
        while path and path[-1][0] + 1 == path[-1][1]:
            path.pop()
        if not path:
            return
        path[-1] = (path[-1][0] + 1, path[-1][1])


class StagedRedis(Redis):
    """A client that parks before each command."""

    stage: Stage
    actor: str

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        await self.stage.step(self.actor)
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]


class Source(Primary):
    """The source: a row that a transaction changes. It streams the commit first, and shows it later."""

    def __init__(self, stage: Stage, *, slow: bool) -> None:
        super().__init__(SETTINGS.postgres)
        self.stage = stage
        self.row = OLD
        self.shown = asyncio.Event()
        self.slow = slow
        self.deleted = asyncio.Event()

    async def ask(self) -> Snapshot:
        if self.slow:  # it answers only after the first delete of a write
            await self.deleted.wait()
        await self.stage.step("sink")
        return Snapshot(1_000, frozenset() if self.shown.is_set() else frozenset({TRANSACTION}), 0)

    async def load(self, actor: str) -> bytes:
        await self.stage.step(actor)
        return self.row


class StagedSink(CacheSink):
    """The sink, parked before each of its deletes."""

    source: Source

    async def write(self, batch: Any) -> Any:
        self.source.deleted.clear()
        return await super().write(batch)

    async def _unlink(self, items: Any) -> None:
        await self.source.stage.step("sink")
        await super()._unlink(items)
        self.source.deleted.set()


class AskingAfterwards(StagedSink):
    """The order that looks right: delete, then ask, and acknowledge what is visible by then."""

    async def write(self, batch: Any) -> Any:
        await self._unlink(batch)
        snapshot = await self.source.ask()
        unproven = {at: item for at, item in enumerate(batch) if not snapshot.shows(item.transaction, item.lsn)}
        return [APPLIED if at not in unproven else self._not_visible(item) for at, item in enumerate(batch)]


class World:
    """One schedule's actors on a clean server."""

    def __init__(
        self,
        pool: ConnectionPool,
        choose: Callable[[int], int],
        kind: type[StagedSink] = StagedSink,
        *,
        slow: bool = False,
    ) -> None:
        self.stage = Stage(choose)
        self.source = Source(self.stage, slow=slow)
        self.sink = kind(SETTINGS, primary=self.source)
        self.sink.source = self.source
        self.sink._redis = Redis(connection_pool=pool)
        self.pool = pool

    async def commit(self, item: Invalidate) -> None:
        await self.stage.step("commit")  # streamed: the worker may read it from now on
        self.stage.enter("sink", self.deliver(item))
        await self.stage.step("commit")
        self.source.row = NEW
        self.stage.happen(self.source.shown)

    async def deliver(self, item: Invalidate) -> None:
        while (await self.sink.write([item]))[0].outcome is Outcome.RETRY:
            await self.stage.until("sink", self.source.shown)  # the engine's back-off

    def client(self, actor: str) -> StagedRedis:
        client = StagedRedis(connection_pool=self.pool)
        client.stage, client.actor = self.stage, actor
        return client

    async def read(self, actor: str, tags: tuple[str, ...] = ()) -> None:
        cache = Cache(self.client(actor), wait_s=0)
        await cache.get_or_load(KEY, lambda _: self.source.load(actor), 60, tags=tags)

    async def read_plainly(self, actor: str) -> None:
        client = self.client(actor)
        if await client.get(KEY) is None:
            await client.set(KEY, await self.source.load(actor), ex=60)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with valkey(tmp_path_factory.mktemp("valkey")) as port:
        yield port


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage decides who comes first, so the sink waits for no clock."""
    monkeypatch.setattr(sink_module, "VISIBLE_WAIT_S", 0)
    monkeypatch.setattr(sink_module, "ASK_FIRST_S", 60)


async def stale_of(
    port: int,
    choosers: Iterator[Callable[[int], int]],
    act: Callable[[World], None],
    *,
    item: Invalidate,
    **world: Any,
) -> tuple[int, int]:
    """Play every schedule; return how many there were, and how many left the old value for the next reader."""
    played = stale = 0
    pool = ConnectionPool(port=port)
    client = Redis(connection_pool=pool)
    for choose in choosers:
        await client.flushdb()
        here = World(pool, choose, **world)
        act(here)
        here.stage.enter("commit", here.commit(item))
        await here.stage.play()
        played += 1
        raw = await client.get(KEY)
        found = await Cache(client).peek(KEY, tags=[TAG] if item.tags else ())
        stale += raw == OLD or (found is not None and found.value == OLD)
    await pool.aclose()
    return played, stale


BY_KEY = Invalidate((KEY,), (), TRANSACTION, Kind.STREAMED)
BY_TAG = Invalidate((), (TAG,), TRANSACTION, Kind.STREAMED)


@pytest.mark.parametrize("slow", [False, True])
async def test_a_reader_with_a_lease_leaves_nothing_stale(port: int, slow: bool, monkeypatch: Any) -> None:
    if slow:
        monkeypatch.setattr(sink_module, "ASK_FIRST_S", 0)
    played, stale = await stale_of(
        port,
        every_schedule(),
        lambda world: world.stage.enter("reader", world.read("reader")),
        item=BY_KEY,
        slow=slow,
    )
    assert played > 100
    assert stale == 0


async def test_a_page_leaves_nothing_stale(port: int) -> None:
    played, stale = await stale_of(
        port,
        every_schedule(),
        lambda world: world.stage.enter("reader", world.read("reader", (TAG,))),
        item=BY_TAG,
    )
    assert played > 100
    assert stale == 0


async def test_a_plain_cache_aside_reader_leaves_plenty(port: int) -> None:
    played, stale = await stale_of(
        port,
        every_schedule(),
        lambda world: world.stage.enter("reader", world.read_plainly("reader")),
        item=BY_KEY,
    )
    assert stale > played / 20


async def test_asking_after_the_delete_what_is_visible_would_leave_a_hole(port: int) -> None:
    _, stale = await stale_of(
        port,
        every_schedule(),
        lambda world: world.stage.enter("reader", world.read("reader")),
        item=BY_KEY,
        kind=AskingAfterwards,
    )
    assert stale > 0


@pytest.mark.parametrize("plain", [False, True])
async def test_two_readers_in_many_random_orders(port: int, plain: bool) -> None:
    def act(world: World) -> None:
        for name in ("reader-1", "reader-2"):
            world.stage.enter(name, world.read_plainly(name) if plain else world.read(name))

    def choosers() -> Iterator[Callable[[int], int]]:
        for seed in range(400):
            yield random.Random(seed).randrange

    _, stale = await stale_of(port, choosers(), act, item=BY_KEY)
    assert (stale > 0) is plain
