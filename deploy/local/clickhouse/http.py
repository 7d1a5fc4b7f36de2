"""ClickHouse's HTTP interface over the engine, as far as clickhouse-connect uses it. Decides nothing about SQL."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import chain

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy.local.clickhouse import codecs
from deploy.local.clickhouse.engine import STREAMABLE, Engine, External, Request, Result
from deploy.local.clickhouse.errors import BAD_ARGUMENTS, NOT_IMPLEMENTED, EngineError, refused
from deploy.local.clickhouse.statement import split

# what the HTTP interface takes for itself; every other parameter is a setting of the query
_RESERVED = frozenset(
    {
        *("add_http_cors_header", "buffer_size", "client_protocol_version", "close_session", "compress", "database"),
        *("decompress", "default_format", "enable_http_compression", "http_headers_progress_interval_ms", "password"),
        *("query", "query_id", "quota_key", "role", "send_progress_in_http_headers", "session_check", "session_id"),
        *("session_timeout", "stacktrace", "user", "wait_end_of_query"),
    }
)
_REFUSED = {"compress": "1", "decompress": "1"}
_EXTERNAL = re.compile(r"(?P<name>.+)_(?:format|structure|types)")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_THREADS = 128
"""Requests that run at the same time; the others wait."""


@dataclass(frozen=True, slots=True)
class Form:
    """A request's parameters, its SQL and its files, wherever it carried them."""

    parameters: Mapping[str, str]
    text: bytes
    files: Mapping[str, bytes]


def application(engine: Engine) -> Starlette:
    """Return the web application over an open engine; closing the engine is the caller's."""
    limiter = CapacityLimiter(_THREADS)

    async def query(request: HttpRequest) -> Response:
        body = await request.body()
        work: Callable[[], Response] = lambda: _answer(engine, request, body)  # noqa: E731
        return await to_thread.run_sync(work, limiter=limiter)

    async def ping(_request: HttpRequest) -> Response:
        return PlainTextResponse("Ok.\n")

    return Starlette(
        routes=[Route("/ping", ping), Route("/", query, methods=["GET", "POST"])],
    )


def _answer(engine: Engine, request: HttpRequest, body: bytes) -> Response:
    """Run in a thread: read the request, run it, begin the response."""
    query_id = request.query_params.get("query_id") or str(uuid.uuid4())
    headers = {"X-ClickHouse-Query-Id": query_id, "X-ClickHouse-Server-Display-Name": "downriver-local"}
    try:
        form = _read(request, body)
        return _run(engine, request, form, headers | {"X-ClickHouse-Timezone": engine.timezone})
    except EngineError as error:
        headers["X-ClickHouse-Exception-Code"] = str(error.code)
        # a streamed insert's error already names the version
        version = "" if "(version " in str(error) else f" (version {engine.version})"
        return PlainTextResponse(f"{error}{version}\n", error.status, headers)


def _run(engine: Engine, http: HttpRequest, form: Form, headers: dict[str, str]) -> Response:
    parameters = form.parameters
    request = _request(http, form)
    must_exist = parameters.get("session_check") == "1"
    lent = engine.session(
        parameters.get("session_id"), float(parameters.get("session_timeout") or 60), must_exist=must_exist
    )
    with ExitStack() as stack:
        handle = stack.enter_context(lent)
        result = engine.run(handle, request)
        if result.output is None:
            return Response(b"", 200, headers | _summary(result))
        headers["X-ClickHouse-Format"] = request.statement.format or request.format
        pieces = result.output
        encoding = ""
        if parameters.get("enable_http_compression") == "1":
            encoding = codecs.choose(http.headers.get("accept-encoding", ""))
        if encoding:
            headers["Content-Encoding"] = encoding
        if not (request.streaming and headers["X-ClickHouse-Format"] in STREAMABLE):
            whole = b"".join(codecs.compress(pieces, encoding) if encoding else pieces)
            return Response(whole, 200, headers | _summary(result), media_type="application/octet-stream")
        first = next(pieces, b"")  # an error before the first block is still an error with a status
        tag = headers["X-ClickHouse-Exception-Tag"] = secrets.token_hex(8)
        pieces = _with_late_errors(chain((first,), pieces), tag)
        if encoding:
            pieces = codecs.compress(pieces, encoding)
        return StreamingResponse(_holding(stack.pop_all(), pieces), 200, headers, media_type="application/octet-stream")


