"""The analytics sink: batches of records or decoded rows into the history of their table, as few inserts as can be.

One insert fills the history and, by its materialized view, the current state. Idempotent by (key, version): both tables
keep one row of each. Knows no table but by the name that its records carry.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

import structlog

from downriver.settings import Settings
from processors.change import CheckedRecord
from processors.sinks.analytics import avro, decoded, grow, raw
from processors.sinks.analytics.grow import Parts
from processors.sinks.analytics.route import AnalyticsRecord, AnalyticsRow
from processors.sinks.analytics.store import Refused, Store
from processors.sinks.base import APPLIED, Pace, SinkUnavailable, Verdict, rejected

log = structlog.get_logger(__name__)
Command = AnalyticsRecord | AnalyticsRow
T = TypeVar("T")
THREADS = 4
"""Writes under way at the same time: one a lane, and one to spare."""


class AnalyticsSink:
    """ClickHouse, over HTTP. `open()` creates and migrates the database; see `processors.sinks.base.Sink` for the rest."""

    # every insert makes parts that ClickHouse must merge later: few and large ones
    pace = Pace(max_records=50_000, extra=0, linger_s=1.0)

    def __init__(self, settings: Settings, *, name: str = "analytics") -> None:
        self.name = name
        self._epoch = settings.epoch
        self._store = Store(settings.clickhouse, THREADS)
        self._executor: ThreadPoolExecutor | None = None
        self._columns: dict[str, Parts] = {}
        self._statements: dict[tuple[str, int], str] = {}
        self._growing = Lock()

    async def open(self) -> None:
        """Connect, create the database if it is not there, apply the migrations."""
        self._executor = self._executor or ThreadPoolExecutor(THREADS, thread_name_prefix=self.name)
        self._columns.clear()
        self._statements.clear()
        await self._in_thread(self._store.open)

    async def write(self, batch: Sequence[Command]) -> Sequence[Verdict]:
        """Insert the batch: one insert for each table and schema in it, halved where ClickHouse refuses the data."""
        return await self._in_thread(lambda: self._write(batch))

    async def shown(self) -> None:
        """Return at once: a SELECT sees an insert as soon as it is answered (async_insert is off)."""

    async def close(self) -> None:
        """Close connections and threads."""
        self._store.close()
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _write(self, batch: Sequence[Command]) -> list[Verdict]:
        verdicts: list[Verdict] = [APPLIED] * len(batch)
        groups: defaultdict[tuple[str, int | None], list[int]] = defaultdict(list)
        for place, command in enumerate(batch):
            if isinstance(command, AnalyticsRecord):
                groups[command.checked.table.name, command.checked.schema_id].append(place)
            else:
                groups[command.table.name, None].append(place)
        for (table, _), places in groups.items():
            self._insert(table, [batch[place] for place in places], places, verdicts)
        return verdicts

    def _insert(self, table: str, commands: list[Command], places: Sequence[int], verdicts: list[Verdict]) -> None:
        """Insert the commands of one table and schema; halve what ClickHouse refuses until the refused one is alone."""
        try:
            self._insert_all(table, commands)
        except Refused as error:
            if len(commands) == 1 or error.whole_schema:
                for place in places:
                    verdicts[place] = rejected(str(error))
                self._forget(table)  # it may have been altered since its columns were read
                return
            middle = len(commands) // 2
            self._insert(table, commands[:middle], places[:middle], verdicts)
            self._insert(table, commands[middle:], places[middle:], verdicts)

    def _insert_all(self, table: str, commands: Sequence[Command]) -> None:
        records = [command.checked for command in commands if isinstance(command, AnalyticsRecord)]
        rows = [command for command in commands if isinstance(command, AnalyticsRow)]
        if records:
            try:
                statement = self._statement(table, records[0])
            except avro.UnreadableSchema as error:
                msg = f"schema {records[0].schema_id}: {error}"
                raise Refused(msg, whole_schema=True) from None
            self._store.insert_raw(statement, [record.value for record in records])
        if rows:
            history = {n: type_ for n, type_ in self._stored(table).history.items() if n not in raw.BOOKKEEPING}
            self._fit(table, decoded.fields(rows, history))
            names, columns = decoded.columns_of(rows, self._stored(table).history)
            self._store.insert_columns(table, names, columns)

    def _statement(self, table: str, record: CheckedRecord) -> str:
        key = (table, record.schema_id)
        if key not in self._statements:
            read = avro.envelope(record.schema)
            history = self._stored(table).history
            self._fit(table, {n: field for n, field in read.columns.items() if n in record.shared or n in history})
            self._statements[key] = raw.insert(table, self._stored(table).history, read, self._epoch)
        return self._statements[key]

    def _fit(self, table: str, fields: Mapping[str, avro.Field]) -> None:
        """Make the table hold these fields and no others: a migration of the source arrives with its first row."""
        with self._growing:
            if made := grow.statements(table, self._stored(table), fields):
                log.info("table_grows", sink=self.name, table=table, statements=made)
                self._store.grow(made)
                self._forget(table)

    def _forget(self, table: str) -> None:
        """Read the table's columns again before the next insert."""
        self._columns.pop(table, None)
        self._statements = {key: sql for key, sql in self._statements.items() if key[0] != table}

    def _stored(self, table: str) -> Parts:
        """Return the columns of the table's parts.

        Raises:
            SinkUnavailable: there is no such table; records wait until a migration adds it.
        """
        found = self._columns.get(table)
        if found is None or not found.history:
            found = self._columns[table] = self._store.parts(table)
        if not found.history:
            msg = f"{self._store.address} has no table {table}_history: add a migration that creates it"
            raise SinkUnavailable(msg)
        return found
