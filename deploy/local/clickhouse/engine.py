"""The chdb engine: one a process, with a handle for each session and for each request without one. Knows nothing of HTTP.

Queries of different handles run at the same time (chdb releases the GIL: tried, four one-second sleeps take one second);
one handle runs one at a time.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.clickhouse import native
from deploy.local.clickhouse.errors import (
    SESSION_IS_LOCKED,
    SESSION_NOT_FOUND,
    SYNTAX_ERROR,
    from_engine,
    refused,
)
from deploy.local.clickhouse.handle import Handle
from deploy.local.clickhouse.statement import Statement, quoted

STREAMABLE = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow", "JSONCompactEachRow"})
"""Formats whose blocks can be put one behind the other; chdb ends every block of the others with a footer."""


@dataclass(frozen=True, slots=True)
class External:
    """A table that a request brings along, for its own query."""

    name: str
    structure: str
    format: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """One statement with all that belongs to it. `streaming`: the answer may be sent while the query still runs."""

    statement: Statement
    format: str
    settings: Mapping[str, str]
    parameters: Mapping[str, str]
    database: str | None = None
    external: tuple[External, ...] = ()
    streaming: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave: pieces of output (the first is already there), None where it has no output at all."""

    output: Iterator[bytes] | None
    summary: dict[str, str] = field(default_factory=dict)


class Engine:
    """All handles: one for each session, and a new one for each request without a session (0.3 ms)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path / "data"
        self._bodies = path / "bodies"
        self._bodies.mkdir(parents=True, exist_ok=True)
        for left_over in self._bodies.iterdir():
            left_over.unlink()
        self._keeper = Handle(self._data)
        self._sessions: dict[str, Handle] = {}
        self._sessions_lock = threading.Lock()
        row = self._keeper.execute("SELECT version(), timezone()", "TabSeparated").bytes().decode().strip().split("\t")
        self.version, self.timezone = row

    @contextmanager
    def session(self, name: str | None, timeout_s: float = 60.0, *, must_exist: bool = False) -> Iterator[Handle]:
        """Lend the session's handle, or one of its own for a request without a session."""
        if not name:
            handle = Handle(self._data, lasting=False)
            try:
                yield handle
            finally:
                handle.close()
            return
        handle = self._borrow(name, timeout_s, must_exist)
        try:
            yield handle
        finally:
            handle.used_at = time.monotonic()
            handle.lock.release()

    def _borrow(self, name: str, timeout_s: float, must_exist: bool) -> Handle:
        with self._sessions_lock:
            self._forget_old_sessions()
            if name not in self._sessions:
                if must_exist:
                    raise refused(SESSION_NOT_FOUND, "SESSION_NOT_FOUND", f"Session {name} not found")
                self._sessions[name] = Handle(self._data)
            handle = self._sessions[name]
            if not handle.lock.acquire(blocking=False):
                raise refused(
                    SESSION_IS_LOCKED, "SESSION_IS_LOCKED", f"Session {name} is locked by a concurrent client"
                )
            handle.timeout_s = timeout_s
            return handle

    def _forget_old_sessions(self) -> None:
        now = time.monotonic()
        for name, handle in list(self._sessions.items()):
            if now - handle.used_at > handle.timeout_s and handle.lock.acquire(blocking=False):
                self._sessions.pop(name).close()

    def run(self, handle: Handle, request: Request) -> Result:
        """Run the request's statement on the handle. The output of a streaming one must be read to its end or closed."""
        facts = handle.connection._conn.classify_query(request.statement.sql)
        if facts["statement_count"] > 1:
            raise refused(SYNTAX_ERROR, "SYNTAX_ERROR", "Multi-statements are not allowed")
        if request.statement.verb in ("SET", "USE"):
            handle.take_back()
            result = handle.execute(request.statement.sql, request.format, request.parameters)
            handle.remember()
            return Result(None, _summary(result))
        handle.prepare(request.settings, request.database)
        with _external_tables(handle, request.external):
            if request.statement.data is not None:
                return self._insert(handle, request)
            if facts["query_class"].name == "READ_ONLY":
                return self._read(handle, request)
            return Result(None, _summary(handle.execute(request.statement.sql, request.format, request.parameters)))

    def _insert(self, handle: Handle, request: Request) -> Result:
        statement = request.statement
        if statement.input_call is None and not request.parameters:
            try:
                with handle.connection.send_insert(statement.sql, statement.format) as stream:
                    stream.append(statement.data)
                    done = stream.finish()
            except (RuntimeError, ValueError) as error:
                raise from_engine(error) from None
            return Result(None, {"written_rows": str(done.rows_written), "written_bytes": str(done.bytes_written)})
        body = self._bodies / uuid.uuid4().hex
        try:
            body.write_bytes(statement.data or b"")
            if statement.input_call is not None:
                sql = statement.reading(str(body))
            else:
                infile = b" FROM INFILE %s FORMAT %s" % (quoted(str(body)), (statement.format or "").encode())
                sql = statement.sql + infile
            return Result(None, _summary(handle.execute(sql, request.format, request.parameters)))
        finally:
            body.unlink(missing_ok=True)

    def _read(self, handle: Handle, request: Request) -> Result:
        sql, format_ = request.statement.sql, request.statement.format or request.format
        if request.streaming and format_ in STREAMABLE and not request.external:
            return Result(_stream(handle, request, format_))
        result = handle.execute(sql, format_, request.parameters)
        output = result.bytes() or (self._header(handle, request) if format_ == "Native" else b"")
        return Result(iter((output,)), _summary(result))

    def _header(self, handle: Handle, request: Request) -> bytes:
        """Return the block without rows that a server sends for an empty result, and chdb leaves out.

        A streamed result that turns out empty has none: the client then sees neither rows nor columns.
        """
        described = json.loads(
            handle.execute(request.statement.without_format + b"\nFORMAT JSON", "JSON", request.parameters).bytes()
        )
        return native.empty_block([(column["name"], column["type"]) for column in described["meta"]])

    def close(self) -> None:
        """Close every handle, and with the last of them the engine."""
        with self._sessions_lock:
            for handle in self._sessions.values():
                handle.close()
            self._sessions.clear()
        self._keeper.close()


