"""What Elasticsearch's answers mean to the sink, against a small double that answers as told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from downriver.exits import BadInput
from downriver.settings import Elasticsearch, Settings, Tls
from processors.sinks.base import Outcome, SinkUnavailable
from processors.sinks.search.client import Answer, Elastic, Refused, Write
from processors.sinks.search.recent import Held
from processors.sinks.search.route import Part
from processors.sinks.search.sink import SearchSink

CONFLICT = {"index": {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "newer"}}}
REJECTED = {
    "create": {
        "status": 400,
        "error": {
            "type": "document_parsing_exception",
            "reason": "failed to parse field [price]",
            "caused_by": {"type": "number_format_exception", "reason": 'For input string: "x"'},
        },
    }
}
BLOCKED = {"index": {"status": 403, "error": {"type": "cluster_block_exception", "reason": "disk is full"}}}
THROTTLED = {"index": {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "queue"}}}
WRITTEN = {"create": {"status": 201, "_seq_no": 7, "_primary_term": 2}}


class Double:
    """Answers every request with `status` and `body`, or as `answer` says; remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {}
        self.product = "Elasticsearch"
        self.delay_s = 0.0
        self.asked: list[tuple[str, str, bytes]] = []
        self.credentials: list[str | None] = []
        self.answer: Callable[[str], Any] | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path, await request.read()))
        self.credentials.append(request.headers.get("Authorization"))
        await asyncio.sleep(self.delay_s)
        body = self.answer(request.path) if self.answer else self.body
        return web.Response(
            status=self.status,
            body=orjson.dumps(body),
            headers={
                "X-Elastic-Product": self.product,
                "Content-Type": "application/vnd.elasticsearch+json;compatible-with=9",
            },
        )


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    told = Double()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", told.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [(host, port)] = runner.addresses
    told.url = f"http://{host}:{port}"
    yield told
    await runner.cleanup()


@pytest.fixture
async def elastic(double: Double) -> AsyncIterator[Elastic]:
    client = Elastic(Elasticsearch(url=double.url, timeout_s=0.5))
    yield client
    await client.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_every_item_of_a_bulk_has_its_own_answer(double: Double, elastic: Elastic) -> None:
    double.body = {"errors": True, "items": [WRITTEN, CONFLICT, REJECTED, BLOCKED, THROTTLED]}
    held = Held(b"{}", 3, 1)
    writes = [Write('quo"te', None, b'{"a":1}'), *(Write(str(i), held, b"{}") for i in range(4))]
    assert await elastic.write("products-v1", writes) == [
        Answer(201, Held(b'{"a":1}', 7, 2)),
        Answer(409, reason="version_conflict_engine_exception: newer"),
        Answer(
            400,
            reason="document_parsing_exception: failed to parse field [price] <- "
            'number_format_exception: For input string: "x"',
        ),
        Answer(503, reason="cluster_block_exception: disk is full"),
        Answer(429, reason="es_rejected_execution_exception: queue"),
    ]
    [(method, path, body)] = double.asked
    assert (method, path) == ("POST", "/products-v1/_bulk")
    assert body.splitlines()[:3] == [
        b'{"create":{"_id":"quo\\"te"}}',
        b'{"a":1}',
        b'{"index":{"_id":"0","if_seq_no":3,"if_primary_term":1}}',
    ]


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 504])
async def test_a_request_that_finds_no_service_decides_nothing(double: Double, elastic: Elastic, status: int) -> None:
    double.status, double.body = status, {"error": {"type": "some_exception", "reason": "not now"}}
    with pytest.raises(SinkUnavailable) as caught:
        await elastic.write("products-v1", [Write("p", None, b"{}")])
    assert str(caught.value) == (
        f"Elasticsearch at {double.url} answers {status} to POST /products-v1/_bulk: some_exception: not now"
    )
    assert len(double.asked) == 1, "the client must not retry by itself"


@pytest.mark.parametrize("status", [400, 404, 413])
async def test_a_request_at_fault_is_refused(double: Double, elastic: Elastic, status: int) -> None:
    double.status, double.body = status, {"error": "no handler"}
    with pytest.raises(Refused, match="no handler") as caught:
        await elastic.request("GET", "/x")
    assert caught.value.status == status


async def test_a_server_that_is_away_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    away = Elastic(Elasticsearch(url=url))
    with pytest.raises(SinkUnavailable, match=f"Elasticsearch at {url} does not answer GET /x"):
        await away.request("GET", "/x")
    await away.close()


