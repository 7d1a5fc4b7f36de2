"""Asks the primary which transactions a new snapshot sees. PostgreSQL streams a commit before it is visible.

A reader that loads in between reads the old row after the invalidation. So the sink acknowledges only what was visible
before its last delete. Knows transactions; knows nothing of Redis.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from downriver.settings import Postgres
from processors.sinks.base import SinkUnavailable

QUERY_TIMEOUT_S = 5.0
XIDS = 1 << 32
ANCIENT_BYTES = 64 * 2**30
"""Half of all transaction ids can't be used up in less of the log: each leaves a commit or abort record of 34 bytes or
more (xl_xact_commit with its headers), together 68 GiB."""

_QUERY = "SELECT pg_current_snapshot()::text, (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the primary's snapshot says of transactions.

    Attributes:
        xmax: the first 64-bit transaction id that had not ended; all from here on are invisible.
        running: 32-bit ids below xmax that are still in progress, and so invisible.
        lsn: the end of the primary's log when it was asked.
    """

    xmax: int
    running: frozenset[int]
    lsn: int

    @classmethod
    def parse(cls, text: str, lsn: int) -> Snapshot:
        """Parse PostgreSQL's text form of a snapshot: `xmin:xmax:xip,xip…`."""
        _xmin, xmax, running = text.split(":")
        return cls(int(xmax), frozenset(int(xid) % XIDS for xid in running.split(",") if xid), lsn)

    def shows(self, transaction: int, lsn: int) -> bool:
        """Whether a snapshot taken from now on sees the committed transaction.

        Args:
            transaction: its 32-bit id, as logical decoding gives it: compared modulo 2**32.
            lsn: of one of its rows, 0 where unknown. A record may be replayed when its id has long been used again;
                then its row lies far back in the log.
        """
        if transaction % XIDS in self.running:
            return False
        ahead = (transaction - self.xmax) % XIDS
        return ahead >= XIDS // 2 or (lsn > 0 and self.lsn - lsn > ANCIENT_BYTES)


class Primary:
    """One connection to the primary, made when it is first asked and again after an error."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._connection: psycopg.AsyncConnection[tuple[str, int]] | None = None
        self._lock = asyncio.Lock()

    @property
    def name(self) -> str:
        """The server, for messages."""
        return f"PostgreSQL at {self._postgres.host}:{self._postgres.port}"

    async def ask(self) -> Snapshot:
        """Return the primary's snapshot: one query.

        Raises:
            SinkUnavailable: it is away, too slow, refuses us, or is a standby (whose snapshots prove nothing).
        """
        async with self._lock:
            try:
                async with asyncio.timeout(QUERY_TIMEOUT_S):
                    return await self._query()
            except (psycopg.Error, OSError, TimeoutError) as error:
                await self._drop()
                said = str(error).strip() or f"no answer within {QUERY_TIMEOUT_S:g} s"
                msg = f"{self.name} can't say which transactions are visible, so no invalidation is final: {said}"
                raise SinkUnavailable(msg) from error
            except BaseException:  # cancelled halfway: the connection may still hold the answer to the old question
                await self._drop()
                raise

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._drop()

    async def _query(self) -> Snapshot:
        if self._connection is None or self._connection.closed:
            # prepare_threshold: a pooler between us and the primary may not keep prepared statements
            self._connection = await psycopg.AsyncConnection.connect(
                self._postgres.dsn(), autocommit=True, prepare_threshold=None
            )
        row = await (await self._connection.execute(_QUERY)).fetchone()
        if row is None:
            msg = "an empty answer"
            raise psycopg.DataError(msg)
        return Snapshot.parse(*row)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):  # it is broken already, that is why it goes
                await connection.close()
