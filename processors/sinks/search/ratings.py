"""Ratings are asked for, never summed up: one aggregation over the reviews of the products that a batch touched.

Redelivery, second snapshots and repairs heal a rating by themselves. Knows the two indexes; knows no changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from processors.sinks.base import Verdict, retry
from processors.sinks.search.client import Elastic
from processors.sinks.search.document import OUTDATED, Rating, rating_revision
from processors.sinks.search.refresh import Refresher
from processors.sinks.search.route import Part
from processors.sinks.search.store import Documents

CHUNK_PRODUCTS = 1_000
"""In one aggregation: measured at 25-45 ms; far below Elasticsearch's 65,536 terms and buckets."""
TRIES = 5
"""Of one rating. A lost try means that another worker rated the product meanwhile, which two owners of a partition do
only while it changes hands."""


class Ratings:
    """Writes the rating of products into their documents."""

    def __init__(
        self, elastic: Elastic, reviews: str, refresher: Refresher, products: Documents[Part | Rating]
    ) -> None:
        self._elastic = elastic
        self._reviews = reviews
        self._refresher = refresher
        self._products = products

    async def renew(self, products: Sequence[str]) -> Mapping[str, Verdict]:
        """Ask the rating of each of `products` as its reviews are now, write it, and return one verdict each.

        The order matters: the document's rating revision is read first, then the reviews are refreshed and asked, and the
        answer is written only under that revision. So a worker that lost its partition and wakes up with an old answer
        finds the revision raised, and a change of stock in between disturbs nothing.
        """
        settled: dict[str, Verdict] = {}
        wanted = list(products)
        for _ in range(TRIES):
            held = await self._products.read(wanted)
            revisions = {
                product: rating_revision(found.source if (found := held.get(product)) else None) for product in wanted
            }
            await self._refresher.shown()
            sums = await self._ask(wanted)
            ratings = [Rating(product, revisions[product], *sums.get(product, (0, 0))) for product in wanted]
            verdicts = await self._products.apply(ratings)
            settled |= dict(zip(wanted, verdicts, strict=True))
            wanted = [product for product in wanted if settled[product] is OUTDATED]
            if not wanted:
                break
        lost = retry(f"other workers rated the same product {TRIES} times in a row")
        return settled | dict.fromkeys(wanted, lost)

    async def _ask(self, products: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return (sum, count) of the approved, live reviews of each product that has some."""
        sums: dict[str, tuple[int, int]] = {}
        for start in range(0, len(products), CHUNK_PRODUCTS):
            chunk = products[start : start + CHUNK_PRODUCTS]
            counted = [
                {"terms": {"product_id": list(chunk)}},
                {"term": {"status": "approved"}},
                {"term": {"deleted": False}},
            ]
            by_product = {
                "terms": {"field": "product_id", "size": len(chunk)},
                "aggs": {"sum": {"sum": {"field": "rating"}}},
            }
            body = {"size": 0, "query": {"bool": {"filter": counted}}, "aggs": {"products": by_product}}
            # partial results would be taken for the whole: a shard that is away must be an error
            path = f"/{self._reviews}/_search?allow_partial_search_results=false"
            answer = await self._elastic.request("POST", path, body)
            for bucket in answer["aggregations"]["products"]["buckets"]:
                sums[bucket["key"]] = (int(bucket["sum"]["value"]), bucket["doc_count"])
        return sums
