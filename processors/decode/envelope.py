"""A decoded envelope's facts, checked: where the change stands, when it was committed, what it did. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from processors.change import LSN_BITS, Kind, Op, Stamp
from processors.decode.errors import Undecodable
from processors.decode.tail import CONNECTOR, MAX_MS, STREAMED
from processors.tables.base import Table

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def stamp_of(envelope: Mapping[str, Any], table: Table, prefix: str) -> Stamp:
    """Return the stamp of a decoded envelope; `prefix` is the topic prefix its connector must have.

    Raises:
        Undecodable: the source block is not that of this table's connector, or lacks what orders the change.
    """
    source = envelope["source"]
    _belongs(source, table, prefix)
    kind = kind_of(source)
    committed_us = _committed_us(source)
    least = 0 if kind is Kind.SNAPSHOT else 1
    lsn = _number(source, "lsn", least, (1 << LSN_BITS) - 1)
    transaction = 0 if kind is Kind.SNAPSHOT else _number(source, "txId", 0, (1 << 63) - 1)
    return Stamp(op_of(envelope, table), kind, committed_us, transaction, lsn)


def op_of(envelope: Mapping[str, Any], table: Table) -> Op:
    """Return what happened, if it is something that can happen to a row and the row is there."""
    said = envelope["op"]
    if said == "t":
        msg = (
            f"{table.id} was truncated, which names no rows: sinks keep them until `downriver verify` and a repair; "
            "publish insert, update and delete only, and use DELETE"
        )
        raise Undecodable(msg)
    try:
        return Op(said)
    except ValueError:
        raise Undecodable("op is none of c, u, d, r and t") from None


def kind_of(source: Mapping[str, Any]) -> Kind:
    """Return how the change came to be on its topic."""
    if source.get("snapshot") not in {None, STREAMED}:
        return Kind.SNAPSHOT
    return Kind.REPAIR if source.get("origin") else Kind.STREAMED


@lru_cache(1 << 12)
def moment(microseconds: int) -> datetime:
    """Return the commit time of a stamp. Cached: a transaction's rows share it."""
    return EPOCH + timedelta(microseconds=microseconds)


def _committed_us(source: Mapping[str, Any]) -> int:
    """Return the commit time, in microseconds where the connector says them."""
    milliseconds = _number(source, "ts_ms", 0, MAX_MS)
    microseconds = source.get("ts_us")
    if microseconds is None:
        return milliseconds * 1000
    if microseconds // 1000 != milliseconds:
        raise Undecodable("source.ts_us and source.ts_ms are different times")
    return int(microseconds)


def _belongs(source: Mapping[str, Any], table: Table, prefix: str) -> None:
    """Refuse a source block of another table or connector."""
    expected = {"connector": CONNECTOR, "name": prefix, "schema": table.id.schema, "table": table.id.name}
    for name, value in expected.items():
        if source.get(name) != value:
            msg = f"source.{name} is not {value}: the record belongs to another topic"
            raise Undecodable(msg)


def _number(source: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """Return a number of the source block; an absent one counts as 0."""
    value = source.get(name)
    number = 0 if value is None else value
    if isinstance(number, int) and least <= number <= most:
        return number
    msg = f"source.{name} is {'missing' if value is None else 'out of range'}: nothing orders or dates this change"
    raise Undecodable(msg)
