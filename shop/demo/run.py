"""The demo's steps, in order; whatever ends it, what it started is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from connectors import apply as connector_apply
from deploy.local.processes import MARK
from deploy.local.progress import Shown
from deploy.local.stack import Stack, capture_of
from downriver.exits import BadInput, DownriverError
from downriver.output import say
from downriver.settings import Settings
from processors.propagation.arrival import Arrival, arrived
from processors.propagation.commands import page as rules_page
from processors.propagation.monitor import Monitor, snapshot
from processors.propagation.status import Status
from processors.verify.compare import SINKS, compare
from shop import migrate, pages
from shop.commands import Size, capture_password
from shop.demo.crew import Crew
from shop.demo.ending import cancelled
from shop.demo.readers import Readers
from shop.demo.result import Result
from shop.demo.screen import Screen
from shop.names import CaptureNames
from shop.sample.fill import SIZES, fill
from shop.sample.rows import Plan
from shop.workload import run as workload

ARRIVE_S = 180.0
CONNECT_S = 180.0
CLEANER = ("connectors", "clean-outbox", "--keep", "600", "--every", "60")
"""Nobody else removes the demo's events: ten minutes, so that `--keep` shows it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for; see the options of `downriver demo`."""

    seconds: float
    rate: float
    seed: int
    size: Size
    readers: int
    keep: bool


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's demo lock.

    Raises:
        BadInput: another demo runs on the folder; names its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "demo.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            msg = (
                f"A demo already runs on {folder} (process {lock.read().strip() or 'unknown'}). Stop it, or give this one "
                "a folder and ports of its own: DOWNRIVER_STACK__FOLDER and DOWNRIVER_STACK__PORT_BASE."
            )
            raise BadInput(msg) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def has_rows(settings: Settings) -> bool:
    """Return whether the shop was filled before."""
    with migrate.connect(settings) as connection:
        found = connection.execute("SELECT EXISTS (SELECT FROM products) OR EXISTS (SELECT FROM users)").fetchone()
    return bool(found and found[0])


