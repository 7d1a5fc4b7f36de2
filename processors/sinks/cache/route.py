"""What a change means for the cache: the keys and tags that it makes stale. Pure; knows no table and does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from processors.change import Change, Kind, lsn_of
from processors.sinks.cache.keys import Template, template


@dataclass(frozen=True, slots=True)
class Invalidate:
    """Delete these keys, and every page that carries one of these tags.

    Attributes:
        transaction: PostgreSQL's 32-bit id of the transaction that made them stale, 0 where unknown (a snapshot's rows).
        lsn: of the row in PostgreSQL's log, 0 where unknown; tells an old transaction from a new one of the same id.
    """

    keys: tuple[str, ...]
    tags: tuple[str, ...]
    transaction: int
    kind: Kind
    lsn: int = 0


@dataclass(frozen=True, slots=True)
class CacheRoute:
    """The keys and tags of one table, as templates: `CacheRoute(keys=("product:{product_id}",), tags=("users:active",))`.

    Each template is filled from the row before, the row after and the key, so that a change of an e-mail or a category
    invalidates the old and the new. A row in which a column of the template was not sent or is NULL gives no key.

    Raises:
        ValueError: a template can't be used, see `keys.template`.
    """

    sink: ClassVar[str] = "cache"
    keys: tuple[str, ...]
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for text in (*self.keys, *self.tags):
            template(text)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the templates read: each must be one of the table's."""
        return frozenset(column for text in (*self.keys, *self.tags) for column in template(text).columns)

    def commands(self, change: Change) -> Sequence[Invalidate]:
        """Return one invalidation for the change, none if no template could be filled."""
        keys, tags = _filled(self.keys, change), _filled(self.tags, change)
        if not keys and not tags:
            return ()
        kind = change.origin.kind
        return (Invalidate(keys, tags, change.transaction, kind, lsn_of(change.version)),)


def _filled(texts: tuple[str, ...], change: Change) -> tuple[str, ...]:
    """Fill every template from every row of the change, each result once."""
    rows = [row for row in (change.before, change.after, change.key) if row is not None]
    filled: dict[str, None] = {}
    for text in texts:
        each: Template = template(text)
        done = None
        for row in rows:
            values = each.values(row)
            if values is not None and values != done:  # most changes leave the columns of their keys alone
                filled[each.join(values)] = None
                done = values
    return tuple(filled)
