"""Re-emits rows that exist, each with a place in the order: no-op updates under a replication origin (design decision 4).

A snapshot row has no place among the changes of its key, and so overwrites nothing. An update that changes nothing has an LSN
of its own, comes through the same slot as every other change, and carries the origin's name, by which workers know a repair.

What it does to the application: rows are locked in small batches with SKIP LOCKED, so it never waits for the application's
row locks and can't deadlock with it; what was locked is tried again at the end. Progress is kept in a table of the source, in
the transaction that re-emitted the rows: after a crash it goes on where it was, and repeats no batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from connectors import source
from connectors.connector import Connector
from connectors.repair import LOCK, PROGRESS, Target, origin
from connectors.source import Connection
from downriver.exits import BadInput, DownriverError
from downriver.settings import Settings

SKIPPED_MAX = 5_000
"""Rows that were locked and are put off; more are dealt with at once."""
STEP_S = 0.2
LOCKED_FOR_S = 60.0
"""How long a row may stay locked at the end before the re-read gives it up, and says so."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast rows may be re-emitted; 0: without a limit.

    Attributes:
        lag_bytes: while the slot is further behind than this, it waits: other changes go first.
    """

    rows_per_s: float = 500.0
    bytes_per_s: float = 4 * 2.0**20
    batch: int = 200
    lag_bytes: int = 64 * 2**20

    def wait_s(self, rows: int, size: int, elapsed_s: float) -> float:
        """Return how long to wait when so much was emitted in so long, to stay under both limits."""
        least = max(
            rows / self.rows_per_s if self.rows_per_s else 0.0, size / self.bytes_per_s if self.bytes_per_s else 0.0
        )
        return max(0.0, least - elapsed_s)

    @property
    def batch_rows(self) -> int:
        """Rows of one batch: not more than a second of them."""
        return max(1, min(self.batch, math.floor(self.rows_per_s) if self.rows_per_s else self.batch))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a re-read is.

    Attributes:
        state: running, paused, done; interrupted: it was running, and nobody runs it.
        skipped: keys of rows that somebody had locked.
        lsn: after the last row, once it is done.
        locked: rows that stayed locked to the end, and were left out.
    """

    table: str
    where: str
    state: str
    after: tuple[str, ...] | None
    skipped: tuple[tuple[str, ...], ...]
    done: int
    bytes: int
    expected: int
    lsn: int | None = None
    locked: int = 0


Tell = Callable[[Progress], None]


