"""The indexes: names, strict mappings, and the filtered aliases that applications read. Plain data, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEYWORD = {"type": "keyword", "ignore_above": 8191}
"""Lucene refuses terms over 32,766 bytes, 4 a character: longer values stay in the document, only not filterable."""
DATE = {"type": "date", "ignore_malformed": True}
"""Kept to the microsecond in the document, sorted by the millisecond. PostgreSQL's 'infinity' stays a readable string."""
NUMBER = {"type": "double"}
"""For filters and sorting alone, where any two amounts below 10 trillion stay apart: what is read is the exact text of the
document. (A scaled float needs a module that the minimal Elasticsearch lacks: tried.)"""
KEPT = {"type": "object", "enabled": False}
"""Any JSON: kept as it is, never indexed, so that no value of it can be refused."""

KINDS: Mapping[str, Mapping[str, Any]] = {
    "word": KEYWORD,
    "whole": {"type": "long", "ignore_malformed": True},
    "number": NUMBER | {"ignore_malformed": True},
    "boolean": {"type": "boolean", "ignore_malformed": True},
    "moment": DATE,
    "kept": KEPT,
}
"""Kind of a column that a migration added (processors.sinks.search.route.kind_of) → its field. A text can be filtered and
sorted by; to be searched word by word it needs a line in this file, and an index made anew. What later does not fit, for
the column got another type, stays readable in the document and is not found by."""


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """One index as the sink wants it.

    Attributes:
        name: the concrete index, which writes name: sequence numbers belong to it, not to an alias.
        alias: what applications read; it shows only what `shown` lets through.
    """

    name: str
    alias: str
    shown: Mapping[str, Any]
    properties: Mapping[str, Any]

    def mappings(self) -> dict[str, Any]:
        """Return the index's mapping: a field that is not listed is refused, never guessed."""
        return {"dynamic": "strict", "properties": dict(self.properties)}

    def body(self, replicas: int) -> dict[str, Any]:
        """Return what creates the index, its alias with it."""
        return {
            "settings": {
                "number_of_shards": 1,
                "number_of_replicas": replicas,
                # the sink refreshes by itself and knows when; this bounds what a killed worker leaves unseen
                "refresh_interval": "30s",
                "translog.durability": "request",
            },
            "mappings": self.mappings(),
            "aliases": {self.alias: {"filter": dict(self.shown)}},
        }


def products(prefix: str) -> IndexPlan:
    """Return the index of the joined product documents. Money is exact text in the document, a number only in the index."""
    return IndexPlan(
        name=f"{prefix}products-v1",
        alias=f"{prefix}products",
        shown={"term": {"listed": True}},
        properties={
            "id": KEYWORD,
            "listed": {"type": "boolean"},
            "sku": KEYWORD,
            "name": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}},
            "description": {"type": "text"},
            "category": KEYWORD,
            "tags": KEYWORD,
            "attributes": {"type": "keyword", "index": False, "doc_values": False},
            "price": NUMBER,
            "currency": KEYWORD,
            "status": KEYWORD,
            "created_at": DATE,
            "updated_at": DATE,
            "stock": {"type": "long"},
            "in_stock": {"type": "boolean"},
            "rating_average": NUMBER,
            "rating_sum": {"type": "long"},
            "rating_count": {"type": "long"},
            "parts": KEPT,
        },
    )


def reviews(prefix: str) -> IndexPlan:
    """Return the index of the reviews."""
    return IndexPlan(
        name=f"{prefix}reviews-v1",
        alias=f"{prefix}reviews",
        shown={"term": {"deleted": False}},
        properties={
            "product_id": KEYWORD,
            "id": KEYWORD,
            "version": {"type": "long", "index": False, "doc_values": False},
            "deleted": {"type": "boolean"},
            "user_id": KEYWORD,
            "rating": {"type": "integer"},
            "title": {"type": "text"},
            "body": {"type": "text"},
            "status": KEYWORD,
            "created_at": DATE,
            "updated_at": DATE,
        },
    )
