"""What the sink asks of Elasticsearch, and what its answers mean: away, refused, or one status per document.

The only file of the room that imports the client library. Knows requests and errors; knows no products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from elastic_transport import TransportError
from elasticsearch import ApiError, AsyncElasticsearch, OrjsonSerializer, UnsupportedProductError

from downriver.exits import BadInput, DownriverError
from downriver.settings import Elasticsearch
from processors.sinks.base import SinkUnavailable
from processors.sinks.search.recent import Held, to_json

JSON = "application/vnd.elasticsearch+json; compatible-with=9"
NDJSON = "application/vnd.elasticsearch+x-ndjson; compatible-with=9"

DATA_FAULT = frozenset({400, 404, 405, 409, 413})
"""Statuses of a whole request that speak of the request itself. Every other bad one (401, 403, 429, 5xx) says that the
server won't do it now, or not for us: nothing was decided about the data."""

CREATED_ANYWAY = "resource_already_exists_exception"
"""The kind of refusal when another worker created the index first."""


class Refused(DownriverError):
    """Elasticsearch refuses a whole request for what it says."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class Write(NamedTuple):
    """One document to write: created if `held` is None, else replaced if it still is what `held` says."""

    document: str
    held: Held | None
    source: bytes

    def lines(self) -> bytes:
        """Return the two lines of a bulk request. Never an external version: it does not mix with if_seq_no."""
        action: dict[str, Any] = {"create": {"_id": self.document}}
        if self.held is not None:
            condition = {"if_seq_no": self.held.seq_no, "if_primary_term": self.held.primary_term}
            action = {"index": {"_id": self.document} | condition}
        return b"%b\n%b\n" % (orjson.dumps(action), self.source)


class Answer(NamedTuple):
    """What became of one write.

    Attributes:
        status: as of HTTP; 409: the document is not what the write took it for.
        held: the document as it is now, if it was written.
        reason: what Elasticsearch says otherwise.
    """

    status: int
    held: Held | None = None
    reason: str = ""


class Elastic:
    """A connection to one Elasticsearch cluster. Retries nothing: the engine waits for a server that is away."""

    def __init__(self, settings: Elasticsearch) -> None:
        self.url = settings.url
        self.timeout_s = settings.timeout_s
        try:
            self._client = AsyncElasticsearch(settings.url.split(","), **_options(settings))
        except (ValueError, OSError) as error:  # not a URL; a certificate file that can't be read
            msg = f"elasticsearch.url = {settings.url!r} with its credentials and tls can't be used: {error}"
            raise BadInput(msg) from None

    async def request(self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None) -> Any:
        """Send one request and return the parsed answer.

        Raises:
            SinkUnavailable: no answer in time, or one that says not now or not for us.
            Refused: the request itself is at fault.
        """
        named = f"{method} {path.partition('?')[0]}"
        headers = {"accept": JSON}
        if body is not None:
            headers["content-type"] = NDJSON if isinstance(body, bytes) else JSON
        try:
            answer = await self._client.perform_request(method, path, headers=headers, body=body)
        except UnsupportedProductError:
            msg = f"what answers at elasticsearch.url = {self.url} is not Elasticsearch"
            raise BadInput(msg) from None
        except ApiError as error:
            kind, reason = _explain(error.body)
            msg = f"Elasticsearch at {self.url} answers {error.status_code} to {named}: {reason}"
            if error.status_code in DATA_FAULT:
                raise Refused(error.status_code, kind, msg) from None
            raise SinkUnavailable(msg) from error
        except TransportError as error:
            msg = f"Elasticsearch at {self.url} does not answer {named}: {error}"
            raise SinkUnavailable(msg) from error
        return answer.body

    async def read(self, index: str, documents: Sequence[str]) -> dict[str, Held]:
        """Return those of `documents` that exist, as they are now, refreshed or not."""
        answer = await self.request("POST", f"/{index}/_mget", {"ids": list(documents)})
        found = {}
        for item in answer["docs"]:
            if "error" in item:
                msg = f"Elasticsearch at {self.url} can't read {item['_id']} of {index}: {_explain(item)[1]}"
                raise SinkUnavailable(msg)
            if item["found"]:
                source = to_json(item["_source"])
                found[item["_id"]] = Held(source, item["_seq_no"], item["_primary_term"])
        return found

    async def write(self, index: str, writes: Sequence[Write]) -> list[Answer]:
        """Write documents into the concrete index and return one answer each, in order."""
        kept = "errors,items.*.status,items.*._seq_no,items.*._primary_term,items.*.error"
        path = f"/{index}/_bulk?timeout={max(1, int(self.timeout_s / 2))}s&filter_path={kept}"
        answer = await self.request("POST", path, b"".join(write.lines() for write in writes))
        return [_answer(write, *item.values()) for write, item in zip(writes, answer["items"], strict=True)]

    async def refresh(self, index: str) -> None:
        """Make everything that was written into the index visible to searches."""
        answer = await self.request("POST", f"/{index}/_refresh")
        if answer["_shards"]["failed"]:
            msg = f"Elasticsearch at {self.url} did not refresh all of {index}: {answer['_shards']}"
            raise SinkUnavailable(msg)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()


def _answer(write: Write, item: Mapping[str, Any]) -> Answer:
    status = item["status"]
    if status in (200, 201):
        return Answer(status, Held(write.source, item["_seq_no"], item["_primary_term"]))
    kind, reason = _explain(item)
    # a block (read-only, disk full) is answered 403 and goes away; what a mapping refuses, never
    return Answer(503 if kind == "cluster_block_exception" else status, reason=reason)


def _explain(body: Any) -> tuple[str, str]:
    """Return the kind of an error and all that it says, causes included."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict) or "type" not in error:
        return "", str(error)[:500]
    reasons = []
    cause: Any = error
    while isinstance(cause, dict):
        reasons.append(f"{cause.get('type')}: {cause.get('reason')}")
        cause = cause.get("caused_by")
    return str(error.get("type")), " <- ".join(reasons)


def _options(settings: Elasticsearch) -> dict[str, Any]:
    """Return the client's options: no retries of its own, orjson, and what the settings say of TLS and credentials."""
    options: dict[str, Any] = {
        "request_timeout": settings.timeout_s,
        "max_retries": 0,
        "retry_on_timeout": False,
        "serializer": OrjsonSerializer(),
    }
    if settings.api_key:
        options["api_key"] = settings.api_key.get_secret_value()
    elif settings.username and settings.password:
        options["basic_auth"] = (settings.username, settings.password.get_secret_value())
    if settings.tls.enabled:
        files = {
            "ca_certs": settings.tls.ca_file,
            "client_cert": settings.tls.cert_file,
            "client_key": settings.tls.key_file,
        }
        options |= {name: str(path) for name, path in files.items() if path}
    return options
