"""Any bytes at all: an answer or Undecodable, nothing else, in bounded memory."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.change import Change, CheckedRecord, Row, Stamp
from processors.decode import Decoder, Undecodable
from processors.tables import TABLES
from tests.support.avro import Capture, Record
from tests.support.columns import COLUMNS, sample

MAX_BYTES = 4096
CAPTURE = Capture()
GOOD = [CAPTURE.record(name, "u", before=sample(name), after=sample(name)) for name in COLUMNS]
DECODER = Decoder("shop", 1, TABLES, CAPTURE.registry, MAX_BYTES)


def deliver(record: Record) -> None:
    """Take every way of a record: only Undecodable may come out, and where the long way has an answer, it is theirs too."""
    try:
        checked = DECODER.check(record)
        if checked is None:
            return
        stamp = DECODER.stamp(checked)
    except Undecodable:
        return
    meant = whole(checked, stamp._replace(rows_end=0))
    assert whole(checked, stamp) == meant
    after: Change | None = None
    with suppress(Undecodable):
        after = DECODER.change(checked, stamp, before=False)
    with suppress(Undecodable):
        before_of, after_of = DECODER.glance(checked, stamp, READ)
        if meant is not None:
            assert (before_of, after_of) == (only(meant.before, before_of), only(meant.after, after_of))
    if meant is not None:
        assert after is not None
        assert (after.key, after.after) == (meant.key, meant.after)


def whole(checked: CheckedRecord, stamp: Stamp) -> Change | None:
    """Return the decoded change, None if it can't be."""
    try:
        return DECODER.change(checked, stamp)
    except Undecodable:
        return None


READ = frozenset({"id", "category", "price", "currency", "status", "quantity", "user_id", "email", "in_stock"})
"""What a cache key or a rule may read: text, numbers, decimals."""


def only(row: Row | None, read: Row | None) -> Row | None:
    """Return of a row what was read of it."""
    return None if row is None or read is None else {name: row[name] for name in read}


edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "repeat", "overlong"]),
        st.integers(0, MAX_BYTES),
        st.binary(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
)


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """Return `data` after the changes."""
    for kind, where, some in changes:
        at = where % (len(data) + 1)
        head, rest = data[:at], data[at:]
        match kind:
            case "flip":
                data = head + bytes(a ^ b for a, b in zip(rest, some, strict=False)) + rest[len(some) :]
            case "insert":
                data = head + some + rest
            case "delete":
                data = head + rest[len(some) :]
            case "repeat":
                data = head + rest[:50] + rest
            case _:
                data = head + b"\xff" * len(some) + b"\x01" + rest
    return data


@given(st.sampled_from(GOOD), edits, st.booleans())
@settings(max_examples=600, deadline=None)
def test_a_damaged_record_is_an_answer_or_undecodable(
    good: Record, changes: list[tuple[str, int, bytes]], key: bool
) -> None:
    if key:
        deliver(replace(good, key=mutated(good.key or b"", changes)))
    else:
        deliver(replace(good, value=mutated(good.value or b"", changes)))


@given(st.sampled_from(GOOD), st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_body_under_a_known_schema(good: Record, body: bytes) -> None:
    deliver(replace(good, value=(good.value or b"")[:5] + body))
    deliver(replace(good, key=(good.key or b"")[:5] + body))


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_any_bytes(value: bytes, key: bytes) -> None:
    deliver(Record(GOOD[0].topic, 0, 0, 0, key, value))


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x02" + b"\xfe" * 8 + b"\x01",  # a string of 2**62 bytes
        b"\x00\x02" + b"\xff" * 9 + b"\x01",  # a string of -2**63 bytes
        b"\x00\x02" + b"\x80" * 4000,  # a number that never ends
    ],
)
def test_a_length_that_lies_takes_no_memory(body: bytes) -> None:
    good = next(record for record in GOOD if record.topic.endswith(".products"))
    tracemalloc.start()
    try:
        deliver(replace(good, value=(good.value or b"")[:5] + body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_text_that_is_not_utf8_is_undecodable() -> None:
    good = CAPTURE.record("orders", "c", after=sample("orders", status="pending"))
    checked = DECODER.check(replace(good, value=(good.value or b"").replace(b"pending", b"pend\xff\xfeg")))
    assert checked is not None
    with pytest.raises(Undecodable, match="not Avro of its schema"):
        DECODER.change(checked, DECODER.stamp(checked))
