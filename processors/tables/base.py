"""What a table file says: the key, the class of every column, the lane, and what its changes mean for each sink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from processors.change import TableId
from processors.sinks.base import RawRoute, Route

PARTITIONS = 8
"""Of every captured table's topic. Joined topics must have equally many."""


class Class(StrEnum):
    """How a column is treated downstream. A column that nobody classified is RESTRICTED."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"


class Lane(StrEnum):
    """A connector with its own slot and publication. Listed by priority: a worker takes the first lane's batches first."""

    INVENTORY = "inventory"
    CATALOG = "catalog"
    ACCOUNTS = "accounts"


@dataclass(frozen=True, slots=True)
class Table:
    """One captured table.

    Attributes:
        key: the columns of the record key, in order (for reviews not the primary key: see the table).
        columns: every column of the table → its class.
        routes: at most one for each kind of sink.
        otherwise: the class of a column that `columns` does not list, such as one that a migration added. RESTRICTED unless
            the whole table is classified (products, reviews and inventory are Public or Internal throughout): then a new
            column reaches the sinks by itself.
        captured_restricted: Restricted columns that travel on the topic all the same (the e-mail that cache keys need).
            A table that has one is never passed on raw.
        routed_by: the column whose value picks the partition (the PartitionRouting transform), None: the record key.
    """

    id: TableId
    lane: Lane
    key: tuple[str, ...]
    columns: Mapping[str, Class]
    routes: tuple[Route | RawRoute, ...]
    captured_restricted: frozenset[str] = frozenset()
    routed_by: str | None = None
    otherwise: Class = Class.RESTRICTED

    def topic(self, source: str) -> str:
        """Return the topic that carries the table's changes: `shop_catalog.public.products`."""
        return f"{source}_{self.lane}.{self.id}"

    def class_of(self, column: str) -> Class:
        """Return the class of a column, listed or not."""
        return self.columns.get(column, self.otherwise)

    @property
    def excluded(self) -> tuple[str, ...]:
        """The Restricted columns that the connector must leave out."""
        return tuple(
            name
            for name, class_ in self.columns.items()
            if class_ is Class.RESTRICTED and name not in self.captured_restricted
        )

    @property
    def shared(self) -> tuple[str, ...]:
        """The columns that every sink may hold: all but the Restricted ones."""
        return tuple(name for name, class_ in self.columns.items() if class_ is not Class.RESTRICTED)

    def route(self, sink: str) -> Route | RawRoute | None:
        """Return the route to that kind of sink, None if the table does not feed it."""
        return next((route for route in self.routes if route.sink == sink), None)
