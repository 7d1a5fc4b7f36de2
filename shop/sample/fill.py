"""Copies sample rows into an empty shop, all of them or none: one transaction, COPY in batches, with progress."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import psycopg
from psycopg import sql

from downriver.exits import BadInput, DownriverError
from downriver.settings import Settings
from shop.migrate import away, connect
from shop.names import TABLES
from shop.sample.rows import COLUMNS, Plan, Sample

SIZES: dict[str, int] = {"empty": 0, "1": 1, "100": 100, "10k": 10_000, "1m": 1_000_000}
"""The sizes that domain.md wants tested → products."""
BATCH = 50_000
"""Rows of one COPY. PostgreSQL checks its foreign keys at the end, and holds a queue of them in memory until then."""

Progress = Callable[[str, int, int], None]
"""Called with table, rows copied so far, rows in all."""


@dataclass(frozen=True, slots=True)
class Filled:
    """What was copied."""

    rows: dict[str, int]
    seconds: float


def fill(settings: Settings, plan: Plan, *, append: bool = False, progress: Progress | None = None) -> Filled:
    """Fill the shop with the plan's rows.

    Args:
        append: add to a shop that holds rows already; needs a seed that it was not filled with before.

    Raises:
        BadInput: the shop was not migrated, holds rows (without `append`), or holds these very rows.
        ServerAway: PostgreSQL does not answer.
    """
    started = time.monotonic()
    sample, counts = Sample(plan), plan.counts()
    with connect(settings) as connection:
        try:
            with connection.transaction():
                _check(connection, settings, append=append)
                for table in TABLES:
                    _copy(connection, sample, table, counts[table], progress or (lambda *_: None))
            connection.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(map(sql.Identifier, TABLES))))
        except psycopg.errors.UniqueViolation as error:
            msg = (
                f"the shop was filled with seed {plan.seed} before ({error.diag.message_detail}): "
                "take another --seed. Nothing was added."
            )
            raise BadInput(msg) from None
        except psycopg.OperationalError as error:
            if connection.broken:
                raise away(settings, error) from None
            msg = f"PostgreSQL refused the sample data, nothing was added: {error}"
            raise DownriverError(msg) from None
    return Filled(counts, time.monotonic() - started)


def _check(connection: psycopg.Connection, settings: Settings, *, append: bool) -> None:
    """Refuse a shop that is not migrated or not empty; keep others from filling at the same time."""
    try:
        connection.execute("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE")
    except psycopg.errors.UndefinedTable:
        msg = f"database {settings.postgres.database!r} has no shop in it: run `downriver shop migrate` first"
        raise BadInput(msg) from None
    if append:
        return
    for table in TABLES:
        if connection.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(table))).rowcount:
            msg = (
                f"the shop is not empty (table {table} has rows): `--append` with another --seed adds to it, "
                "`downriver shop migrate --down --to base` and `downriver shop migrate` start over"
            )
            raise BadInput(msg)


def _copy(connection: psycopg.Connection, sample: Sample, table: str, total: int, progress: Progress) -> None:
    progress(table, 0, total)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
    )
    rows = sample.rows(table)
    for done in range(0, total, BATCH):
        with connection.cursor().copy(statement) as copy:
            for row in islice(rows, BATCH):
                copy.write_row(row)
        progress(table, min(done + BATCH, total), total)
