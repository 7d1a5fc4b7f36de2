"""The end of an envelope, read without decoding the rows before it: what rules and cache need of every record.

Behind the two rows an envelope holds nothing that users write: the source block, the transaction block, op and times.
The source block starts with version, connector and the topic prefix; the last place where the three stand one after the
other is the true one, whatever a row contains, as nothing behind them can hold the word "postgresql" again
(`Tail.learn` makes sure). From there one pattern, built from the schema, must match to the record's very end. Anything
unusual does not match, and the caller decodes the whole record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from processors.change import LSN_BITS, Kind, Op, Stamp

CONNECTOR = "postgresql"
NUMBER = rb"[\x80-\xff]{0,8}[\x00-\x7f]"
"""An Avro int or long of up to 9 bytes, all but some random 64-bit numbers."""
SEQUENCE = rb'\[(?:null|"[0-9]{1,20}"),(?:null|"[0-9]{1,20}")\]'
"""Debezium's `source.sequence`: the last commit's LSN and the record's own. At most 47 bytes: its length takes one."""
SNAPSHOTS = ("true", "first", "first_in_data_collection", "last_in_data_collection", "last", "incremental")
STREAMED = "false"
MAX_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""
MAX_LSN = 1 << LSN_BITS
CAPTURED = ("ts_ms", "ts_us", "snapshot", "length", "sequence", "txId", "lsn", "op")
"""What the pattern captures."""
NEVER = b"(?P<ts_us>(?!))?"
"""Captures nothing: for connectors that don't say microseconds."""
OPS = {op.value.encode(): op for op in Op}


@dataclass(frozen=True, slots=True)
class Tail:
    """Reads stamps of one topic's records under one schema. Build it with `learn`."""

    start: bytes
    match: Any
    groups: tuple[int, ...]

    def read(self, value: bytes) -> Stamp | None:
        """Return the stamp of a framed envelope, None if it must be decoded to know it."""
        start = value.rfind(self.start)
        found = self.match(value, start)
        if found is None:
            return None
        committed, exact, snapshot, length, sequence, transaction, lsn, op = found.group(*self.groups)
        if sequence is not None and length[0] >> 1 != len(sequence):
            return None
        committed_us = _microseconds(committed, exact)
        position = number(lsn) if lsn else 0
        if committed_us is None or not 0 <= position < MAX_LSN:
            return None
        if snapshot is not None:
            return Stamp(OPS[op], Kind.SNAPSHOT, committed_us, 0, position, start)
        transaction_id = shared_number(transaction) if transaction else 0
        if not position or transaction_id < 0:
            return None
        return Stamp(OPS[op], Kind.STREAMED, committed_us, transaction_id, position, start)

    @classmethod
    def learn(cls, parsed: Mapping[str, Any], source: Mapping[str, Any]) -> Tail | None:
        """Build it from a parsed envelope schema and one decoded source block; None if the schema does not allow it."""
        constant = {name: source[name] for name in ("version", "connector", "name", "db", "schema", "table")}
        if constant["connector"] != CONNECTOR or any(CONNECTOR in constant[name] for name in ("db", "schema", "table")):
            return None
        envelope = [(each["name"], each["type"]) for each in parsed["fields"]]
        names = [name for name, _ in envelope]
        if names[:3] != ["before", "after", "source"]:
            return None
        block = [(each["name"], each["type"]) for each in envelope[2][1]["fields"]]
        if [name for name, _ in block[:3]] != ["version", "connector", "name"]:
            return None
        parts = [_part(name, type_, constant) for name, type_ in block]
        parts += [_part("op" if name == "op" else f"envelope {name}", type_, constant) for name, type_ in envelope[3:]]
        pattern = b"".join(part or b"" for part in parts)
        if b"(?P<ts_us>" not in pattern:
            pattern += NEVER
        compiled = re.compile(pattern + rb"\Z", re.DOTALL)
        if None in parts or set(compiled.groupindex) != set(CAPTURED):
            return None
        start = b"".join(_string(constant[name]) for name in ("version", "connector", "name"))
        return cls(start, compiled.match, tuple(compiled.groupindex[name] for name in CAPTURED))


@lru_cache(1 << 12)
def _microseconds(committed: bytes, exact: bytes | None) -> int | None:
    """Return the commit time; None if it is none, or two times that differ. Cached: a transaction's rows share it."""
    milliseconds = number(committed)
    if not 0 <= milliseconds <= MAX_MS:
        return None
    microseconds = number(exact) if exact else milliseconds * 1000
    return microseconds if microseconds // 1000 == milliseconds else None


def number(data: bytes) -> int:
    """Return the Avro int or long (zigzag, 7 bits a byte, lowest first) that `data` is."""
    read = 0
    for byte in reversed(data):
        read = read << 7 | byte & 0x7F
    return read >> 1 ^ -(read & 1)


shared_number = lru_cache(1 << 12)(number)
"""For what all rows of a transaction share."""


def _string(text: str) -> bytes:
    """Return `text` as Avro writes it."""
    encoded = text.encode()
    return _zigzag(len(encoded)) + encoded


def _zigzag(count: int) -> bytes:
    """Return a small natural number as Avro writes it."""
    rest, written = count << 1, bytearray()
    while rest > 0x7F:
        written.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((*written, rest))


def _part(name: str, type_: Any, constant: Mapping[str, str]) -> bytes | None:
    """Return the pattern of one field; None if the field can't be told from what follows it."""
    if name in constant:
        return re.escape(_string(constant[name])) if _kind(type_) == "string" else None
    if name == "op":
        return rb"\x02(?P<op>[cudr])"
    if isinstance(type_, list):
        return _optional_part(name, type_)
    if _kind(type_) not in {"int", "long"}:
        return None
    return b"(?P<ts_ms>" + NUMBER + b")" if name == "ts_ms" else NUMBER


def _optional_part(name: str, branches: list[Any]) -> bytes | None:
    """Return the pattern of a field that may be null."""
    by_kind = {_kind(branch): re.escape(_zigzag(index)) for index, branch in enumerate(branches)}
    null, long, string = (by_kind.get(kind) for kind in ("null", "long", "string"))
    if null is None:
        return None
    some = null  # an origin, a transaction block, what a later Debezium adds: where it has a value, decode the record
    if name == "snapshot" and string:
        others = b"|".join(re.escape(_string(each)) for each in SNAPSHOTS)
        some = string + b"(?:" + re.escape(_string(STREAMED)) + b"|(?P<snapshot>" + others + b"))"
    elif name == "sequence" and string:
        some = string + rb"(?P<length>[\x00-\x7f])(?P<sequence>" + SEQUENCE + b")"
    elif name in {"txId", "lsn", "ts_us"} and long:
        some = long + f"(?P<{name}>".encode() + NUMBER + b")"
    elif long:
        some = long + NUMBER
    return b"(?:" + null + b"|" + some + b")"


def _kind(type_: Any) -> str:
    """Return the name of the Avro type below attributes."""
    return str(type_) if isinstance(type_, str) else _kind(type_["type"])
