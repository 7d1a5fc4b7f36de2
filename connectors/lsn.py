"""Positions in PostgreSQL's write-ahead log: a number to compare, `hi/lo` for people."""

from __future__ import annotations


def parse(text: str) -> int:
    """Read `0/16B3748`; raises ValueError for anything else."""
    high, slash, low = text.partition("/")
    if not slash or len(high) > 8 or len(low) > 8:
        raise ValueError(text)
    return int(high, 16) << 32 | int(low, 16)


def told(lsn: int) -> str:
    """Return an LSN as PostgreSQL writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def size(count: int) -> str:
    """Return bytes for people: `6.4 MiB`, `64 MiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.0f} TiB" if amount >= 10 else f"{amount:.1f} TiB"