async def test_a_server_that_hangs_is_away(double: Double, elastic: Elastic) -> None:
    double.delay_s = 5.0
    with pytest.raises(SinkUnavailable, match="does not answer POST /i/_refresh"):
        await elastic.refresh("i")
    assert len(double.asked) == 1


async def test_another_product_is_not_written_to(double: Double, elastic: Elastic) -> None:
    double.product = "OpenSearch"
    with pytest.raises(BadInput, match="is not Elasticsearch"):
        await elastic.request("GET", "/x")


async def test_an_address_that_can_not_be_one_is_told_before_anything_starts() -> None:
    with pytest.raises(BadInput, match=r"elasticsearch\.url = 'search-host'"):
        SearchSink(Settings(elasticsearch=Elasticsearch(url="search-host")))


async def test_credentials_are_sent(double: Double) -> None:
    for settings in (
        Elasticsearch(url=double.url),
        Elasticsearch(url=double.url, username="worker", password=SecretStr("pass")),
        Elasticsearch(url=double.url, api_key=SecretStr("a2V5")),
    ):
        client = Elastic(settings)
        await client.request("GET", "/x")
        await client.close()
    assert double.credentials == [None, "Basic d29ya2VyOnBhc3M=", "ApiKey a2V5"]


async def test_a_certificate_that_is_not_there_is_told_before_anything_starts() -> None:
    tls = Tls(enabled=True, ca_file=Path("no-such-ca.pem"))
    with pytest.raises(BadInput, match="tls can't be used"):
        Elastic(Elasticsearch(url="https://127.0.0.1:9200", tls=tls))


@pytest.mark.parametrize(("status", "raised"), [(404, SinkUnavailable), (400, Refused), (413, Refused)])
async def test_only_what_speaks_of_the_data_is_the_data_s_fault(
    double: Double, status: int, raised: type[Exception]
) -> None:
    def answer(path: str) -> Any:
        if path.endswith("/_settings/index.uuid"):
            return {"products-v1": {"settings": {"index": {"uuid": "u"}}}}
        double.status = status
        return {"error": {"type": "some_exception", "reason": "no"}}

    double.answer = answer
    sink = SearchSink(Settings(elasticsearch=Elasticsearch(url=double.url)))
    with pytest.raises(raised, match="some_exception: no"):
        await sink.write([Part("p", "product", "", 1, {"name": "n"})])
    await sink.close()


async def test_a_refresh_that_missed_a_shard_has_shown_nothing(double: Double, elastic: Elastic) -> None:
    double.body = {"_shards": {"total": 2, "successful": 1, "failed": 1}}
    with pytest.raises(SinkUnavailable, match="did not refresh all of i"):
        await elastic.refresh("i")


async def test_an_index_without_its_primary_shard_is_away(double: Double, elastic: Elastic) -> None:
    double.status, double.body = 408, {"status": "red", "timed_out": True}
    with pytest.raises(SinkUnavailable, match=r"answers 408 to GET /_cluster/health/i: .'status': 'red'"):
        await elastic.request("GET", "/_cluster/health/i?wait_for_status=yellow")


async def test_a_document_that_can_not_be_read_is_not_taken_for_missing(double: Double, elastic: Elastic) -> None:
    double.body = {"docs": [{"_id": "p", "error": {"type": "no_shard_available_action_exception", "reason": "red"}}]}
    with pytest.raises(SinkUnavailable, match="can't read p of i: no_shard_available_action_exception: red"):
        await elastic.read("i", ["p"])


async def test_a_throttled_item_is_a_retry_of_its_own(double: Double) -> None:
    def answer(path: str) -> Any:
        if path.endswith("/_settings/index.uuid"):
            return {"products-v1": {"settings": {"index": {"uuid": "u"}}}}
        if path.endswith("/_mget"):
            return {"docs": [{"_id": document, "found": False} for document in "pq"]}
        return {"errors": True, "items": [WRITTEN, THROTTLED]}

    double.answer = answer
    sink = SearchSink(Settings(elasticsearch=Elasticsearch(url=double.url)))
    verdicts = await sink.write([Part(document, "product", "", 1, {"name": "n"}) for document in "pq"])
    await sink.close()
    assert [verdict.outcome for verdict in verdicts] == [Outcome.APPLIED, Outcome.RETRY]
    assert verdicts[1].reason == "status 429: es_rejected_execution_exception: queue"
