"""Column values: every Debezium type, at its edges."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.decode.values import MAX_NUMERIC_BYTES, converter
from tests.support.columns import MONEY, decimal_type, named

TIME = "io.debezium.time."
# ruff: noqa: DTZ001 - timestamps without a zone are what some columns hold
INFINITE, MINUS_INFINITE = 9_223_372_036_825_200_000, -9_223_372_036_832_400_000

CASES: list[tuple[Any, Any, Any]] = [
    ("string", "x", "x"),
    ("int", (1 << 31) - 1, (1 << 31) - 1),
    ({"type": "int", "connect.type": "int16"}, -3, -3),
    (["null", "int"], 5, 5),
    (MONEY, b"\x07\xc6", Decimal("19.90")),
    (MONEY, b"\xff", Decimal("-0.01")),
    (MONEY, b"\x00", Decimal("0.00")),
    (decimal_type(38, 0), (10**38 - 1).to_bytes(16, "big"), Decimal(10**38 - 1)),
    (["null", MONEY], b"\x01", Decimal("0.01")),
    (named("int", f"{TIME}Date"), 0, date(1970, 1, 1)),
    (named("int", f"{TIME}Date"), -1, date(1969, 12, 31)),
    (named("int", f"{TIME}Date"), 2_932_896, date(9999, 12, 31)),
    (named("int", f"{TIME}Date"), 2_932_897, "+10000-01-01"),
    (named("int", f"{TIME}Date"), -719_163, "0000-12-31"),
    (named("int", f"{TIME}Date"), -2_440_588, "-4713-11-24"),
    (named("int", f"{TIME}Time"), 86_399_999, time(23, 59, 59, 999_000)),
    (named("long", f"{TIME}MicroTime"), 1, time(0, 0, 0, 1)),
    (named("long", f"{TIME}MicroTime"), 86_400_000_000, "24:00:00"),
    (named("long", f"{TIME}NanoTime"), 1_999, time(0, 0, 0, 1)),
    (named("string", f"{TIME}ZonedTime"), "12:00:00Z", time(12, tzinfo=UTC)),
    (named("long", f"{TIME}Timestamp"), -1, datetime(1969, 12, 31, 23, 59, 59, 999_000)),
    (named("long", f"{TIME}MicroTimestamp"), 1, datetime(1970, 1, 1, 0, 0, 0, 1)),
    (named("long", f"{TIME}NanoTimestamp"), 1_001, datetime(1970, 1, 1, 0, 0, 0, 1)),
    (named("long", f"{TIME}MicroTimestamp"), 253_402_300_800_000_000, "+10000-01-01T00:00:00"),
    (named("long", f"{TIME}MicroTimestamp"), INFINITE, "infinity"),
    (named("long", f"{TIME}MicroTimestamp"), MINUS_INFINITE, "-infinity"),
    (
        named("string", f"{TIME}ZonedTimestamp"),
        "2026-11-21T12:00:00.123456Z",
        datetime(2026, 11, 21, 12, 0, 0, 123_456, UTC),
    ),
    (named("string", f"{TIME}ZonedTimestamp"), "2026-11-21T12:00:00Z", datetime(2026, 11, 21, 12, tzinfo=UTC)),
    (
        named("string", f"{TIME}ZonedTimestamp"),
        "2026-11-21T12:00:00+05:45",
        datetime(2026, 11, 21, 12, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ),
    (named("string", f"{TIME}ZonedTimestamp"), "infinity", "infinity"),
    (named("string", f"{TIME}ZonedTimestamp"), "-infinity", "-infinity"),
    (named("string", f"{TIME}ZonedTimestamp"), "+294276-12-31T23:59:59.999999Z", "+294276-12-31T23:59:59.999999Z"),
    (named("string", f"{TIME}ZonedTimestamp"), "-4712-01-01T00:00:00Z", "-4712-01-01T00:00:00Z"),
    (named("long", f"{TIME}MicroDuration"), 61_000_001, timedelta(seconds=61, microseconds=1)),
    (named("string", "io.debezium.data.Uuid"), "0", "0"),
    (named("string", "io.debezium.data.Json"), '{"a": 1.0}', '{"a": 1.0}'),
    ({"type": "array", "items": ["null", "string"]}, ["a", None], ["a", None]),
    ({"type": "array", "items": ["null", MONEY]}, [b"\x01", None], [Decimal("0.01"), None]),
    ({"type": "array", "items": "int"}, [1, -1], [1, -1]),
]


def converted(type_: Any, value: Any) -> Any:
    convert = converter(type_)
    return value if convert is None else convert(value)


@pytest.mark.parametrize(("type_", "sent", "meant"), CASES, ids=str)
def test_a_value_means_what_its_type_says(type_: Any, sent: Any, meant: Any) -> None:
    read = converted(type_, sent)
    assert read == meant
    assert type(read) is type(meant)


@pytest.mark.parametrize(
    ("type_", "sent"),
    [
        ("int", 1 << 31),
        ({"type": "array", "items": ["null", "int"]}, [0, -(1 << 40)]),
        (MONEY, b""),
        (MONEY, bytes(7)),
        (named("int", f"{TIME}Date"), 1 << 40),
        (named("int", f"{TIME}Time"), -1),
        (named("long", f"{TIME}MicroTime"), 86_400_000_001),
        (named("string", f"{TIME}ZonedTimestamp"), "2026-11-21T12:00:00"),
        (named("string", f"{TIME}ZonedTimestamp"), "now"),
        (named("string", f"{TIME}ZonedTime"), "noon"),
    ],
    ids=str,
)
def test_what_the_type_does_not_allow_is_refused(type_: Any, sent: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each converter has its own words
        converted(type_, sent)


def test_a_numeric_without_precision() -> None:
    type_ = {
        "type": "record",
        "name": "VariableScaleDecimal",
        "connect.name": "io.debezium.data.VariableScaleDecimal",
        "fields": [],
    }
    assert converted(type_, {"scale": 3, "value": b"\x04\xd2"}) == Decimal("1.234")
    for hostile in ({"scale": 1 << 30, "value": b"\x01"}, {"scale": 0, "value": bytes(MAX_NUMERIC_BYTES + 1)}):
        with pytest.raises(ValueError, match="a numeric"):
            converted(type_, hostile)


@given(st.decimals(min_value=-99_999_999, max_value=99_999_999, places=2))
def test_money_is_exact(amount: Decimal) -> None:
    unscaled = int(amount.scaleb(2))
    sent = unscaled.to_bytes(max(1, (unscaled.bit_length() + 8) // 8), "big", signed=True)
    read = converted(MONEY, sent)
    assert (read, f"{read:.2f}") == (amount, f"{amount:.2f}".replace("-0.00", "0.00"))


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_instant_of_the_calendar_comes_back(instant: datetime) -> None:
    text = instant.isoformat().replace("+00:00", "Z")
    assert converted(named("string", f"{TIME}ZonedTimestamp"), text) == instant


@given(st.datetimes())
def test_every_timestamp_without_a_zone_comes_back(at: datetime) -> None:
    count = (at - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert converted(named("long", f"{TIME}MicroTimestamp"), count) == at
