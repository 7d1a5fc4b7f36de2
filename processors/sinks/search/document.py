"""A product's document: the row's columns on top, stock and rating derived, `parts` with the version of every part.

The document is the state: folding commands into it gives the same document whatever their order and however often they
come. Pure: bytes in, bytes out. Knows nothing of Elasticsearch but that it stores JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, NamedTuple

import orjson

from processors.change import Row
from processors.sinks.base import APPLIED, STALE, Verdict, retry
from processors.sinks.search.recent import to_json
from processors.sinks.search.route import (
    DERIVED,
    PRODUCT,
    PRODUCT_COLUMNS,
    STOCK,
    Fields,
    Part,
    extras,
    searchable,
)

KNOWN = frozenset((*PRODUCT_COLUMNS, *DERIVED))
"""The fields of every product's document; others come from columns that migrations added."""
OUTDATED = retry("another rating of this product was written since this one was asked for")
"""The verdict on a rating whose aggregate is older than the one the document holds: ask again."""


@dataclass(frozen=True, slots=True)
class Rating:
    """What the approved reviews of a product add up to.

    Attributes:
        document: the product's id.
        revision: the document's rating revision, read before the reviews were asked. Only then may the sum be written.
    """

    document: str
    revision: int
    sum: int
    count: int


class Folded(NamedTuple):
    """What commands make of a document.

    Attributes:
        source: the document to write, None if it stays as it is.
        verdicts: one per command; they hold once `source` is written.
    """

    source: bytes | None
    verdicts: Sequence[Verdict]


def fold_product(document: str, held: bytes | None, commands: Sequence[Part | Rating]) -> Folded:
    """Fold `commands` into the document `held` (None: there is none yet).

    A part replaces an older one of its slot; an equal or older version is STALE, so version 0 (a snapshot row) only
    creates what is missing. A deleted row leaves its version as a mark, and nothing else.
    """
    source = _empty(document) if held is None else orjson.loads(held)
    verdicts = [
        _fold_rating(source, command) if isinstance(command, Rating) else _fold_part(source, command)
        for command in commands
    ]
    if all(verdict is not APPLIED for verdict in verdicts):
        return Folded(None, verdicts)
    return Folded(to_json(_derive(source)), verdicts)


def rating_revision(held: bytes | None) -> int:
    """Return how often the document's rating was written, 0 for a document that does not exist."""
    return 0 if held is None else int(orjson.loads(held)["parts"]["rating"])


def rating_average(sum_: int, count: int) -> str | None:
    """Return the average of `count` ratings that add up to `sum_`, with 2 decimals, half to even; None of no ratings.

    Everything that shows or compares an average uses this function.
    """
    if not count:
        return None
    return str((Decimal(sum_) / count).quantize(Decimal("0.01"), ROUND_HALF_EVEN))


def product_view(row: Row, stock: Iterable[Row], rating_sum: int, rating_count: int) -> dict[str, Any]:
    """Return what a reader of the index must see of a product that is in the source: for comparing.

    Args:
        row: the row of `products`; `attributes` as JSON text (`attributes::text`).
        stock: its rows of `inventory`.
        rating_sum: the sum of the ratings of its approved reviews.
        rating_count: how many those are.
    """
    available = sum(item["quantity"] - item["reserved"] for item in stock)
    return (
        extras(row, frozenset(PRODUCT_COLUMNS))
        | searchable(row, PRODUCT_COLUMNS)
        | {
            "id": str(row["id"]),
            "stock": available,
            "in_stock": available > 0,
            "rating_average": rating_average(rating_sum, rating_count),
            "rating_sum": rating_sum,
            "rating_count": rating_count,
        }
    )


def shown_product(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `_source` of a listed document as `product_view` builds it."""
    return {name: value for name, value in source.items() if name not in ("parts", "listed")}


def _empty(document: str) -> dict[str, Any]:
    """Return the document of a product of which nothing is known yet."""
    return {
        "id": document,
        "rating_sum": 0,
        "rating_count": 0,
        "parts": {"product": None, "stock": {}, "rating": 0},
    }


def _fold_part(source: dict[str, Any], command: Part) -> Verdict:
    parts = source["parts"]
    slots = parts if command.part == PRODUCT else parts[STOCK]
    slot = PRODUCT if command.part == PRODUCT else command.slot
    older = slots.get(slot)
    if older is not None and command.version <= older["version"]:
        return STALE
    slots[slot] = {"version": command.version, "deleted": command.fields is None}
    if command.part == PRODUCT:
        _replace_product(source, command.fields)
    elif command.fields is not None:
        slots[slot] |= command.fields
    return APPLIED


def _replace_product(source: dict[str, Any], fields: Fields | None) -> None:
    """Put the product's columns on top of the document; a column that was not sent keeps its value."""
    for name in [name for name in source if name not in KNOWN]:
        del source[name]  # a column that a migration added: NULL now, or written again below
    if fields is not None:
        source |= fields
        return
    for name in PRODUCT_COLUMNS:
        source.pop(name, None)


def _fold_rating(source: dict[str, Any], command: Rating) -> Verdict:
    parts = source["parts"]
    if parts["rating"] != command.revision:
        return OUTDATED
    # raised even if the sum is the same: else an older aggregate, still on its way, would find its revision again
    parts["rating"] = command.revision + 1
    source["rating_sum"], source["rating_count"] = command.sum, command.count
    return APPLIED


def _derive(source: dict[str, Any]) -> dict[str, Any]:
    """Set everything that follows from the parts: listed, stock, the average."""
    parts = source["parts"]
    product = parts["product"]
    source["listed"] = product is not None and not product["deleted"]
    stock = sum(item["quantity"] - item["reserved"] for item in parts["stock"].values() if not item["deleted"])
    source["stock"], source["in_stock"] = stock, stock > 0
    source["rating_average"] = rating_average(source["rating_sum"], source["rating_count"])
    return source
