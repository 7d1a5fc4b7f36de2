"""Two ordered streams, read side by side. Pure, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from downriver.exits import DownriverError
from processors.verify.model import Entry, Key, Look


async def side_by_side(source: AsyncIterator[Entry], shown: AsyncIterator[Entry]) -> AsyncIterator[Look]:
    """Yield every key of either stream once, in order, with the values of both; None where a stream lacks it.

    Raises:
        DownriverError: a stream is not ordered by key, so that nothing it says can be trusted.
    """
    left, right = _Ordered(source, "source"), _Ordered(shown, "sink")
    ours, theirs = await left.next(), await right.next()
    while ours is not None or theirs is not None:
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None  # noqa: S101 - one of the two is there, says the loop
            yield ours[0], ours[1], None
            ours = await left.next()
        elif ours is None or theirs[0] < ours[0]:
            yield theirs[0], None, theirs[1]
            theirs = await right.next()
        else:
            yield ours[0], ours[1], theirs[1]
            ours, theirs = await left.next(), await right.next()


class _Ordered:
    """A stream whose keys must rise."""

    def __init__(self, entries: AsyncIterator[Entry], name: str) -> None:
        self._entries = entries
        self._name = name
        self._last: Key | None = None

    async def next(self) -> Entry | None:
        """Return the next entry, None at the end."""
        entry = await anext(self._entries, None)
        if entry is not None:
            if self._last is not None and not self._last < entry[0]:
                msg = f"the {self._name} lists {entry[0]} after {self._last}: it is not ordered by a unique key"
                raise DownriverError(msg)
            self._last = entry[0]
        return entry
