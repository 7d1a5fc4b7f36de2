"""Recent documents with their sequence numbers, so that a hot document is not read before every write. Pure memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import orjson

ENTRY_BYTES = 400
"""What a kept document takes besides its JSON, measured."""


def to_json(value: Any) -> bytes:
    """Return the value as JSON in no more memory than it takes: orjson's own bytes keep the 8 KB they were written into."""
    return memoryview(orjson.dumps(value)).tobytes()


class Held(NamedTuple):
    """A document as the index held it.

    Attributes:
        source: its JSON. Bytes, so that two writers can't change it under each other, and its size is known.
        seq_no, primary_term: what a conditional write names (`if_seq_no`, `if_primary_term`).
    """

    source: bytes
    seq_no: int
    primary_term: int


class Recent:
    """The documents used last, up to `limit_bytes` in memory; the rest is forgotten, which costs a read and nothing else."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._bytes = 0

    def get(self, document: str) -> Held | None:
        """Return the document, None if it is not known."""
        held = self._held.get(document)
        if held is not None:
            self._held.move_to_end(document)
        return held

    def put(self, document: str, held: Held) -> None:
        """Keep the document, unless a newer one is kept already: a slow read must not replace a later write."""
        kept = self._held.get(document)
        if kept is not None and (kept.primary_term, kept.seq_no) > (held.primary_term, held.seq_no):
            return
        self._forget(document)
        self._held[document] = held
        self._bytes += len(held.source) + ENTRY_BYTES
        while self._bytes > self._limit_bytes:
            self._forget(next(iter(self._held)))

    def refute(self, document: str, tried: Held | None) -> None:
        """Forget the document if it is still the one that `tried`, in vain, to be the current one."""
        if tried is not None and self._held.get(document) == tried:
            self._forget(document)

    def _forget(self, document: str) -> None:
        held = self._held.pop(document, None)
        if held is not None:
            self._bytes -= len(held.source) + ENTRY_BYTES
