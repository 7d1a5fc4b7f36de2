"""One transaction of the workload and what it changes: rows are counted as PostgreSQL reports them, never as intended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

Parameters = Sequence[Any] | Mapping[str, Any]


class RolledBack(Exception):
    """The action decided against it: the transaction is rolled back, on purpose."""


class Transaction:
    """An open transaction on one connection. `changes` is table → rows inserted, updated and deleted so far."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], finishing: asyncio.Event) -> None:
        self.changes: Counter[str] = Counter()
        self._connection = connection
        self._finishing = finishing

    async def change(self, table: str, query: LiteralString, parameters: Parameters) -> int:
        """Run an INSERT, UPDATE or DELETE on `table`; return how many rows it changed."""
        cursor = await self._connection.execute(query, parameters)
        self.changes[table] += cursor.rowcount
        return cursor.rowcount

    async def execute(self, query: LiteralString) -> None:
        """Run a statement that changes no row."""
        await self._connection.execute(query)

    async def rows(self, query: LiteralString, parameters: Parameters) -> list[tuple[Any, ...]]:
        """Run a SELECT; return its rows."""
        cursor = await self._connection.execute(query, parameters)
        return await cursor.fetchall()

    async def announce(self, entity: str, identity: object, what: str, user: object = None, **payload: object) -> None:
        """Write an event into the outbox, in this very transaction."""
        await self.change(
            "outbox",
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, correlation_id, user_id)"
            " VALUES (gen_random_uuid(), %s, %s, %s, %s, %s, %s)",
            (
                entity,
                str(identity),
                f"com.platform.{entity}s.{entity}.{what}.v1",
                Jsonb(payload),
                f"{entity}-{identity}",
                user,
            ),
        )

    async def linger(self, seconds: float) -> None:
        """Leave the transaction open for a while, less if the run is about to end."""
        try:
            await asyncio.wait_for(self._finishing.wait(), seconds)
        except TimeoutError:
            return


Do = Callable[[Transaction], Awaitable[None]]
"""What an action does in its transaction. Everything was chosen before, so it may be run again after a deadlock."""


@dataclass(frozen=True, slots=True)
class Step:
    """A transaction to come: its action's name, how many row changes are expected of it, and what it does."""

    action: str
    expected: int
    do: Do
