"""Verification without servers: two streams side by side, what settles, what a difference says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from downriver.exits import BadInput, DownriverError
from downriver.output import Format
from processors.verify.analytics import micros
from processors.verify.cache import fields
from processors.verify.commands import _pages, show
from processors.verify.compare import LISTED, SHORT, differences, summed
from processors.verify.merge import side_by_side
from processors.verify.model import ROW, Entry, Key, Look, Values
from processors.verify.settle import PENDING, Found, Pending, first_look, look_again, settle
from processors.verify.source import instant

Rows = Mapping[Key, Values]


async def streamed(rows: Rows) -> AsyncIterator[Entry]:
    for key in sorted(rows):
        yield key, rows[key]


@dataclass
class Check:
    """A check whose sides say, at each look, what the test wrote down for it; the last is said for ever."""

    source: list[Rows]
    shown: list[Rows]
    sink: str = "search"
    table: str = "products"
    may_forget: bool = False
    looks: int = 0
    asked: list[Sequence[Key]] = field(default_factory=list)

    def readable(self, key: Key) -> str:
        return str(key[0])

    def at(self, sides: list[Rows]) -> Rows:
        return sides[min(self.looks, len(sides) - 1)]

    def first_look(self) -> AsyncIterator[Look]:
        return side_by_side(streamed(self.source[0]), streamed(self.shown[0]))

    async def source_at(self, keys: Sequence[Key]) -> Rows:
        self.looks += 1
        self.asked.append(keys)
        side = self.at(self.source)
        return {key: side[key] for key in keys if key in side}

    async def shown_at(self, keys: Sequence[Key]) -> Rows:
        side = self.at(self.shown)
        return {key: side[key] for key in keys if key in side}


def row(value: Any) -> Values:
    return {"price": value}


keys = st.tuples(st.text(max_size=3), st.integers(0, 3))
sides = st.dictionaries(keys, st.integers(0, 2).map(row), max_size=12)


@given(sides, sides)
async def test_side_by_side_is_a_full_outer_join_in_order(source: Rows, shown: Rows) -> None:
    looks = [look async for look in side_by_side(streamed(source), streamed(shown))]
    assert looks == [(key, source.get(key), shown.get(key)) for key in sorted({*source, *shown})]


@pytest.mark.parametrize("disorder", [[("b",), ("a",)], [("a",), ("a",)]])
async def test_a_side_that_is_out_of_order_or_repeats_a_key_is_an_error(disorder: list[Key]) -> None:
    async def stream() -> AsyncIterator[Entry]:
        for key in disorder:
            yield key, row(1)

    async def nothing() -> AsyncIterator[Entry]:
        return
        yield

    for source, shown, name in ((stream(), nothing(), "the source"), (nothing(), stream(), "the sink")):
        with pytest.raises(DownriverError, match=f"{name} lists .* not ordered by a unique key"):
            _ = [look async for look in side_by_side(source, shown)]


async def settled(check: Check, settle_s: float = 0.0) -> Found:
    found = await first_look(check)
    await settle([found], settle_s, 0.0)
    return found


async def test_equal_sides_need_one_look() -> None:
    check = Check([{("a",): row(1), ("b",): row(2)}], [{("a",): row(1), ("b",): row(2)}])
    found = await settled(check)
    assert (found.compared, found.pending, check.asked) == (2, {}, [])


async def test_what_arrives_by_the_second_look_is_no_difference() -> None:
    check = Check(
        [{("a",): row(2), ("b",): row(1)}], [{("a",): row(1), ("b",): row(1)}, {("a",): row(2), ("b",): row(1)}]
    )
    found = await settled(check)
    assert (found.lasting, check.asked) == ({}, [[("a",)]])


async def test_what_stands_still_stays() -> None:
    check = Check([{("a",): row(2), ("b",): row(1)}], [{("b",): row(1), ("c",): row(3)}])
    found = await settled(check)
    assert found.lasting == {("a",): Pending(row(2), None), ("c",): Pending(None, row(3))}


async def test_a_sink_that_moves_with_its_source_is_behind_and_not_wrong() -> None:
    check = Check([{("a",): row(2)}, {("a",): row(3)}], [{("a",): row(1)}, {("a",): row(2)}])
    found = await settled(check)
    assert found.lasting == {}
    assert found.pending == {("a",): Pending(row(3), row(2), moving=True)}
    result = summed(["search"], [found])
    assert (result.equal, result.moving) == ({"search": True}, {"search": 1})


async def test_a_sink_that_stands_while_its_source_moves_is_wrong() -> None:
    check = Check([{("a",): row(2)}, {("a",): row(3)}], [{("a",): row(1)}])
    assert (await settled(check)).lasting == {("a",): Pending(row(3), row(1))}


async def test_it_looks_again_until_the_time_is_over() -> None:
    late: list[Rows] = [{("a",): row(1)}] * 5
    check = Check([{("a",): row(2)}], [*late, {("a",): row(2)}])
    assert (await settled(check, settle_s=60.0)).lasting == {}
    assert len(check.asked) == 5


@pytest.mark.parametrize("may_forget", [True, False])
async def test_only_a_cache_may_forget(may_forget: bool) -> None:
    check = Check([{("a",): row(2)}], [{("a",): row(1)}, {}], may_forget=may_forget)
    assert bool((await settled(check)).lasting) is not may_forget


async def test_memory_is_bounded_and_the_count_is_true() -> None:
    many: Rows = {(number,): row(1) for number in range(PENDING + 7)}
    found = await first_look(Check([many], [{}]))
    assert (len(found.pending), found.beyond, found.compared) == (PENDING, 7, PENDING + 7)
    await look_again(found)
    result = summed(["search", "cache"], [found])
    assert result.differing == {"search": PENDING + 7, "cache": 0}
    assert (result.equal, result.ok) == ({"search": False, "cache": True}, False)
    assert len(result.differences) == LISTED


def test_a_difference_names_each_field_once_and_shows_no_restricted_value() -> None:
    check = Check([], [])
    source: Values = {"price": "1.00", "email": "a@example.com", "same": 1, "gone": None, "bytes": b"12345"}
    shown: Values = {"price": "2" * 500, "email": "b@example.com", "same": 1, "new": [1], "bytes": b"123"}
    found = differences(check, ("7",), Pending(source, shown))
    assert [(each.field, each.source, each.shown) for each in found] == [
        ("price", "1.00", "2" * (SHORT - 1) + "…"),
        ("email", "***", "***"),
        ("gone", "None", "absent"),
        ("bytes", "5 bytes", "3 bytes"),
        ("new", "absent", "[1]"),
    ]
    assert {(each.sink, each.table, each.key) for each in found} == {("search", "products", "7")}
    (whole,) = differences(check, ("7",), Pending(None, shown))
    assert (whole.field, whole.source, whole.shown) == (ROW, "absent", "present")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-11-21 12:00:00.123456+00", datetime(2026, 11, 21, 12, 0, 0, 123_456, UTC)),
        ("0001-01-01 00:00:00+00", datetime(1, 1, 1, tzinfo=UTC)),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("294276-12-31 23:59:59.5+00", "+294276-12-31T23:59:59.500000Z"),
        ("4714-11-24 00:00:00+00 BC", "-4713-11-24T00:00:00.000000Z"),
        ("0001-12-31 00:00:00+00 BC", "0000-12-31T00:00:00.000000Z"),
    ],
)
def test_instants_are_read_as_the_decoder_reads_them(text: str, meant: datetime | str) -> None:
    assert instant(text) == meant


def test_instants_beyond_clickhouse_are_at_its_ends() -> None:
    last = 10_413_791_999_999_999
    first = -2_208_988_800_000_000
    assert micros(datetime(1970, 1, 1, 0, 0, 1, 2, UTC)) == 1_000_002
    for far in ("infinity", "+294276-12-31T23:59:59.999999Z", datetime(9999, 12, 31, tzinfo=UTC)):
        assert micros(far) == last
    for far in ("-infinity", "-4713-11-24T00:00:00Z", "0000-12-31T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)):
        assert micros(far) == first


def test_cached_values_differ_by_field_and_by_byte() -> None:
    assert fields(b'{"a": 1, "b": [2]}') == {"a": 1, "b": [2], "bytes": b'{"a": 1, "b": [2]}'}
    assert fields(b'{"a": 1.0}') != fields(b'{"a": 1.00}')
    assert fields(b"[1]") == {"value": b"[1]"}
    assert fields(b"not JSON") == {"value": b"not JSON"}
    assert fields(None) == {"value": None}


def test_the_command_says_what_pages_it_lacks() -> None:
    with pytest.raises(BadInput, match="there is no module shop_of_nobody"):
        _pages("shop_of_nobody")
    with pytest.raises(BadInput, match="no function parse and no load"):
        _pages("json.decoder")


async def test_the_report_shows_counts_and_differences(capsys: pytest.CaptureFixture[str]) -> None:
    found = await settled(Check([{("a",): row("1.00")}], [{("a",): row("2.00")}]))
    result = summed(["search"], [found])
    show(result, Format.JSON)
    printed = capsys.readouterr().out
    assert '"ok": false' in printed
    assert '"field": "price"' in printed
    show(result, Format.TABLE)
    printed = capsys.readouterr().out
    assert "DIFFERING" in printed
    assert "2.00" in printed
