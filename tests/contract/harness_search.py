"""Search under the sink contract: a reader searches the filtered aliases, as applications do.

Keys take turns: a product, a product's stock in one warehouse, a review. A product's value is its price, a stock's the
number of pieces, a review's its title.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any, Self
from urllib.parse import urlsplit

import httpx2

from downriver.settings import Settings
from processors.change import pack_version
from processors.sinks.base import Sink
from processors.sinks.search.client import Elastic
from processors.sinks.search.document import shown_product
from processors.sinks.search.mapping import products, reviews
from processors.sinks.search.review import shown_review
from processors.sinks.search.route import PRODUCT, STOCK, Command, Part, ReviewRow
from processors.sinks.search.sink import SearchSink
from tests.contract.harness import RemoteHarness

REVIEW = "review"


class SearchHarness(RemoteHarness):
    """Indexes under a prefix of their own."""

    kind = "search"
    kinds = 3
    tells_stale = True
    refuses = True
    markers = (b"_bulk",)

    def __init__(self, settings: Settings) -> None:
        address = urlsplit(settings.elasticsearch.url)
        assert address.hostname is not None
        assert address.port is not None
        super().__init__(address.hostname, address.port)
        prefix = f"contract-{uuid.uuid4().hex[:12]}-"
        own = settings.elasticsearch.model_copy(update={"prefix": prefix})
        self.settings = settings.model_copy(update={"elasticsearch": own})
        self.prefix = prefix
        self.turns = cycle((PRODUCT, STOCK, REVIEW))
        self.elastic: Elastic | None = None
        self.direct: SearchSink | None = None

    @classmethod
    @contextmanager
    def stored(cls, settings: Settings | None) -> Iterator[Self]:
        """See Harness."""
        assert settings is not None
        made = cls(settings)
        try:
            yield made
        finally:
            for plan in (products(made.prefix), reviews(made.prefix)):
                url = f"{settings.elasticsearch.url}/{plan.name}?ignore_unavailable=true"
                httpx2.delete(url, timeout=30).raise_for_status()

    def build(self) -> Sink[Any]:
        """See Harness."""
        there = self.settings.elasticsearch.model_copy(update={"url": f"http://{self.server}"})
        return SearchSink(self.settings.model_copy(update={"elasticsearch": there}))

    async def start(self) -> None:
        """Connect the reader, directly."""
        await super().start()
        self.elastic = Elastic(self.settings.elasticsearch)

    async def stop(self) -> None:
        """See Harness."""
        await super().stop()
        if self.direct is not None:
            await self.direct.close()
            self.direct = None
        if self.elastic is not None:
            await self.elastic.close()

    async def key(self) -> str:
        """See Harness. Stock is seen in a listed product, so a stock's key comes with its product."""
        kind = next(self.turns)
        key = f"{kind}-{uuid.uuid4()}"
        if kind == STOCK:
            if self.direct is None:
                self.direct = SearchSink(self.settings)
                await self.direct.open()
            await self.direct.write([Part(key, PRODUCT, "", 1, {"name": "of this stock"})])
            await self.direct.shown()
        return key

    async def commit(self, key: str, version: int, value: int | None) -> Command:
        """See Harness."""
        packed = pack_version(1, 8 * version, deleted=value is None) if version else 0
        kind = key.partition("-")[0]
        if kind == REVIEW:
            review = {"rating": 5, "title": str(value), "status": "approved"}
            return ReviewRow(key, "r", packed, None if value is None else review)
        if kind == STOCK:
            stock = {"quantity": value, "reserved": 0}
            return Part(key, STOCK, "1", packed, None if value is None else stock)
        product = {"name": "a product", "price": f"{value}.00"}
        return Part(key, PRODUCT, "", packed, None if value is None else product)

    async def read(self, key: str) -> int | None:
        """See Harness."""
        found = await self.seen(key)
        match key.partition("-")[0], found:
            case _, None:
                return None
            case "review", _:
                return int(found["title"])
            case "stock", _:
                return found["stock"] if found["in_stock"] else None
            case _:
                return int(found["price"].removesuffix(".00"))

    async def seen(self, key: str) -> dict[str, Any] | None:
        """Return the document that the alias shows."""
        assert self.elastic is not None
        is_review = key.startswith(REVIEW)
        alias, field = ("reviews", "product_id") if is_review else ("products", "id")
        answer = await self.elastic.request("POST", f"/{self.prefix}{alias}/_search", {"query": {"term": {field: key}}})
        sources = [hit["_source"] for hit in answer["hits"]["hits"]]
        assert len(sources) <= 1
        if not sources:
            return None
        return shown_review(sources[0]) if is_review else shown_product(sources[0])

    def poisons(self) -> Sequence[Command]:
        """A value that its field can't hold, and a field that the mapping does not have."""
        version = pack_version(1, 8, deleted=False)
        return (
            Part(f"product-{uuid.uuid4()}", PRODUCT, "", version, {"price": "cheap"}),
            ReviewRow(f"review-{uuid.uuid4()}", "r", version, {"colour": "red"}),
        )
