"""One chdb connection: what a connection is to a server, with its own settings, database and temporary tables.

Knows what a request brings along and takes it back; knows nothing of requests' SQL and of other handles.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chdb.state.sqlitelike import Connection

from deploy.local.clickhouse.errors import EngineError, from_engine
from deploy.local.clickhouse.statement import quoted

_AS_A_SERVER = {"implicit_select": "0"}
"""Where clickhouse-local, which chdb is, is more lenient than a server."""


class Handle:
    """One chdb connection with the settings that its current request brought. Used by one thread at a time."""

    def __init__(self, path: Path, *, lasting: bool = True) -> None:
        """Connect. A handle that is not `lasting` serves one request, so nothing need ever be taken back."""
        self.lasting = lasting
        self.lock = threading.Lock()
        self.used_at = time.monotonic()
        self.timeout_s = 60.0
        self.connection = Connection(str(path))
        self._before: dict[str, str] = {}
        self._applied: dict[str, str] = {}
        self._database = "default"
        self._own_database = "default"
        self.execute("SET " + _assignments(_AS_A_SERVER))

    def execute(
        self, sql: bytes | str, format_: str = "TabSeparated", parameters: Mapping[str, str] | None = None
    ) -> Any:
        """Run one statement and return chdb's result.

        Raises:
            EngineError: with ClickHouse's code.
        """
        try:
            return self.connection.query(sql, format_, params=dict(parameters or {}))
        except (RuntimeError, ValueError) as error:
            raise from_engine(error) from None

    def prepare(self, settings: Mapping[str, str], database: str | None) -> None:
        """Give the handle the settings and database of one request; what the last one brought along is taken back."""
        wanted = dict(settings)
        if wanted != self._applied:
            self.take_back()
            if wanted:
                self._before = self._literals(wanted) if self.lasting else {}
                self._applied = wanted
                try:
                    self.execute("SET " + _assignments(wanted))
                except EngineError:
                    self.take_back()
                    raise
        self._use(database or self._own_database)

    def take_back(self) -> None:
        """Undo what requests brought along, so that the session's own SET and USE are all that holds."""
        if self._before:
            self.execute("SET " + ", ".join(f"{name} = {literal}" for name, literal in self._before.items()))
        self._before, self._applied = {}, {}
        self._use(self._own_database)

    def remember(self) -> None:
        """After a SET or USE of the session: its database is now its own."""
        self._database = self._own_database = (
            self.execute("SELECT currentDatabase()", "TabSeparatedRaw").bytes().decode().strip()
        )

    def close(self) -> None:
        """Close the connection; its temporary tables go with it."""
        self.connection.close()

    def _use(self, database: str) -> None:
        if database != self._database:
            self.execute(b"USE `" + database.encode().replace(b"\\", b"\\\\").replace(b"`", b"\\`") + b"`")
            self._database = database

    def _literals(self, names: Mapping[str, str]) -> dict[str, str]:
        """Return what SET needs to bring back the current value of each setting; one that is not changed has DEFAULT."""
        listed = ", ".join(quoted(name).decode() for name in names)
        rows = self.execute(f"SELECT name, value, changed FROM system.settings WHERE name IN ({listed})", "JSONEachRow")  # noqa: S608 - quoted
        known = [json.loads(line) for line in rows.bytes().splitlines()]
        return {row["name"]: quoted(row["value"]).decode() if row["changed"] else "DEFAULT" for row in known}


def _assignments(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {quoted(value).decode()}" for name, value in settings.items())
