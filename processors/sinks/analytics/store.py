"""The ClickHouse server behind the sink: one HTTP client, and what its errors mean. Blocking; called in threads.

Knows no change and no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from clickhouse_connect.driver.httputil import get_pool_manager
from urllib3.poolmanager import PoolManager

from downriver.exits import BadInput
from downriver.settings import Clickhouse
from processors.sinks.analytics.grow import Parts
from processors.sinks.analytics.migrate import migrate, read
from processors.sinks.base import SinkUnavailable

OLDEST = (26, 1)
"""The first ClickHouse that reads a nullable record as Nullable(Tuple(…)) (design decision 7)."""

_NOT_THE_DATA = frozenset(
    {
        # limits and timeouts
        *(3, 159, 160, 173, 201, 202, 203, 209, 210, 241, 243, 252, 394, 439, 473, 482),
        # the server, its disk, its cluster, its way to the registry
        *(74, 75, 76, 86, 198, 225, 236, 242, 279, 285, 286, 289, 319, 335, 425, 499, 571, 598, 668, 999, 1000),
        # who we are and what is there: wrong for every record, and put right by a person
        *(57, 60, 81, 82, 164, 192, 193, 194, 195, 291, 492, 497, 516),
    }
)
"""Codes of ClickHouse's ErrorCodes.cpp that say nothing about the records: the batch is written again later."""
_WHOLE_SCHEMA = frozenset({8, 10, 16, 36, 43, 44, 46, 47, 50, 53, 62})
"""Codes that a statement fails with whatever its records are: no use in halving the batch."""

_INSERT_SETTINGS = {
    "async_insert": "0",  # a SELECT after the answer must see the rows
    "insert_deduplicate": "0",  # a repeated block must reach the current table even if the history has it already
    "insert_null_as_default": "0",  # a NULL where the source has none is an error, not a zero
    "max_partitions_per_insert_block": "1000",
    "max_threads": "1",  # one stream to transform: more threads only take turns
}
_RAW_SETTINGS = {
    "input_format_avro_allow_missing_fields": "0",  # with 1, a structure that does not fit reads as zeros
    "input_format_null_as_default": "1",  # a NULL array, which ClickHouse lacks, is an empty one
}


class Refused(Exception):
    """ClickHouse refuses the data.

    Attributes:
        whole_schema: the statement fails whatever the records hold.
    """

    def __init__(self, reason: str, *, whole_schema: bool) -> None:
        super().__init__(reason)
        self.whole_schema = whole_schema


class Store:
    """The configured database of one server. Several threads may call `insert_…` at once."""

    def __init__(self, settings: Clickhouse, connections: int) -> None:
        self._settings = settings
        self._connections = connections
        self._client: Client | None = None

    @property
    def address(self) -> str:
        """The server and database, for messages."""
        return f"ClickHouse at {self._settings.host}:{self._settings.port}, database {self._settings.database}"

    def open(self) -> None:
        """Connect, create the database, apply the migrations.

        Raises:
            SinkUnavailable: the server is away or can't now.
            BadInput: it is too old, or it refuses a migration, or a migration was changed.
        """
        self.close()
        try:
            with self._told():
                client = self._client = self._connect()
                version = client.server_version or "0.0"
                if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
                    msg = (
                        f"{self.address}: version {version} can't be used; it must be {OLDEST[0]}.{OLDEST[1]} or newer"
                    )
                    raise BadInput(msg)
                client.command(f"CREATE DATABASE IF NOT EXISTS `{self._settings.database}`")
                client.database = self._settings.database
                migrate(client, read())
        except Refused as error:
            msg = f"{self.address} refuses to be prepared: {error}"
            raise BadInput(msg) from None

    def _connect(self) -> Client:
        settings = self._settings
        return clickhouse_connect.get_client(
            host=settings.host,
            port=settings.port,
            username=settings.username,
            password=settings.password.get_secret_value(),
            interface="https" if settings.tls.enabled else "http",
            connect_timeout=10,
            send_receive_timeout=int(max(1, settings.timeout_s)),
            autogenerate_session_id=False,  # a session runs one query at a time
            client_name="downriver",
            pool_mgr=self._pool(),
            show_clickhouse_errors="scrub",
        )

    def _pool(self) -> PoolManager:
        """Return a pool of its own: the client's default one is shared by the process, and smaller."""
        files: dict[str, Path | None] = {
            "ca_cert": self._settings.tls.ca_file,
            "client_cert": self._settings.tls.cert_file,
            "client_cert_key": self._settings.tls.key_file,
        }
        options: dict[str, Any] = {"maxsize": self._connections, "num_pools": 1, "verify": True}
        if self._settings.tls.enabled:
            options |= {name: str(path) for name, path in files.items() if path}
        pool: PoolManager = get_pool_manager(**options)
        return pool

    @property
    def client(self) -> Client:
        """The open client."""
        if self._client is None:
            msg = f"{self.address} is not open: call open() first"
            raise RuntimeError(msg)
        return self._client

    def parts(self, table: str) -> Parts:
        """Return the columns of the table's history, its current state and its view; empty where there is no such part."""
        query = """SELECT table, name, type, is_in_sorting_key FROM system.columns
                   WHERE database = {database:String} AND table IN {tables:Array(String)} ORDER BY position"""
        names = f"{table}_history", f"{table}_current", table
        with self._told():
            rows = self.client.query(query, {"database": self._settings.database, "tables": list(names)}).result_rows
        history, current, view = ({str(c): str(t) for part, c, t, _ in rows if part == name} for name in names)
        return Parts(history, current, view, tuple(str(c) for part, c, _, key in rows if part == names[1] and key))

    def grow(self, statements: Sequence[str]) -> None:
        """Run statements that change tables, each of which can be repeated; raises what `insert_raw` raises."""
        with self._told():
            for statement in statements:
                self.client.command(statement)

    def insert_raw(self, statement: str, values: Sequence[bytes]) -> None:
        """Run an INSERT that reads `FORMAT AvroConfluent`, with these records behind it.

        Raises:
            Refused: the data's fault.
            SinkUnavailable: nothing was decided.
        """
        settings = _INSERT_SETTINGS | _RAW_SETTINGS | {"format_avro_schema_registry_url": self._settings.registry_url}
        with self._told():
            self.client.raw_insert("", insert_block=b"".join((statement.encode(), *values)), settings=settings)

    def insert_columns(self, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        """Insert decoded rows, column by column; raises what `insert_raw` raises."""
        with self._told():
            self.client.insert(
                f"{table}_history", columns, column_names=names, column_oriented=True, settings=_INSERT_SETTINGS
            )

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close_connections()
            self._client.close()
            self._client = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the client's errors into ours."""
        try:
            yield
        except DatabaseError as error:
            code = error.code
            if code is None or code in _NOT_THE_DATA:
                msg = f"{self.address}: {error}"
                raise SinkUnavailable(msg) from None
            raise Refused(str(error), whole_schema=code in _WHOLE_SCHEMA) from None
        except (ClickHouseError, OSError) as error:
            msg = f"{self.address}: {error}"
            raise SinkUnavailable(msg) from None
