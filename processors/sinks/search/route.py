"""What a change of products, inventory or reviews means for search: commands, as plain values. Pure, no I/O.

Knows the columns that search shows and how a value looks in JSON; knows no index, no version arithmetic, no client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from processors.change import Change, Row

PRODUCT_COLUMNS = (
    "sku",
    "name",
    "description",
    "category",
    "tags",
    "attributes",
    "price",
    "currency",
    "status",
    "created_at",
    "updated_at",
)
"""Of `public.products`, without its id. `attributes` (jsonb) stays the exact JSON text that the source sent: its
numbers may be beyond what a parser keeps, or takes at all (1e400), and one such product must not break a page of results."""

STOCK_COLUMNS = ("quantity", "reserved")
"""Of `public.inventory`."""

REVIEW_COLUMNS = ("user_id", "rating", "title", "body", "status", "created_at", "updated_at")
"""Of `public.reviews`, without its key."""

DERIVED = frozenset(
    {
        *("id", "product_id", "listed", "deleted", "version", "parts", "stock", "in_stock"),
        *("rating_average", "rating_sum", "rating_count", "available"),
    }
)
"""Fields that a document has besides its columns: a new column of that name is left out."""

PRODUCT, STOCK = "product", "stock"
"""The parts of a product's document that come from rows."""

_PRODUCT, _REVIEW = frozenset(PRODUCT_COLUMNS), frozenset(REVIEW_COLUMNS)
NO_EXTRA: Mapping[str, str] = MappingProxyType({})
Fields = Mapping[str, Any]
"""Column → JSON-ready value: None, bool, int, str, list. Money and times are exact strings. An absent column was not sent."""


class Part(NamedTuple):
    """One row's part of a product's document.

    Attributes:
        document: the product's id.
        part: PRODUCT or STOCK.
        slot: which of several parts of that kind: the warehouse's id for stock, empty for the product itself.
        version: the row's version (see `processors.change.pack_version`), 0 for a snapshot row.
        fields: the row's columns, None if the row is gone.
        extra: columns that the mapping did not know when this was written → the kind of field that each needs.
    """

    document: str
    part: str
    slot: str
    version: int
    fields: Fields | None
    extra: Mapping[str, str] = NO_EXTRA


class ReviewRow(NamedTuple):
    """One review under one product; a review that moves is a delete under one and a create under the other.

    Attributes:
        version: the row's version, 0 for a snapshot row.
        fields: the row's columns, None if the review is gone from this product.
    """

    product_id: str
    id: str
    version: int
    fields: Fields | None
    extra: Mapping[str, str] = NO_EXTRA

    @property
    def document(self) -> str:
        """The id of the review's document."""
        return f"{self.product_id}:{self.id}"


Command = Part | ReviewRow


@dataclass(frozen=True, slots=True)
class ProductRoute:
    """`public.products`: the product's own part of its document."""

    sink: ClassVar[str] = "search"
    latest_alone: ClassVar[bool] = True

    def commands(self, change: Change) -> Sequence[Part]:
        """Return the product's part."""
        fields, extra = _with_extras(change, PRODUCT_COLUMNS, _PRODUCT)
        return [Part(str(change.key["id"]), PRODUCT, "", change.version, fields, extra)]


@dataclass(frozen=True, slots=True)
class StockRoute:
    """`public.inventory`: the stock of one warehouse in the product's document. Reads no other column."""

    sink: ClassVar[str] = "search"
    latest_alone: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"product_id", "warehouse_id", *STOCK_COLUMNS})

    def commands(self, change: Change) -> Sequence[Part]:
        """Return the warehouse's part."""
        product, warehouse = str(change.key["product_id"]), str(change.key["warehouse_id"])
        return [Part(product, STOCK, warehouse, change.version, _fields(change, STOCK_COLUMNS))]


@dataclass(frozen=True, slots=True)
class ReviewRoute:
    """`public.reviews`, keyed by (product_id, id): a document of its own, from which the product's rating is asked."""

    sink: ClassVar[str] = "search"
    latest_alone: ClassVar[bool] = True

    def commands(self, change: Change) -> Sequence[ReviewRow]:
        """Return the review's row."""
        product, review = str(change.key["product_id"]), str(change.key["id"])
        fields, extra = _with_extras(change, REVIEW_COLUMNS, _REVIEW)
        return [ReviewRow(product, review, change.version, fields, extra)]


def searchable(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    """Return those of `columns` that `row` has, as they stand in a document: what verification compares with."""
    return {name: json_ready(row[name]) for name in columns if name in row}


def extras(row: Row, columns: frozenset[str]) -> dict[str, Any]:
    """Return the row's columns besides `columns` as they stand in a document; NULL ones are left out.

    A migration added them: what may not be shown was taken out of the row before it came here.
    """
    return {name: json_ready(row[name]) for name in row.keys() - columns - DERIVED if row[name] is not None}


def kind_of(value: Any) -> str:
    """Return the kind of field that such a value needs: a key of processors.sinks.search.mapping.KINDS."""
    if isinstance(value, list | tuple):
        return next((kind_of(item) for item in value if item is not None), "word")
    return next((kind for types, kind in _KINDS if isinstance(value, types)), "kept")


_KINDS: tuple[tuple[tuple[type, ...], str], ...] = (
    ((bool,), "boolean"),  # before int, which it is too
    ((int,), "whole"),
    ((float, Decimal), "number"),
    ((date,), "moment"),
    ((str,), "word"),
)


def json_ready(value: Any) -> Any:
    """Return `value` as JSON can hold it exactly: decimals in plain notation, times in UTC with microseconds."""
    make = _TO_JSON.get(type(value))
    return value if make is None else make(value)


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat()
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _list(value: Sequence[Any]) -> list[Any]:
    return [json_ready(item) for item in value]


_TO_JSON: Mapping[type, Callable[[Any], Any]] = {
    Decimal: lambda value: f"{value:f}",
    datetime: _moment,
    date: date.isoformat,
    list: _list,
    tuple: _list,
}


def _with_extras(
    change: Change, columns: Sequence[str], known: frozenset[str]
) -> tuple[Fields | None, Mapping[str, str]]:
    """Return the columns after the change, those that migrations added among them, and the kinds of these."""
    fields = _fields(change, columns)
    if fields is None or change.after is None:
        return None, NO_EXTRA
    row = change.after if change.before is None else {**change.before, **change.after}
    more = extras(row, known)
    if not more:
        return fields, NO_EXTRA
    return {**fields, **more}, {name: kind_of(row[name]) for name in more}


def _fields(change: Change, columns: Sequence[str]) -> Fields | None:
    """Return the columns after the change, None for a delete.

    An unchanged TOAST value is not sent in `after`, but, under REPLICA IDENTITY FULL, in `before`.
    """
    if change.after is None:
        return None
    return searchable({**(change.before or {}), **change.after}, columns)