def _stream(handle: Handle, request: Request, format_: str) -> Iterator[bytes]:
    try:
        stream = handle.connection.send_query(request.statement.sql, format_, params=dict(request.parameters))
    except (RuntimeError, ValueError) as error:
        raise from_engine(error) from None
    try:
        for block in stream:
            yield block.bytes()
    except (RuntimeError, ValueError) as error:
        raise from_engine(error) from None
    finally:
        with suppress(RuntimeError):  # it failed or ended: there is nothing left to cancel
            stream.close()


@contextmanager
def _external_tables(handle: Handle, tables: tuple[External, ...]) -> Iterator[None]:
    created: list[str] = []
    try:
        for table in tables:
            name = "`" + table.name.replace("\\", "\\\\").replace("`", "\\`") + "`"
            handle.execute(f"CREATE TEMPORARY TABLE {name} ({table.structure})")
            created.append(name)
            try:
                with handle.connection.send_insert(f"INSERT INTO {name}", table.format) as stream:
                    stream.append(table.data)
                    stream.finish()
            except (RuntimeError, ValueError) as error:
                raise from_engine(error) from None
        yield
    finally:
        for name in created:
            handle.execute(f"DROP TEMPORARY TABLE {name}")


def _summary(result: Any) -> dict[str, str]:
    """Return the figures of X-ClickHouse-Summary that chdb knows."""
    return {
        "read_rows": str(result.rows_read()),
        "read_bytes": str(result.bytes_read()),
        "written_rows": str(result.rows_written()),
        "written_bytes": str(result.bytes_written()),
        "elapsed_ns": str(int(result.elapsed() * 1_000_000_000)),
    }
