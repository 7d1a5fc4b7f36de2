"""Search under measurement: what readers must find after a replay, and what Elasticsearch's `_bulk` itself can do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2
import orjson

from bench.records import Load
from downriver.settings import Settings
from processors.engine.waiting import Waits
from processors.sinks.base import SinkUnavailable
from processors.sinks.search import mapping
from processors.sinks.search.client import Elastic
from processors.sinks.search.document import product_view, shown_product

PAGE = 2_000
BULK = 1_000
IN_FLIGHT = 2
BUSY_S = 60.0
"""How long a request is sent again while Elasticsearch has no memory for it."""


def documents(load: Load) -> Iterator[dict[str, Any]]:
    """Yield what a reader must see of every product."""
    for row in load.rows():
        yield product_view(row, (), 0, 0)


def unequal(settings: Settings, load: Load) -> list[str]:
    """Compare every document that the alias shows with the one that it must be; tell the first that differ."""
    wrong: list[str] = []
    expected = {document["id"]: document for document in documents(load)}
    for source in _shown(settings):
        found = shown_product(source)
        wanted = expected.pop(str(found["id"]), None)
        if found != wanted:
            wrong.append(f"document {found['id']} is {found}, not {wanted}")
    wrong += [f"document {missing} is missing" for missing in list(expected)[:3]]
    return wrong[:3]


def peer_unequal(settings: Settings, index: str, load: Load) -> list[str]:
    """Tell whether an index that a peer filled holds another number of documents, or other prices."""
    httpx2.post(f"{settings.elasticsearch.url}/{index}/_refresh", timeout=60).raise_for_status()
    held = {source["id"]: f"{float(source['price']):.2f}" for source in _pages(settings, index)}
    wanted = {row["id"]: f"{row['price']:f}" for row in load.rows()}
    return [] if held == wanted else [f"{len(held)} documents, {len(wanted)} wanted, or another price"]


def peer_mapping() -> dict[str, Any]:
    """Return the body of an index for a peer: our own types, no replica, so that it does the same work."""
    properties: Mapping[str, Any] = mapping.products("").properties
    return {
        "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "30s"},
        "mappings": {"dynamic": "true", "properties": properties},
    }


def limit(settings: Settings, load: Load, count: int) -> float:
    """Return the seconds that `count` raw index operations take: IN_FLIGHT requests of BULK documents, ready as bytes."""
    plan = mapping.products(settings.elasticsearch.prefix)
    ready = [
        orjson.dumps({"index": {"_id": document["id"]}}) + b"\n" + orjson.dumps(document | {"listed": True}) + b"\n"
        for document in documents(load)
    ]
    bodies = [
        b"".join(ready[number % len(ready)] for number in range(place, min(place + BULK, count)))
        for place in range(0, count, BULK)
    ]

    async def send() -> float:
        elastic = Elastic(settings.elasticsearch)
        try:
            await elastic.request("PUT", f"/{plan.name}", plan.body(0))
            left = iter(bodies)

            async def sender() -> None:
                for body in left:
                    await _sent(elastic, f"/{plan.name}/_bulk?filter_path=errors", body)

            began = time.perf_counter()
            await asyncio.gather(*(sender() for _ in range(IN_FLIGHT)))
            return time.perf_counter() - began
        finally:
            await elastic.close()

    return asyncio.run(send())


async def _sent(elastic: Elastic, path: str, body: bytes) -> None:
    """Send one request, again while the server says "not now" (429, its memory is full): that is part of its limit.

    Raises:
        WaitedTooLong: after BUSY_S.
    """
    wait = Waits(limit_s=BUSY_S).begin("Elasticsearch")
    while True:
        try:
            answer = await elastic.request("POST", path, body)
            break
        except SinkUnavailable as error:
            await wait.failed(str(error))
    wait.over()
    assert not answer["errors"], answer


def _shown(settings: Settings) -> Iterator[Mapping[str, Any]]:
    yield from _pages(settings, f"{settings.elasticsearch.prefix}products")


def _pages(settings: Settings, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield all documents that a search in the index or alias finds."""
    url, after = f"{settings.elasticsearch.url}/{name}/_search", None
    while True:
        body: dict[str, Any] = {"size": PAGE, "sort": [{"id": "asc"}], "track_total_hits": False}
        if after:
            body["search_after"] = after
        answer = httpx2.post(url, content=orjson.dumps(body), headers={"content-type": "application/json"}, timeout=60)
        hits = orjson.loads(answer.raise_for_status().content)["hits"]["hits"]
        for hit in hits:
            yield hit["_source"]
        if len(hits) < PAGE:
            return
        after = hits[-1]["sort"]
