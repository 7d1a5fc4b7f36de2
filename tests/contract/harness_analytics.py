"""Analytics under the sink contract: a reader queries the current state, and the history behind it.

Keys take turns: a row of `inventory`, which ClickHouse decodes itself, and one of `users`, which arrives decoded. Commits lie
weeks apart, so that one key's changes are in several monthly parts of the history.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from downriver.settings import Settings
from processors.change import Change as RowChange
from processors.change import CheckedRecord, Kind, Op, Origin, pack_version
from processors.sinks.analytics.route import AnalyticsRecord, AnalyticsRow
from processors.sinks.analytics.sink import AnalyticsSink
from processors.sinks.base import Route, Sink
from tests.contract.harness import RemoteHarness
from tests.support.avro import Capture, Record, table
from tests.support.clickhouse import served
from tests.support.columns import COMMITTED, sample


class AnalyticsHarness(RemoteHarness):
    """A database of its own. The store keeps the newest version by itself, so no command is called stale."""

    kind = "analytics"
    kinds = 2
    tells_stale = False
    refuses = True
    markers = (b"insert into", b"content-encoding:")  # the client compresses decoded rows, statement and all

    def __init__(self, settings: Settings, registry_url: str, capture: Capture) -> None:
        super().__init__(settings.clickhouse.host, settings.clickhouse.port)
        self.database = f"contract_{uuid.uuid4().hex[:12]}"
        own = settings.clickhouse.model_copy(update={"database": self.database, "registry_url": registry_url})
        self.settings = settings.model_copy(update={"clickhouse": own})
        self.capture = capture
        self.reader: Client = clickhouse_connect.get_client(
            host=own.host, port=own.port, tz_mode="aware", autogenerate_session_id=False
        )
        self.raw: dict[str, bool] = {}

    @classmethod
    @contextmanager
    def stored(cls, settings: Settings | None) -> Iterator[Self]:
        """See Harness."""
        assert settings is not None
        capture = Capture()
        with served(capture.registry) as registry_url:
            made = cls(settings, registry_url, capture)
            try:
                yield made
            finally:
                made.reader.command(f"DROP DATABASE IF EXISTS {made.database}")
                made.reader.close()

    def build(self) -> Sink[Any]:
        """See Harness."""
        there = self.settings.clickhouse.model_copy(update={"host": "127.0.0.1", "port": self.proxy.port})
        return AnalyticsSink(self.settings.model_copy(update={"clickhouse": there}))

    async def key(self) -> str:
        """See Harness."""
        key = str(uuid.uuid4())
        self.raw[key] = len(self.raw) % 2 == 0
        return key

    async def commit(self, key: str, version: int, value: int | None) -> AnalyticsRecord | AnalyticsRow:
        """See Harness."""
        op = Op.DELETE if value is None else Op.CREATE if version else Op.READ
        if self.raw[key]:
            row = sample("inventory", product_id=key, quantity=value or 0)
            return self._record("inventory", op, row, 8 * version if version else None, version)
        row = sample("users", id=key, country=str(value or 0))
        change = RowChange(
            source="shop",
            table=table("users").id,
            op=op,
            key={"id": key},
            before=row if op is Op.DELETE else None,
            after=None if op is Op.DELETE else row,
            version=pack_version(self.settings.epoch, 8 * version, deleted=value is None) if version else 0,
            committed_at=COMMITTED + timedelta(days=20 * version),
            transaction=771,
            origin=Origin("t", 0, version, Kind.STREAMED if version else Kind.SNAPSHOT),
        )
        route = table("users").route("analytics")
        assert isinstance(route, Route)
        (command,) = route.commands(change)
        assert isinstance(command, AnalyticsRow)
        return command

    def _record(self, name: str, op: Op, row: dict[str, Any], lsn: int | None, version: int) -> AnalyticsRecord:
        record: Record = self.capture.record(
            name,
            op.value,
            lsn=lsn,
            snapshot="true" if op is Op.READ else "false",
            committed_at=COMMITTED + timedelta(days=20 * version),
            before=row if op is Op.DELETE else None,
            after=None if op is Op.DELETE else row,
        )
        schema_id = int.from_bytes((record.value or b"")[1:5], "big")
        schema = self.capture.registry.schema(schema_id)
        return AnalyticsRecord(CheckedRecord(record, table(name).id, schema_id, schema))

    async def read(self, key: str) -> int | None:
        """See Harness."""
        rows = self._rows(key, "SELECT quantity FROM inventory", "SELECT country FROM users")
        assert len(rows) <= 1
        return int(rows[0][0]) if rows else None

    async def seen(self, key: str) -> Any:
        """Return the current row and the history."""
        current = self._rows(key, "SELECT * FROM inventory", "SELECT * FROM users")
        history = self._rows(key, "SELECT * FROM inventory_history FINAL", "SELECT * FROM users_history FINAL")
        return current, history

    def _rows(self, key: str, of_inventory: str, of_users: str) -> list[Sequence[Any]]:
        query = (
            f"{of_inventory} WHERE product_id = {{key:UUID}}"
            if self.raw[key]
            else f"{of_users} WHERE id = {{key:UUID}}"
        )
        self.reader.database = self.database
        return sorted(self.reader.query(f"{query} ORDER BY ALL", {"key": key}).result_rows, key=repr)

    def poisons(self) -> Sequence[AnalyticsRecord]:
        """A streamed change without an LSN has no version; an infinite time is stored, one that is no time is not."""
        row = sample("inventory", product_id=str(uuid.uuid4()))
        return (
            self._record("inventory", Op.CREATE, row, None, 1),
            self._record("inventory", Op.CREATE, row | {"updated_at": "yesterday"}, 8, 1),
        )
