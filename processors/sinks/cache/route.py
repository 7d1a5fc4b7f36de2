"""What a change means for the cache: the keys and tags that it makes stale. Pure; knows no table and does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from processors.change import Change, Kind, Row, lsn_of
from processors.sinks.cache.keys import Template, template


class Invalidate(NamedTuple):
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
    _keys: tuple[Template, ...] = field(init=False, repr=False, compare=False)
    _tags: tuple[Template, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", tuple(template(text) for text in self.keys))
        object.__setattr__(self, "_tags", tuple(template(text) for text in self.tags))

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the templates read: each must be one of the table's."""
        return frozenset(column for each in (*self._keys, *self._tags) for column in each.columns)

    def commands(self, change: Change) -> Sequence[Invalidate]:
        """Return one invalidation for the change, none if no template could be filled."""
        rows = [row for row in (change.before, change.after, change.key) if row is not None]
        keys, tags = _filled(self._keys, rows), _filled(self._tags, rows)
        if not keys and not tags:
            return ()
        return (Invalidate(keys, tags, change.transaction, change.origin.kind, lsn_of(change.version)),)


def _filled(templates: tuple[Template, ...], rows: Sequence[Row]) -> tuple[str, ...]:
    """Fill every template from every row of the change, each result once."""
    filled: list[str] = []
    for each in templates:
        done = None
        for row in rows:
            values = each.values(row)
            if values is not None and values != done:  # most changes leave the columns of their keys alone
                filled.append(each.join(values))
                done = values
    return tuple(dict.fromkeys(filled)) if len(filled) > 1 else tuple(filled)