class Run:
    """One re-read of one table, in one session. Not thread-safe."""

    def __init__(
        self, connection: Connection, settings: Settings, connector: Connector, target: Target, where: str
    ) -> None:
        """Take a session that `session` prepared."""
        self._connection = connection
        self._settings = settings
        self._connector = connector
        self._target = target
        self._where = where

    def run(
        self,
        pace: Pace,
        tell: Tell,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> Progress:
        """Re-emit the rows, from where the last run left off, until all are done, somebody pauses it, or `stop` says so.

        Raises:
            DownriverError: PostgreSQL refused something; what was done is kept.
        """
        now = self._begin()
        begun_s, begun, patience = clock(), now, time.monotonic() + LOCKED_FOR_S
        tell(now)
        while now.state == "running":
            if stop():
                return self._paused(now)
            try:
                after = self._step(now, pace, stop)
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() > patience:
                    msg = f"{now.table} stays locked (somebody alters it?): progress is kept, repeat it later"
                    raise DownriverError(msg) from None
                self._wait(STEP_S, stop)
                continue
            except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as error:
                msg = f"PostgreSQL refuses to update {now.table}: {str(error).splitlines()[0]}; progress is kept"
                raise DownriverError(msg) from None
            if after is None:
                break
            now, patience = after, time.monotonic() + LOCKED_FOR_S
            if now.locked:
                break
            tell(now)
            self._wait(pace.wait_s(now.done - begun.done, now.bytes - begun.bytes, clock() - begun_s), stop)
            self._let_others_go_first(pace, stop)
        return self._end(now) if now.state == "running" else now

    def _step(self, now: Progress, pace: Pace, stop: Callable[[], bool]) -> Progress | None:
        """Re-emit the next batch, or what was put off; None: nothing is left."""
        keys = self._window(now, pace)
        if keys and len(now.skipped) < SKIPPED_MAX:
            return self._batch(now, keys)
        if not now.skipped:
            return None
        now, locked = self._put_off(now, pace, stop)
        return replace(now, skipped=(), locked=locked) if locked else now

    def _begin(self) -> Progress:
        """Go on with what was begun, or begin."""
        self._connection.execute(
            sql.SQL(
                "INSERT INTO {} (relation, filter, state, expected) VALUES (%s, %s, 'running', %s)"
                " ON CONFLICT (relation, filter) DO UPDATE SET state = 'running', pause = false, updated_at = clock_timestamp(),"
                " after_key = CASE WHEN {}.state = 'done' THEN NULL ELSE {}.after_key END,"
                " done = CASE WHEN {}.state = 'done' THEN 0 ELSE {}.done END,"
                " bytes = CASE WHEN {}.state = 'done' THEN 0 ELSE {}.bytes END,"
                " expected = CASE WHEN {}.state = 'done' THEN excluded.expected ELSE {}.expected END,"
                " skipped = CASE WHEN {}.state = 'done' THEN '[]' ELSE {}.skipped END"
            ).format(sql.SQL(PROGRESS), *[sql.SQL("downriver_reread")] * 10),
            [self._target.name, self._where, self._expected()],
        )
        (found,) = [
            each
            for each in progress(self._connection, self._settings)
            if (each.table, each.where) == (self._target.name, self._where)
        ]
        return replace(found, state="running")

    def _expected(self) -> int:
        """Return how many rows the planner expects; the condition is checked by the same question."""
        query = sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 FROM {} AS t {}").format(
            self._target.identifier, _condition(self._where)
        )
        try:
            (row,) = self._connection.execute(query, [], prepare=True).fetchall()
        except (psycopg.ProgrammingError, psycopg.DataError) as error:
            msg = f"--where {self._where!r} can't be used: {str(error).splitlines()[0]}"
            raise BadInput(msg) from None
        return int(row["QUERY PLAN"][0]["Plan"]["Plan Rows"])

    def _window(self, now: Progress, pace: Pace) -> list[tuple[str, ...]]:
        """Return the next keys in order, as texts: a batch, or what a second's bytes allow."""
        target = self._target
        after = (
            sql.SQL("({}) > ({})").format(target.columns, target.given) if now.after is not None else sql.SQL("true")
        )
        query = sql.SQL(
            "SELECT ARRAY[{}] AS key, pg_column_size(t.*) AS size FROM {} AS t {} ORDER BY {} LIMIT %s"
        ).format(target.texts, target.identifier, _condition(self._where, after), target.columns)
        rows = self._connection.execute(query, [*(now.after or ()), pace.batch_rows], prepare=True).fetchall()
        keys: list[tuple[str, ...]] = []
        size = 0
        for row in rows:
            size += row["size"]
            if keys and pace.bytes_per_s and size > pace.bytes_per_s:
                break
            keys.append(tuple(row["key"]))
        return keys

    def _batch(self, now: Progress, keys: Sequence[tuple[str, ...]]) -> Progress:
        """Re-emit a window; what somebody has locked is put off."""
        with self._connection.transaction():
            emitted = self._emit(keys)
            missed = tuple(key for key in keys if key not in emitted)
            after = replace(
                now,
                after=keys[-1],
                done=now.done + len(emitted),
                bytes=now.bytes + sum(emitted.values()),
                skipped=(*now.skipped, *missed),
            )
            return self._keep(after)

    def _put_off(self, now: Progress, pace: Pace, stop: Callable[[], bool]) -> tuple[Progress, int]:
        """Re-emit what had been locked; return how far it is, and how many rows stayed locked too long."""
        give_up_at = time.monotonic() + LOCKED_FOR_S
        while now.skipped and now.state == "running" and not stop():
            keys = now.skipped[: pace.batch_rows]
            with self._connection.transaction():
                there = self._there(keys)
                emitted = self._emit([key for key in keys if key in there])
                still = tuple(key for key in keys if key in there and key not in emitted)
                size = sum(emitted.values())
                left = (*now.skipped[len(keys) :], *still)
                now = self._keep(replace(now, skipped=left, done=now.done + len(emitted), bytes=now.bytes + size))
            if len(still) == len(keys):
                if time.monotonic() > give_up_at:
                    return now, len(now.skipped)
                self._wait(STEP_S, stop)
            self._wait(pace.wait_s(len(emitted), size, 0.0), stop)
        return now, 0

    def _there(self, keys: Sequence[tuple[str, ...]]) -> set[tuple[str, ...]]:
        """Return which of the keys still name a row that is meant."""
        target = self._target
        query = sql.SQL("SELECT ARRAY[{}] AS key FROM {} AS t {}").format(
            target.texts, target.identifier, _condition(self._where, self._among())
        )
        return {tuple(row["key"]) for row in self._connection.execute(query, _columns(keys, target), prepare=True)}

    def _emit(self, keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
        """Update rows to what they are; return what was updated, with sizes in bytes."""
        if not keys:
            return {}
        target = self._target
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("t", name), sql.Identifier("wanted", name)) for name in target.key
        )
        query = sql.SQL(
            "WITH wanted AS MATERIALIZED (SELECT {} FROM {} AS t {} ORDER BY {} FOR NO KEY UPDATE SKIP LOCKED)"
            " UPDATE {} AS t SET {} = {} FROM wanted WHERE {} RETURNING ARRAY[{}] AS key, pg_column_size(t.*) AS size"
        ).format(
            target.columns,
            target.identifier,
            _condition(self._where, self._among()),
            target.columns,
            target.identifier,
            sql.Identifier(target.column),
            sql.Identifier("t", target.column),
            same,
            target.texts,
        )
        rows = self._connection.execute(query, _columns(keys, target), prepare=True)
        return {tuple(row["key"]): row["size"] for row in rows}

    def _among(self) -> sql.Composed:
        arrays = sql.SQL(", ").join(sql.SQL("%s::text[]::{}[]").format(sql.SQL(kind)) for kind in self._target.types)
        return sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(self._target.columns, arrays)

    def _keep(self, now: Progress) -> Progress:
        """Write the progress into the same transaction; somebody may have asked for a pause meanwhile."""
        (row,) = self._connection.execute(
            sql.SQL(
                "UPDATE {} SET after_key = %s, skipped = %s, done = %s, bytes = %s, updated_at = clock_timestamp(),"
                " state = CASE WHEN pause THEN 'paused' ELSE state END WHERE relation = %s AND filter = %s RETURNING state"
            ).format(sql.SQL(PROGRESS)),
            [
                Jsonb(list(now.after)) if now.after is not None else None,
                Jsonb([list(key) for key in now.skipped]),
                now.done,
                now.bytes,
                now.table,
                now.where,
            ],
        ).fetchall()
        return replace(now, state=row["state"])

    def _paused(self, now: Progress) -> Progress:
        self._state("paused")
        return replace(now, state="paused")

    def _end(self, now: Progress) -> Progress:
        """Note the end, and where the source writes: what is captured up to there has everything."""
        self._state("done")
        return replace(now, state="done", lsn=source.wal_lsn(self._connection))

    def _state(self, state: str) -> None:
        self._connection.execute(
            sql.SQL(
                "UPDATE {} SET state = %s, updated_at = clock_timestamp() WHERE relation = %s AND filter = %s"
            ).format(sql.SQL(PROGRESS)),
            [state, self._target.name, self._where],
        )

    def _wait(self, seconds: float, stop: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not stop():
            time.sleep(min(STEP_S, left))

    def _let_others_go_first(self, pace: Pace, stop: Callable[[], bool]) -> None:
        """Wait while the lane is far behind: what it has to carry already goes first."""
        while pace.lag_bytes and not stop():
            slot = source.slot_of(self._connection, self._connector.slot)
            if slot is None or slot.confirmed_lsn is None:
                msg = (
                    f"slot {self._connector.slot} is gone: nothing captures what would be re-emitted; progress is kept"
                )
                raise DownriverError(msg)
            if source.wal_lsn(self._connection) - slot.confirmed_lsn <= pace.lag_bytes:
                return
            self._wait(STEP_S, stop)


def progress(connection: Connection, settings: Settings) -> list[Progress]:
    """Return every re-read that the source knows of."""
    if not connection.execute("SELECT 1 AS ok WHERE to_regclass(%s) IS NOT NULL", [PROGRESS]).fetchone():
        return []
    query = sql.SQL(
        "SELECT *, EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND objid::bigint = (hashtext(%s)::bigint & 4294967295)) AS alive FROM {} ORDER BY started_at"
    ).format(sql.SQL(PROGRESS))
    return [
        Progress(
            row["relation"],
            row["filter"],
            "interrupted" if row["state"] == "running" and not row["alive"] else row["state"],
            tuple(row["after_key"]) if row["after_key"] is not None else None,
            tuple(tuple(key) for key in row["skipped"]),
            row["done"],
            row["bytes"],
            row["expected"],
        )
        for row in connection.execute(query, [LOCK, origin(settings)])
    ]


def ask_for_pause(connection: Connection, table: str) -> int:
    """Ask the running re-reads of a table to pause after their batch; return how many there are."""
    query = sql.SQL("UPDATE {} SET pause = true WHERE relation = %s AND state = 'running'").format(sql.SQL(PROGRESS))
    return connection.execute(query, [table]).rowcount


def forget(connection: Connection, table: str) -> int:
    """Forget how far re-reads of a table are, so that the next one begins anew; return how many there were."""
    return connection.execute(sql.SQL("DELETE FROM {} WHERE relation = %s").format(sql.SQL(PROGRESS)), [table]).rowcount


def _condition(where: str, *others: sql.Composable) -> sql.Composed:
    """Return the WHERE clause. The user's own condition stands in brackets, on a line of its own: it may end in a comment."""
    parts: list[sql.Composable] = list(others)
    if where:
        parts.insert(0, sql.SQL("(\n{}\n)").format(sql.SQL(where.replace("%", "%%"))))
    return sql.SQL("WHERE {}").format(sql.SQL(" AND ").join(parts)) if parts else sql.SQL("{}").format(sql.SQL(""))


def _columns(keys: Sequence[tuple[str, ...]], target: Target) -> list[Any]:
    """Return the keys as one list a column."""
    return [list(column) for column in zip(*keys, strict=True)] if keys else [[] for _ in target.key]
