"""A review's document: the row's columns, its version, and the mark of a delete. Pure: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from processors.change import Row
from processors.sinks.base import APPLIED, STALE, Verdict
from processors.sinks.search.document import Folded
from processors.sinks.search.recent import to_json
from processors.sinks.search.route import REVIEW_COLUMNS, ReviewRow, extras, searchable


def fold_review(_document: str, held: bytes | None, commands: Sequence[ReviewRow]) -> Folded:
    """Fold `commands`, all of one review under one product, into its document `held` (None: there is none yet).

    The newest version wins; an equal or older one is STALE, so version 0 only creates. A delete keeps key and version.
    """
    source: dict[str, Any] | None = None if held is None else orjson.loads(held)
    verdicts: list[Verdict] = []
    for row in commands:
        if source is not None and row.version <= source["version"]:
            verdicts.append(STALE)
            continue
        mark = {"product_id": row.product_id, "id": row.id, "version": row.version, "deleted": row.fields is None}
        # a column that was not sent keeps its value; one that a migration added is written each time, or NULL
        kept = {name: value for name, value in (source or {}).items() if name in REVIEW_COLUMNS}
        source = mark if row.fields is None else {**kept, **row.fields, **mark}
        verdicts.append(APPLIED)
    changed = any(verdict is APPLIED for verdict in verdicts)
    return Folded(to_json(source) if changed else None, verdicts)


def review_view(row: Row) -> dict[str, Any]:
    """Return what a reader of the index must see of a row of `reviews` that is in the source: for comparing."""
    return {"product_id": str(row["product_id"]), "id": str(row["id"])} | (
        extras(row, frozenset(REVIEW_COLUMNS)) | searchable(row, REVIEW_COLUMNS)
    )


def shown_review(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `_source` of a live review as `review_view` builds it."""
    return {name: value for name, value in source.items() if name not in ("version", "deleted")}