class Demo:
    """One run of the demo."""

    def __init__(self, settings: Settings, wish: Wish) -> None:
        self._settings = settings
        self._wish = wish
        self._stack = Stack(settings.stack, capture_of(settings))
        self._screen = Screen(self._page, self._line)
        marks = {MARK: str(self._stack.home.folder)}
        self._crew = Crew(SINKS, self._stack.home.folder / "logs", marks, say, {"cleaner": CLEANER})
        self._readers = Readers(settings, wish.readers, wish.seed)
        self._status: Status | None = None

    async def run(self) -> Result:
        """Run it; see the module."""
        was_up = await self._prepare()
        kept = False
        try:
            with self._screen:
                result = await self._work()
            kept = self._wish.keep
            return result
        finally:
            await self._readers.stop()
            if kept:
                self._crew.release()
            else:
                say("Stopping the workers" + ("" if was_up else " and the servers") + " …")
                await self._crew.stop()
                if not was_up:
                    await asyncio.to_thread(self._stack.down)

    async def _prepare(self) -> bool:
        """Bring up the stack and the shop; return whether the stack was up before."""
        was_up = all(record["health"] == "healthy" for record in await asyncio.to_thread(self._stack.status))
        began = time.monotonic()
        if not was_up:
            say(
                f"Starting the servers in {self._stack.home.folder} (the first time they are downloaded, about 350 MB) …"
            )
            with Shown() as progress:
                for note in self._stack.home.notes:
                    say(note)
                await asyncio.to_thread(self._stack.up, progress)
            say(f"The servers are up after {time.monotonic() - began:.0f} s.")
        try:
            await self._fill()
        except BaseException:
            if not was_up:
                await asyncio.to_thread(self._stack.down)
            raise
        return was_up

    async def _fill(self) -> None:
        settings, wish = self._settings, self._wish
        names = CaptureNames(role=settings.postgres.capture_user)
        revision = await asyncio.to_thread(migrate.migrate, settings, capture_password(settings), names=names)
        if await asyncio.to_thread(has_rows, settings):
            say(f"The shop (revision {revision}) has rows already: it is used as it is.")
            return
        filled = await asyncio.to_thread(fill, settings, Plan(SIZES[wish.size], wish.seed))
        say(f"The shop (revision {revision}) is filled: {sum(filled.rows.values()):,} rows in {filled.seconds:.1f} s.")

    async def _work(self) -> Result:
        settings, screen = self._settings, self._screen
        screen.headline("Applying the connectors: each takes a snapshot of its tables, then streams …")
        results = await asyncio.to_thread(connector_apply.apply, settings, None, CONNECT_S, screen.detail)
        if failed := [result for result in results if not result.ok]:
            raise DownriverError("\n".join(f"connector {each.connector}: {each.error}" for each in failed))
        await self._crew.start()
        await self._arrive("the snapshot")
        await self._readers.start()
        base = await snapshot(settings)
        watcher = asyncio.create_task(self._follow(base))
        try:
            account = await self._change()
            arrival = await self._arrive("the last change")
            screen.headline("Comparing the shop with the cache, the search index and the analytics store, row by row …")
            comparison = await compare(settings, SINKS, pages=pages)
            status = await snapshot(settings, since=base)
        finally:
            await cancelled([watcher])
        restarts = {sink: member.restarts for sink, member in self._crew.members.items()}
        return Result(account, status, comparison, arrival, restarts, self._readers.reads, self._readers.hit_rate)

    async def _change(self) -> dict[str, int]:
        wish, screen = self._wish, self._screen

        def progress(account: workload.Committed) -> None:
            screen.detail(f"{account.changes:,} row changes in {account.transactions:,} transactions")

        screen.headline(f"Changing the shop: {wish.rate:g} row changes a second for {wish.seconds:g} s …")
        account = await workload.run(self._settings, wish.rate, wish.seconds, wish.seed, progress)
        if account.failure:
            raise account.failure
        say(
            f"Committed {account.changes:,} row changes in {account.transactions:,} transactions "
            f"({account.rolled_back} rolled back) in {account.seconds:.0f} s."
        )
        return dict(sorted(account.committed.items()))

    async def _arrive(self, what: str) -> Arrival:
        screen = self._screen
        screen.headline(f"Waiting until readers of every sink see {what} …")
        began = time.monotonic()

        arrival = await arrived(self._settings, SINKS, ARRIVE_S, screen.detail)
        if arrival.complete:
            say(f"Every sink shows {what} after {time.monotonic() - began:.1f} s.")
            return arrival
        say(f"Not everything arrived within {ARRIVE_S:.0f} s: " + "; ".join(str(each) for each in arrival.missing[:5]))
        for sink in {each.where for each in arrival.missing} & set(SINKS):
            say(f"The end of the log of worker {sink}:\n{self._crew.tail(sink)}")
        return arrival

    async def _follow(self, base: Status) -> None:
        async with Monitor(self._settings) as monitor:
            while True:
                self._status = await monitor.look(1.0, base)
                await asyncio.sleep(1.0)

    def _page(self) -> RenderableType | None:
        if self._status is None:
            return None
        workers = "   ".join(
            f"{sink} {member.pid or 'starting'}{f' (restarts: {member.restarts})' if member.restarts else ''}"
            for sink, member in self._crew.members.items()
        )
        reads = f"{self._readers.reads:,} reads of the cache, {self._readers.hit_rate:.1%} hits"
        return Group(rules_page(self._status), Text(), Text(f"Workers: {workers}"), Text(f"Readers: {reads}"))

    def _line(self) -> str:
        if self._status is None:
            return "nothing measured yet"
        worst: dict[str, float] = {}
        for (_, sink), standing in self._status.standings.items():
            if (p99 := standing.figures.quantile_s(0.99)) is not None:
                worst[sink] = max(worst.get(sink, 0.0), p99)
        told = ", ".join(f"{sink} {seconds:.2f} s" for sink, seconds in worst.items())
        return f"p99 from commit to visible: {told or 'nothing measured yet'}"
