"""The search index against the source: through the aliases that applications read, so that only what they see counts.

What a document must hold is said by the sink's own room (`product_view`, `review_view`); this file reads both sides.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from downriver.exits import DownriverError
from processors.sinks.search.client import Elastic, Refused
from processors.sinks.search.document import product_view, shown_product
from processors.sinks.search.review import review_view, shown_review
from processors.sinks.search.route import DERIVED
from processors.verify.merge import side_by_side
from processors.verify.model import Entry, Key, Look, Values
from processors.verify.source import Connection, among, key_of, stream

PAGE = 1_000
KEEP_ALIVE = "5m"
"""How long Elasticsearch keeps the view open between two pages."""

_PRODUCTS = sql.SQL(
    """SELECT source.*, coalesce(stock.available, 0)::bigint AS available,
              coalesce(rating.sum, 0)::bigint AS rating_sum, coalesce(rating.count, 0) AS rating_count
       FROM public.products AS source
       LEFT JOIN (SELECT product_id, sum(quantity::bigint - reserved) AS available FROM public.inventory
                  GROUP BY product_id) AS stock ON stock.product_id = source.id
       LEFT JOIN (SELECT product_id, sum(rating), count(*) FROM public.reviews WHERE status = 'approved'
                  GROUP BY product_id) AS rating ON rating.product_id = source.id
       {} ORDER BY source.id"""
)
_REVIEWS = sql.SQL("SELECT * FROM public.reviews AS source {} ORDER BY source.product_id, source.id")


@dataclass(frozen=True, slots=True)
class Index:
    """One alias, and what it must show.

    Attributes:
        key: the fields that name a document; joined with ':' they are its id.
        query: the source's rows, with one place for a condition.
        types: of the key's columns in PostgreSQL.
        expected: what a row must look like as a document.
        shown: what is compared of a document.
    """

    alias: str
    key: tuple[str, ...]
    query: sql.SQL
    types: tuple[str, ...]
    expected: Callable[[Mapping[str, Any]], dict[str, Any]]
    shown: Callable[[Mapping[str, Any]], dict[str, Any]]


def _product(row: Mapping[str, Any]) -> dict[str, Any]:
    stock = [{"quantity": row["available"], "reserved": 0}]
    return product_view(row, stock, row["rating_sum"], row["rating_count"])


INDEXES = (
    Index("products", ("id",), _PRODUCTS, ("uuid",), _product, shown_product),
    Index("reviews", ("product_id", "id"), _REVIEWS, ("uuid", "uuid"), review_view, shown_review),
)


class SearchCheck:
    """One index against the rows it is made from."""

    sink = "search"
    may_forget = False

    def __init__(self, elastic: Elastic, prefix: str, connection: Connection, index: Index) -> None:
        self._elastic = elastic
        self._alias = f"{prefix}{index.alias}"
        self._connection = connection
        self._index = index
        self._columns: frozenset[str] = frozenset()

    @property
    def table(self) -> str:
        """The alias without its prefix."""
        return self._index.alias

    def readable(self, key: Key) -> str:
        """Return the key: ids are never Restricted."""
        return ":".join(str(part) for part in key)

    def first_look(self) -> AsyncIterator[Look]:
        """Yield every row of either side."""
        return side_by_side(self.source(), self.shown())

    async def _learn(self) -> None:
        """Learn which columns the source has: what a document holds of one that was dropped is what was known last."""
        if not self._columns:
            query = """SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"""
            rows = await self._connection.execute(query, [f"public.{self._index.alias}"])
            self._columns = frozenset([row["attname"] async for row in rows])

    async def source(self) -> AsyncIterator[Entry]:
        """Yield the documents that must be there."""
        query = self._index.query.format(sql.SQL(""))
        async for row in stream(self._connection, f"search_{self.table}", query):
            yield key_of(row, self._index.key), self._index.expected(row)

    async def source_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return those of these keys that must be there."""
        query = self._index.query.format(among(self._index.key, self._index.types, keys))
        rows = await self._connection.execute(query)
        return {key_of(row, self._index.key): self._index.expected(row) async for row in rows}

    async def shown(self) -> AsyncIterator[Entry]:
        """Yield the documents that a search through the alias finds, all of one moment."""
        await self._learn()
        opened = (await self._request("POST", f"/{self._alias}/_pit?keep_alive={KEEP_ALIVE}", None))["id"]
        try:
            after: list[Any] | None = None
            while True:
                body: dict[str, Any] = {
                    "size": PAGE,
                    "pit": {"id": opened, "keep_alive": KEEP_ALIVE},
                    "sort": [{name: "asc"} for name in self._index.key],
                    "track_total_hits": False,
                }
                if after is not None:
                    body["search_after"] = after
                answer = await self._request("POST", "/_search", body)
                opened = answer["pit_id"]
                hits = answer["hits"]["hits"]
                for hit in hits:
                    yield self._entry(hit)
                if len(hits) < PAGE:
                    return
                after = hits[-1]["sort"]
        finally:
            await self._request("DELETE", "/_pit", {"id": opened})

    async def shown_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return those of these keys that a search through the alias finds."""
        await self._learn()
        documents = [":".join(key) for key in keys]
        body = {"query": {"ids": {"values": documents}}, "size": len(documents), "track_total_hits": False}
        answer = await self._request("POST", f"/{self._alias}/_search", body)
        return dict(self._entry(hit) for hit in answer["hits"]["hits"])

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            return await self._elastic.request(method, path, body)
        except Refused as error:
            if error.status == 404:
                msg = f"there is no alias {self._alias} ({error}): start `downriver worker search`, which makes it"
                raise DownriverError(msg) from error
            raise

    def _entry(self, hit: Mapping[str, Any]) -> Entry:
        source = hit["_source"]
        shown = {n: v for n, v in self._index.shown(source).items() if n in DERIVED or n in self._columns}
        return tuple(source[name] for name in self._index.key), shown
