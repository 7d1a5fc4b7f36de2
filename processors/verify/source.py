"""The source as a verification reads it: one snapshot of PostgreSQL, streamed in key order. Knows no sink."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.adapt import Buffer, Loader
from psycopg.rows import DictRow, dict_row
from psycopg.types.string import TextLoader

from downriver.exits import BadInput, ServerAway
from downriver.settings import Postgres
from processors.tables.base import Table
from processors.verify.model import Key

FETCH = 2_000
"""Rows asked of the server at a time: what bounds the memory."""
_FAR = re.compile(r"(\d+)-(\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d+))?\+00( BC)?")

Connection = psycopg.AsyncConnection[DictRow]


class InstantLoader(Loader):
    """Reads timestamptz as the decoder does: aware, or as text what Python's calendar lacks."""

    def load(self, data: Buffer) -> datetime | str:
        """Return the instant that PostgreSQL wrote, in a session with TimeZone UTC and DateStyle ISO."""
        return instant(bytes(data).decode())


def instant(text: str) -> datetime | str:
    """Read PostgreSQL's text of a timestamptz in UTC; 'infinity' and years beyond 1 to 9999 become ISO 8601 text."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        far = _FAR.fullmatch(text)
        if far is None:
            return text  # infinity, -infinity
        # ISO 8601 counts a year 0, which is 1 BC; PostgreSQL doesn't
        year = 1 - int(far[1]) if far[5] else int(far[1])
        sign = "+" if year > 9999 else "-" if year < 0 else ""
        return f"{sign}{abs(year):04d}-{far[2]}T{far[3]}.{far[4] or '':0<6}Z"  # as Debezium writes it: tried


@asynccontextmanager
async def connected(postgres: Postgres) -> AsyncIterator[Connection]:
    """Connect for reading: autocommit, UTC, uuid and jsonb as text.

    Raises:
        ServerAway: PostgreSQL does not answer, or ends the connection.
    """
    options = "-c timezone=UTC -c datestyle=ISO -c default_transaction_read_only=on"
    try:
        connection = await psycopg.AsyncConnection.connect(
            postgres.dsn(application_name="downriver verify", options=options), autocommit=True, row_factory=dict_row
        )
        async with connection:
            connection.adapters.register_loader("timestamptz", InstantLoader)
            for name in ("uuid", "jsonb", "json"):
                connection.adapters.register_loader(name, TextLoader)
            yield connection
    except psycopg.OperationalError as error:
        msg = f"PostgreSQL at {postgres.host}:{postgres.port}, database {postgres.database}: {error}"
        raise ServerAway(msg) from error


async def as_it_is(connection: Connection, table: Table) -> tuple[Table, tuple[str, ...]]:
    """Return the table with the columns that a migration added to it, of those that sinks may hold, and its key's types.

    Raises:
        BadInput: the source has no such table or column.
    """
    query = """SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute
               WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"""
    found = {row["attname"]: row["type"] async for row in await connection.execute(query, [str(table.id)])}
    missing = [name for name in table.columns if name not in found]
    if missing:
        msg = f"the source has no {table.id} with {', '.join(missing)}: run `downriver shop migrate`, or mend processors/tables"
        raise BadInput(msg)
    more = {name: table.otherwise for name in found if name not in table.columns}
    return replace(table, columns=dict(table.columns) | more), tuple(found[name] for name in table.key)


async def stream(connection: Connection, name: str, query: sql.Composed | LiteralString) -> AsyncIterator[DictRow]:
    """Yield the rows of a query by a server-side cursor; within a transaction."""
    async with connection.cursor(name) as cursor:
        cursor.itersize = FETCH
        await cursor.execute(query)
        async for row in cursor:
            yield row


def select(table: Table, types: Sequence[str], where: sql.Composable | None = None) -> sql.Composed:
    """Return the query for the columns of the table that sinks may hold, ordered by key; `types`: of the key's columns."""
    order = [
        # as Python and ClickHouse order text: by code point, not by the rules of a language
        sql.SQL('{} COLLATE "C"' if type_.startswith(("text", "character")) else "{}").format(sql.Identifier(name))
        for name, type_ in zip(table.key, types, strict=True)
    ]
    return sql.SQL("SELECT {} FROM {} AS source {} ORDER BY {}").format(
        sql.SQL(", ").join(sql.Identifier(name) for name in table.shared),
        sql.Identifier(table.id.schema, table.id.name),
        where or sql.SQL(""),
        sql.SQL(", ").join(order),
    )


def among(names: Sequence[str], types: Sequence[str], keys: Sequence[Key]) -> sql.Composed:
    """Return the condition that the columns `names` of `source` are one of `keys`."""
    columns = zip(*keys, strict=True)
    arrays = [
        sql.SQL("{}::{}[]").format(sql.Literal(list(column)), sql.SQL(type_))
        for column, type_ in zip(columns, types, strict=True)
    ]
    return sql.SQL("WHERE ({}) IN (SELECT * FROM unnest({}))").format(
        sql.SQL(", ").join(sql.Identifier("source", name) for name in names), sql.SQL(", ").join(arrays)
    )


def key_of(row: DictRow, names: Sequence[str]) -> Key:
    """Return the row's key."""
    return tuple(row[name] for name in names)
