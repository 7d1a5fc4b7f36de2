"""The words of a comparison: entries, checks, differences. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from processors.tables import TABLES
from processors.tables.base import Class

Key = tuple[Any, ...]
"""The key of one row, document or cache entry; keys of one check compare with each other (text by code point)."""
Values = Mapping[str, Any]
"""Field → value as both sides of a check write it; equal values compare equal."""
Entry = tuple[Key, Values]
Look = tuple[Key, Values | None, Values | None]
"""A key, what the source has, what the sink shows; None: not there."""

RESTRICTED = frozenset(name for table in TABLES for name, class_ in table.columns.items() if class_ is Class.RESTRICTED)
"""Columns whose values are never shown, whichever table or cache entry they are in."""
ROW = "(row)"
"""The field of a difference where the whole row is on one side only."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one row that a sink shows otherwise than the source has it.

    Attributes:
        sink: cache, search or analytics.
        table: the table, index or cache pattern.
        key: readable; Restricted parts are masked.
        field: the column, or ROW.
        source: what the source has, shortened.
        shown: what the sink shows, shortened.
    """

    sink: str
    table: str
    key: str
    field: str
    source: str
    shown: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found.

    Attributes:
        equal: per sink, whether nothing differed for good.
        compared: per sink, rows, documents or cache entries looked at.
        differing: per sink, how many of them differed for good.
        moving: per sink, how many changed on both sides at every look, so that nothing can be said of them.
        differences: the first ones, field by field.
    """

    equal: Mapping[str, bool]
    compared: Mapping[str, int]
    differing: Mapping[str, int]
    moving: Mapping[str, int]
    differences: Sequence[Difference]

    @property
    def ok(self) -> bool:
        """Whether every sink equals the source."""
        return all(self.equal.values())


class Check(Protocol):
    """One set of rows of the source, and what a sink shows of it.

    Who calls what: `compare` reads `first_look()` to its end, then asks for the keys that differed again, any number of
    times, each time with `source_at()` and then `shown_at()`.
    """

    @property
    def sink(self) -> str:
        """The kind of sink."""

    @property
    def table(self) -> str:
        """What is compared: the table, the index, or the cache's keys."""

    @property
    def may_forget(self) -> bool:
        """Whether the sink may lack a row at any time, as a cache may."""

    def readable(self, key: Key) -> str:
        """Return the key as a person may see it: Restricted parts masked."""

    def first_look(self) -> AsyncIterator[Look]:
        """Yield every key that is on either side, with both sides' values. Memory stays bounded."""

    async def source_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return what the sink must show of these keys now; a key that must not be there is absent."""

    async def shown_at(self, keys: Sequence[Key]) -> Mapping[Key, Values]:
        """Return what a reader of the sink sees of these keys now; a key that is not there is absent."""
