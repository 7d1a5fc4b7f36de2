"""The search sink: takes parts of products and reviews, keeps them as documents, and knows when a reader sees them.

Composes the room: documents of two indexes, ratings between them. Knows no tables and no engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from downriver.settings import Settings
from processors.sinks.base import Outcome, Pace, SinkUnavailable, Verdict
from processors.sinks.search import mapping
from processors.sinks.search.client import Elastic, Refused
from processors.sinks.search.document import Rating, fold_product
from processors.sinks.search.indexes import ensure
from processors.sinks.search.ratings import Ratings
from processors.sinks.search.review import fold_review
from processors.sinks.search.route import Command, Part, ReviewRow
from processors.sinks.search.store import Documents

log = structlog.get_logger(__name__)
RECENT_BYTES = 32 * 2**20
"""Of product documents kept with their sequence numbers: some 27,000 of usual size, more than a sale keeps hot."""
RECENT_REVIEW_BYTES = 8 * 2**20
"""Reviews are seldom written twice in a short time."""


class SearchSink:
    """Products and reviews in Elasticsearch. See `processors.sinks.base.Sink` for who calls what, and when.

    Idempotent by the version of every part of a document. Writes the concrete index under `create` or `if_seq_no`, never
    under external versions; deletes are marks behind filtered aliases.
    """

    pace = Pace(max_records=10_000, extra=1, linger_s=0.2, fetch_s=0.1)

    def __init__(self, settings: Settings, *, name: str = "search") -> None:
        """Build the sink; nothing is connected yet. Raises BadInput if the address can't be used."""
        self.name = name
        self._replicas = settings.elasticsearch.replicas
        self._plans = (
            mapping.products(settings.elasticsearch.prefix),
            mapping.reviews(settings.elasticsearch.prefix),
        )
        self._known = {plan.name: set(plan.properties) for plan in self._plans}
        self._elastic = Elastic(settings.elasticsearch)
        products, reviews = self._plans
        self._products: Documents[Part | Rating] = Documents(self._elastic, products.name, fold_product, RECENT_BYTES)
        self._reviews: Documents[ReviewRow] = Documents(self._elastic, reviews.name, fold_review, RECENT_REVIEW_BYTES)
        self._ratings = Ratings(self._elastic, reviews.name, self._reviews.refresher, self._products)

    async def open(self) -> None:
        """Create what is missing, check what is there, and show what an earlier worker wrote and did not refresh.

        Raises:
            SinkUnavailable: Elasticsearch is away.
            BadInput: an index or alias of our name is something else.
        """
        for plan in self._plans:
            await ensure(self._elastic, plan, self._replicas)
            await self._elastic.refresh(plan.name)

    async def write(self, batch: Sequence[Command]) -> Sequence[Verdict]:
        """Apply the commands: one write per document, whatever their number, and the ratings of touched products.

        Raises:
            SinkUnavailable: Elasticsearch is away, or an index is gone.
            Refused: a request as a whole is at fault (too large, an impossible id), so something in the batch is.
        """
        try:
            return await self._write(batch)
        except Refused as error:
            if error.status in (400, 413):
                raise
            raise SinkUnavailable(str(error)) from error

    async def shown(self) -> None:
        """Return after a refresh of what was written that started after this call; callers share refreshes."""
        await asyncio.gather(self._products.refresher.shown(), self._reviews.refresher.shown())

    async def close(self) -> None:
        """Close the connections; what waits in `shown()` is cancelled."""
        await self._products.refresher.close()
        await self._reviews.refresher.close()
        await self._elastic.close()

    async def _write(self, batch: Sequence[Command]) -> list[Verdict]:
        parts: dict[int, Part] = {}
        rows: dict[int, ReviewRow] = {}
        for place, command in enumerate(batch):
            if isinstance(command, Part):
                parts[place] = command
            else:
                rows[place] = command
        verdicts: dict[int, Verdict] = {}
        products, reviews = self._plans
        await self._map(products.name, {n: kind for part in parts.values() for n, kind in part.extra.items()})
        await self._map(reviews.name, {n: kind for row in rows.values() for n, kind in row.extra.items()})
        # side by side: ratings wait for a refresh of the reviews, and products must not wait for them
        written = await asyncio.gather(
            self._products.apply(list(parts.values())) if parts else _nothing(),
            self._write_reviews(list(rows.values())) if rows else _nothing(),
            return_exceptions=True,
        )
        for places, found in ((list(parts), written[0]), (list(rows), written[1])):
            if isinstance(found, BaseException):
                raise found
            verdicts.update(zip(places, found, strict=True))
        return [verdicts[place] for place in range(len(batch))]

    async def _map(self, index: str, kinds: Mapping[str, str]) -> None:
        """Give the index fields for columns that a migration added: it refuses what it does not know."""
        known = self._known[index]
        new = {name: dict(mapping.KINDS[kind]) for name, kind in kinds.items() if name not in known}
        if not new:
            return
        try:
            await self._elastic.request("PUT", f"/{index}/_mapping", {"properties": new})
        except Refused as error:
            if error.status != 400:
                raise
            # the field is there, as another kind: documents that don't fit it are refused one by one
            log.warning("mapping_refused", sink=self.name, index=index, reason=str(error))
        else:
            log.info("index_grows", sink=self.name, index=index, fields=new)
        known.update(new)

    async def _write_reviews(self, rows: Sequence[ReviewRow]) -> list[Verdict]:
        """Write the reviews, then the ratings of their products. A review counts as written when its rating is too.

        Stale reviews renew the rating as well: a worker may have been killed between the two steps.
        """
        verdicts = await self._reviews.apply(rows)
        written = {row.product_id for row, verdict in zip(rows, verdicts, strict=True) if _stands(verdict)}
        if not written:
            return verdicts
        ratings = await self._ratings.renew(sorted(written))
        return [
            ratings[row.product_id] if _stands(verdict) and not _stands(ratings[row.product_id]) else verdict
            for row, verdict in zip(rows, verdicts, strict=True)
        ]


def _stands(verdict: Verdict) -> bool:
    """Whether the store now holds the command, or something newer."""
    return verdict.outcome in (Outcome.APPLIED, Outcome.STALE)


async def _nothing() -> list[Verdict]:
    return []
