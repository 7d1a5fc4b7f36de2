"""Runs the workload: a planner that keeps the pace, connections that carry the steps out, and the account of what committed.

The pace is open-loop: a slow database does not slow the planner down (until QUEUE steps wait), so a stall is followed by
a rush, as in life. A change counts once COMMIT has returned; a COMMIT whose answer was lost is counted apart.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg

from downriver.exits import DownriverError, ServerAway
from downriver.settings import Settings
from shop.migrate import away
from shop.workload import mix
from shop.workload.transaction import RolledBack, Step, Transaction
from shop.workload.world import World, read

CONNECTIONS = 8
LONG_CONNECTIONS = 2
"""Besides the others: long transactions must not take the pace away."""
LONG_EVERY_S = 2.0
QUEUE = 512
OVERTIME_S = 5.0
"""A plan that could not be carried out in its time gets so much more before it is cut short."""
ATTEMPTS = 8
RECONNECT_S = 30.0
"""So long the workload tries to reach a database that has gone away."""
RETRYABLE = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


@dataclass(slots=True)
class Committed:
    """The account of a run, so far or in the end.

    Attributes:
        committed: table → row changes (inserted, updated, deleted) whose COMMIT returned.
        unknown: table → row changes whose COMMIT was sent and never answered: they may be there or not.
        transactions: that committed.
        rolled_back: that were rolled back, for any reason: on purpose, refused by a constraint, or to be tried again.
        retried: those of them that were tried again after a deadlock, a serialization failure or a lock timeout.
        by_action: action → transactions that committed.
        failure: why the run ended before its time, if PostgreSQL was the reason.
    """

    committed: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    rolled_back: int = 0
    retried: int = 0
    by_action: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failure: DownriverError | None = None

    @property
    def changes(self) -> int:
        """Row changes over all tables."""
        return self.committed.total()

    def as_dict(self) -> dict[str, object]:
        """Return what `-o json` prints."""
        return {
            "committed": dict(sorted(self.committed.items())),
            "transactions": self.transactions,
            "rolled_back": self.rolled_back,
            "retried": self.retried,
            "unknown": dict(sorted(self.unknown.items())),
            "by_action": dict(sorted(self.by_action.items())),
            "seconds": round(self.seconds, 3),
            "rate": round(self.changes / self.seconds, 1) if self.seconds else 0.0,
            "failure": str(self.failure) if self.failure else None,
        }


async def run(
    settings: Settings,
    rate: float,
    seconds: float,
    seed: int,
    on_progress: Callable[[Committed], None] | None = None,
    stop: asyncio.Event | None = None,
) -> Committed:
    """Change the shop for so many seconds; return what was committed, exactly.

    Args:
        rate: row changes per second to aim at, over all tables.
        seed: the same seed on the same shop makes the same choices.
        on_progress: called twice a second with the account so far (the same object each time: copy what you keep).
        stop: set it to end early: open transactions are finished, nothing new is started.

    Raises:
        BadInput: there is no shop to change.
        ServerAway: PostgreSQL did not answer at the start. Later on, that ends the run: see `Committed.failure`.
    """
    async with await _connect(settings) as connection:
        world = await read(connection, seed)
    crew = _Crew(settings, Committed(), stop or asyncio.Event())
    await crew.work(world, rate, seconds, on_progress or (lambda _: None))
    return crew.account


async def _connect(settings: Settings) -> psycopg.AsyncConnection[Any]:
    try:
        connection = await psycopg.AsyncConnection.connect(settings.postgres.dsn(application_name="downriver-workload"))
        await connection.execute("SET lock_timeout = '10s'")
        await connection.commit()
    except psycopg.OperationalError as error:
        raise away(settings, error) from None
    return connection


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Return after so many seconds, or as soon as `event` is set."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


class _Line:
    """One connection, made anew when it broke."""

    def __init__(self, settings: Settings, ending: asyncio.Event) -> None:
        self._settings = settings
        self._ending = ending
        self._open: psycopg.AsyncConnection[Any] | None = None

    async def __aenter__(self) -> Self:
        self._open = await _connect(self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._open is not None:
            await self._open.close()

    async def connection(self) -> psycopg.AsyncConnection[Any]:
        """Return the connection, alive as far as is known.

        Raises:
            ServerAway: the database was away for RECONNECT_S.
        """
        deadline = time.monotonic() + RECONNECT_S
        while self._open is None or self._open.closed:
            try:
                self._open = await _connect(self._settings)
            except ServerAway:
                if time.monotonic() > deadline or self._ending.is_set():
                    raise
                await _wait(self._ending, 0.5)
        return self._open


class _Crew:
    """The connections of one run and what they share."""

    def __init__(self, settings: Settings, account: Committed, stop: asyncio.Event) -> None:
        self.account = account
        self._settings = settings
        self._ending = stop
        self._finishing = asyncio.Event()
        self._steps: asyncio.Queue[Step | None] = asyncio.Queue(QUEUE)
        self._long: asyncio.Queue[Step | None] = asyncio.Queue()

    async def work(self, world: World, rate: float, seconds: float, on_progress: Callable[[Committed], None]) -> None:
        """Plan and carry out until time is up or `stop` is set, then finish what is open."""
        started = time.monotonic()
        reporter = asyncio.create_task(self._report(started, on_progress))
        try:
            async with asyncio.TaskGroup() as group:
                for queue, count in ((self._steps, CONNECTIONS), (self._long, LONG_CONNECTIONS)):
                    for _ in range(count):
                        group.create_task(self._carry_out(queue))
                await self._plan(world, rate, started, seconds)
                self._finishing.set()
                for queue, count in ((self._steps, CONNECTIONS), (self._long, LONG_CONNECTIONS)):
                    for _ in range(count):
                        await queue.put(None)
        finally:
            reporter.cancel()
            self.account.seconds = time.monotonic() - started
        on_progress(self.account)

    async def _report(self, started: float, on_progress: Callable[[Committed], None]) -> None:
        while True:
            await asyncio.sleep(0.5)
            self.account.seconds = time.monotonic() - started
            on_progress(self.account)

    async def _plan(self, world: World, rate: float, started: float, seconds: float) -> None:
        """Put steps into the queues so that their expected changes keep up with the clock."""
        planned, next_long = 0.0, LONG_EVERY_S / 2
        for step in mix.steps(world):
            due_s = planned / rate
            if due_s >= seconds:
                return
            ahead_s = due_s - (time.monotonic() - started)
            if ahead_s > 0:
                await _wait(self._ending, ahead_s)
            if self._ending.is_set() or time.monotonic() - started >= seconds + OVERTIME_S:
                return
            if due_s >= next_long:  # by the plan's clock, not the wall's: the choices stay the seed's
                next_long += LONG_EVERY_S
                long = mix.long_step(world)
                planned += long.expected
                self._long.put_nowait(long)
            planned += step.expected
            await self._steps.put(step)

    async def _carry_out(self, queue: asyncio.Queue[Step | None]) -> None:
        """Take steps from the queue, one after the other, on a connection of its own, until there comes None."""
        try:
            async with _Line(self._settings, self._ending) as line:
                while (step := await queue.get()) is not None:
                    if not self._ending.is_set():  # else it was never started, so nothing is lost
                        await self._persist(line, step)
        except (DownriverError, psycopg.Error) as error:
            refused = DownriverError(f"PostgreSQL refused a step of the workload: {error}")
            self.account.failure = error if isinstance(error, DownriverError) else refused
            self._ending.set()
            while await queue.get() is not None:
                pass  # the planner must not wait for room in the queue

    async def _persist(self, line: _Line, step: Step) -> None:
        """Carry out a step; try again what PostgreSQL asks to be tried again, ATTEMPTS times in all."""
        for attempt in range(ATTEMPTS):
            if await self._attempt(await line.connection(), step):
                return
            await asyncio.sleep(0.01 * 2**attempt)

    async def _attempt(self, connection: psycopg.AsyncConnection[Any], step: Step) -> bool:
        """Carry out a step in one transaction; return False if it is to be tried again."""
        account, transaction, committing = self.account, Transaction(connection, self._finishing), False
        try:
            await step.do(transaction)
            committing = True
            await connection.commit()
        except (RolledBack, psycopg.IntegrityError):
            # on purpose, or two steps met: a review of a product that has just got another id, say
            await self._roll_back(connection)
            account.rolled_back += 1
            return True
        except RETRYABLE:
            await self._roll_back(connection)
            account.rolled_back += 1
            account.retried += 1
            return False
        except psycopg.OperationalError:
            if not connection.closed:
                raise
            if committing:
                account.unknown += transaction.changes
                return True
            account.rolled_back += 1
            account.retried += 1
            return False
        account.committed += transaction.changes
        account.transactions += 1
        account.by_action[step.action] += 1
        return True

    async def _roll_back(self, connection: psycopg.AsyncConnection[Any]) -> None:
        try:
            await connection.rollback()
        except psycopg.OperationalError:
            if not connection.closed:
                raise
            # the server rolls back what its client lost
