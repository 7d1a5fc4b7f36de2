"""The analytics store against the source: every table, every column that may leave the source, in the view `<table>`.

ClickHouse can't hold everything PostgreSQL can: times outside of 1900 to 2299 are at the nearer end, an array that is
NULL is empty (both as `processors.sinks.analytics` documents). The source's values are compared as ClickHouse must have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.common import StreamContext
from clickhouse_connect.driver.exceptions import ClickHouseError

from downriver.exits import DownriverError
from downriver.settings import Clickhouse
from processors.sinks.analytics.decoded import EARLIEST, LATEST
from processors.sinks.base import SinkUnavailable
from processors.tables.base import Table
from processors.verify.merge import side_by_side
from processors.verify.model import Entry, Key, Look, Values
from processors.verify.source import Connection, among, key_of, select, stream

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def connect(settings: Clickhouse) -> Client:
    """Connect to the store; blocking.

    Raises:
        SinkUnavailable: it does not answer.
    """
    options: dict[str, Any] = {}
    if settings.tls.enabled:
        tls = settings.tls
        files = {"ca_cert": tls.ca_file, "client_cert": tls.cert_file, "client_cert_key": tls.key_file}
        options = {name: str(path) for name, path in files.items() if path}
    with told(settings):
        return clickhouse_connect.get_client(
            host=settings.host,
            port=settings.port,
            username=settings.username,
            password=settings.password.get_secret_value(),
            database=settings.database,
            interface="https" if settings.tls.enabled else "http",
            send_receive_timeout=int(max(1, settings.timeout_s)),
            autogenerate_session_id=False,
            client_name="downriver verify",
            **options,
        )


@contextmanager
def told(settings: Clickhouse) -> Iterator[None]:
    """Turn the client's errors into ours."""
    try:
        yield
    except (ClickHouseError, OSError) as error:
        msg = f"ClickHouse at {settings.host}:{settings.port}, database {settings.database}: {error}"
        raise SinkUnavailable(msg) from error


class AnalyticsCheck:
    """One table against the view of its name."""

    sink = "analytics"
    may_forget = False

    def __init__(
        self,
        settings: Clickhouse,
        client: Client,
        connection: Connection,
        listed: Table,
        table: Table,
        types: Sequence[str],
    ) -> None:
        """Make the check of `table`, which is `listed` and what migrations added; `types`: of its key's columns."""
        self._settings = settings
        self._client = client
        self._connection = connection
        self._listed = listed
        self._described = table
        self._key_types = types
        self._columns: dict[str, str] = {}

    @property
    def table(self) -> str:
        """The table's name."""
        return self._described.id.name

    def readable(self, key: Key) -> str:
        """Return the key: ids are never Restricted."""
        return ":".join(str(part) for part in key)

    def first_look(self) -> AsyncIterator[Look]:
        """Yield every row of either side."""
        return side_by_side(self.source(), self.shown())

    async def source(self) -> AsyncIterator[Entry]:
        """Yield the table's rows."""
        await self._describe()
        async for row in stream(self._connection, f"analytics_{self.table}", select(self._described, self._key_types)):
            yield self._entry(row)

    async def source_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return the rows of these keys."""
        query = select(self._described, self._key_types, among(self._described.key, self._key_types, keys))
        return dict([self._entry(row) async for row in await self._connection.execute(query)])

    async def shown(self) -> AsyncIterator[Entry]:
        """Yield the view's rows."""
        await self._describe()
        order = f"ORDER BY {', '.join(self._read(name) for name in self._described.key)}"
        with await asyncio.to_thread(self._stream, f"{self._select()} {order}") as blocks:
            while (block := await asyncio.to_thread(self._next, blocks)) is not None:
                for row in block:
                    yield self._shown(row)

    async def shown_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return the view's rows of these keys."""
        read = ", ".join(f"toString({name})" for name in self._described.key)
        of_type = f"Array(Tuple({', '.join('String' for _ in self._described.key)}))"
        parameters = {"keys": [tuple(str(part) for part in key) for key in keys]}
        query = f"{self._select()} WHERE tuple({read}) IN {{keys:{of_type}}}"
        with told(self._settings):
            result = await asyncio.to_thread(self._client.query, query, parameters)
        return dict(self._shown(row) for row in result.result_rows)

    async def _describe(self) -> None:
        """Learn the view's columns."""
        if self._columns:
            return
        query = "SELECT name, type FROM system.columns WHERE database = {database:String} AND table = {table:String}"
        parameters = {"database": self._settings.database, "table": self.table}
        with told(self._settings):
            result = await asyncio.to_thread(self._client.query, query, parameters)
        self._columns = {str(name): str(type_) for name, type_ in result.result_rows}
        missing = [name for name in self._listed.shared if name not in self._columns]
        if missing:
            msg = (
                f"the analytics store has no view {self._settings.database}.{self.table} with {', '.join(missing)}: "
                "start `downriver worker analytics`, which migrates it"
            )
            raise DownriverError(msg)
        # an added column is not there before its first row has come
        there = {n: c for n, c in self._described.columns.items() if n in self._listed.columns or n in self._columns}
        self._described = replace(self._described, columns=there)

    def _select(self) -> str:
        columns = ", ".join(self._read(name) for name in self._described.shared)
        return f"SELECT {columns} FROM `{self.table}`"  # noqa: S608 - names of our own TABLES

    def _read(self, name: str) -> str:
        """Return the expression that reads a column as the source's values are compared."""
        type_ = self._columns[name]
        if "DateTime64" in type_:
            return f"toUnixTimestamp64Micro(`{name}`)"
        return f"toString(`{name}`)" if "UUID" in type_ else f"`{name}`"

    def _stream(self, query: str) -> StreamContext:
        with told(self._settings):
            return self._client.query_row_block_stream(query)

    def _next(self, blocks: StreamContext) -> Sequence[Sequence[Any]] | None:
        with told(self._settings):
            found: Sequence[Sequence[Any]] | None = next(blocks, None)
            return found

    def _shown(self, row: Sequence[Any]) -> Entry:
        values = dict(zip(self._described.shared, row, strict=True))
        return tuple(values[name] for name in self._described.key), values

    def _entry(self, row: Mapping[str, Any]) -> Entry:
        values = {name: self._stored(name, row[name]) for name in self._described.shared}
        return key_of(values, self._described.key), values

    def _stored(self, name: str, value: Any) -> Any:
        """Return a source's value as ClickHouse must show it."""
        type_ = self._columns[name]
        if type_.startswith("Array("):
            return value or []
        return micros(value) if value is not None and "DateTime64" in type_ else value


def micros(value: datetime | str) -> int:
    """Return an instant in microseconds since 1970, at the nearer end where ClickHouse can't hold it."""
    if isinstance(value, str):
        value = EARLIEST if value.startswith(("-", "0")) else LATEST
    return (min(max(value, EARLIEST), LATEST) - EPOCH) // timedelta(microseconds=1)
