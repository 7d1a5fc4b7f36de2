"""A sink over a front of its own, with a capture whose schemas ClickHouse finds, and a reader of what arrived."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from downriver.settings import Clickhouse, Settings, with_local_addresses
from processors.change import CheckedRecord, Record
from processors.sinks.analytics.route import AnalyticsRecord, AnalyticsRow
from processors.sinks.analytics.sink import AnalyticsSink
from processors.sinks.base import APPLIED
from tests.support.avro import Capture, Registry, table
from tests.support.clickhouse import Front, running_front, served


@contextmanager
def own_front(folder: Path) -> Iterator[Front]:
    """Run a front whose folder's name and time zone would show a mistake about either."""
    with running_front(folder / "click house", TZ="Asia/Kathmandu") as running:
        yield running


@contextmanager
def one_registry() -> Iterator[tuple[Registry, str]]:
    """Serve one registry for all tests of a module: ClickHouse remembers the schemas of an address for good."""
    kept = Registry()
    with served(kept) as url:
        yield kept, url


@dataclass
class Bench:
    """A sink with a database of its own, a capture whose schemas ClickHouse finds, and a reader."""

    sink: AnalyticsSink
    capture: Capture
    reader: Client
    settings: Settings
    open: bool = False
    """Whether columns that no table file lists may be stored."""

    def record(self, name: str, op: str, **given: Any) -> AnalyticsRecord:
        return self.checked(name, self.capture.record(name, op, **given))

    def checked(self, name: str, record: Record) -> AnalyticsRecord:
        schema_id = int.from_bytes((record.value or b"")[1:5], "big")
        listed = table(name).shared
        shared = frozenset(each for each in self.capture.columns[name] if each in listed or self.open)
        return AnalyticsRecord(
            CheckedRecord(record, table(name).id, schema_id, self.capture.registry.schema(schema_id), shared)
        )

    async def write(self, *batch: AnalyticsRecord | AnalyticsRow) -> None:
        assert await self.sink.write(batch) == [APPLIED] * len(batch)

    def rows(self, query: str) -> list[dict[str, Any]]:
        return list(self.reader.query(query).named_results())

    def current(self, name: str) -> list[dict[str, Any]]:
        return self.rows(f"SELECT * FROM {name} ORDER BY ALL")

    def history(self, name: str) -> list[dict[str, Any]]:
        return self.rows(f"SELECT * FROM {name}_history FINAL ORDER BY _version, _op")


@asynccontextmanager
async def bench_in(database: str, front: Front, registry: tuple[Registry, str]) -> AsyncIterator[Bench]:
    schemas, url = registry
    clickhouse = Clickhouse(port=front.port, database=database, registry_url=url)
    settings = with_local_addresses(Settings(clickhouse=clickhouse, epoch=3))
    sink = AnalyticsSink(settings)
    await sink.open()
    reader = clickhouse_connect.get_client(
        host="127.0.0.1", port=front.port, database=database, tz_mode="aware", autogenerate_session_id=False
    )
    yield Bench(sink, Capture(registry=schemas), reader, settings)
    await sink.close()
    filled = f"SELECT name FROM system.tables WHERE database = '{database}' AND total_rows > 0 AND name != 'schema_migrations'"
    for (name,) in reader.query(filled).result_rows:
        reader.command(f"TRUNCATE TABLE {name}")
    reader.close()


def stored(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a source row as ClickHouse gives it back: uuids typed, no NULL arrays."""
    return {
        name: uuid.UUID(value) if isinstance(value, str) and len(value) == 36 and value.count("-") == 4 else value
        for name, value in row.items()
    }
