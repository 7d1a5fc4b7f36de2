"""The little of ClickHouse's Native format that the front must write itself: a block without rows."""

from __future__ import annotations

from collections.abc import Sequence


def empty_block(columns: Sequence[tuple[str, str]]) -> bytes:
    """Return a block of no rows with these columns (name, type): what a server answers when nothing was found.

    Layout (ClickHouse docs, Native format): count of columns, count of rows, then name and type of each column.
    """
    return _number(len(columns)) + _number(0) + b"".join(_text(name) + _text(type_) for name, type_ in columns)


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _number(len(encoded)) + encoded