def _request(http: HttpRequest, form: Form) -> Request:
    """Put together what the engine runs.

    Raises:
        EngineError: no query, or something this front does not speak.
    """
    parameters = form.parameters
    for name, value in _REFUSED.items():
        if parameters.get(name) == value:
            raise refused(
                NOT_IMPLEMENTED,
                "NOT_IMPLEMENTED",
                f"{name}={value} (ClickHouse's own block compression); use enable_http_compression",
            )
    if parameters.get("role"):
        raise refused(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "role: the local ClickHouse has neither users nor roles")
    if not form.text.strip():
        raise refused(62, "SYNTAX_ERROR", "Syntax error: Empty query")
    external = tuple(_external(name, data, parameters) for name, data in form.files.items())
    belongs_to_external = {f"{table.name}_{what}" for table in external for what in ("format", "structure", "types")}
    settings = {
        name: value
        for name, value in parameters.items()
        if name not in _RESERVED and not name.startswith("param_") and name not in belongs_to_external
    }
    for name in settings:
        if not _SETTING.fullmatch(name):
            raise refused(115, "UNKNOWN_SETTING", f"Unknown setting {name!r}")
    return Request(
        statement=split(form.text),
        format=parameters.get("default_format") or http.headers.get("x-clickhouse-format") or "TabSeparated",
        settings=settings,
        parameters={
            name.removeprefix("param_"): value for name, value in parameters.items() if name.startswith("param_")
        },
        database=parameters.get("database") or http.headers.get("x-clickhouse-database"),
        external=external,
        streaming=parameters.get("wait_end_of_query") != "1",
    )


def _external(name: str, data: bytes, parameters: Mapping[str, str]) -> External:
    structure = parameters.get(f"{name}_structure")
    if structure is None:
        types = parameters.get(f"{name}_types")
        if types is None:
            raise refused(
                BAD_ARGUMENTS, "BAD_ARGUMENTS", f"External table {name} needs {name}_structure or {name}_types"
            )
        structure = ", ".join(f"_{number} {type_}" for number, type_ in enumerate(types.split(","), 1))
    return External(name, structure, parameters.get(f"{name}_format", "TabSeparated"), data)


def _read(http: HttpRequest, body: bytes) -> Form:
    """Gather the parameters and the SQL from URL and body, in any mix."""
    parameters = dict(http.query_params)
    files: dict[str, bytes] = {}
    content_type = http.headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        for name, is_file, data in _parts(content_type, body):
            if is_file:
                files[name] = data
            else:
                parameters[name] = data.decode()
        body = b""
    else:
        body = codecs.decompress(body, http.headers.get("content-encoding", ""))
    text = parameters.get("query", "").encode("utf-8", "surrogateescape")
    return Form(parameters, text + b"\n" + body if text and body else text or body, files)


def _parts(content_type: str, body: bytes) -> Iterator[tuple[str, bool, bytes]]:
    """Yield name, whether it is a file, and bytes of each part of a multipart body (RFC 7578)."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        raise refused(BAD_ARGUMENTS, "BAD_ARGUMENTS", "multipart/form-data without a boundary")
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        if name is not None:
            yield name[1].decode(), b"filename=" in head, data


def _summary(result: Result) -> dict[str, str]:
    return {"X-ClickHouse-Summary": json.dumps(result.summary)}


def _with_late_errors(pieces: Iterable[bytes], tag: str) -> Iterator[bytes]:
    """Put an error that comes after the headers behind the data, framed as ClickHouse 25.11 and later do."""
    try:
        yield from pieces
    except EngineError as error:
        message = str(error).encode() + b"\n"
        yield b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (
            tag.encode(),
            message,
            len(message),
            tag.encode(),
        )


def _holding(resources: AbstractContextManager[object], pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Keep the handle until the last piece is sent, or the client has gone."""
    with resources:
        yield from pieces
