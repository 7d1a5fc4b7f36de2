"""Decoded rows as columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from processors.change import Kind, Op, TableId
from processors.sinks.analytics import decoded, raw
from processors.sinks.analytics.decoded import EARLIEST, LATEST, columns_of, old_values, text, value
from processors.sinks.analytics.grow import Growth, growth
from processors.sinks.analytics.route import AnalyticsRow

AT = datetime(2026, 11, 21, 12, 0, 0, 5, tzinfo=UTC)
COLUMNS = {
    "id": "UUID",
    "status": "LowCardinality(String)",
    "deleted_at": "Nullable(DateTime64(6, 'UTC'))",
    "_op": "LowCardinality(String)",
}


def row(op: Op, held: dict[str, Any], before: dict[str, Any] | None = None, version: int = 9) -> AnalyticsRow:
    return AnalyticsRow(TableId("public", "users"), op, held, before, version, AT, 7, Kind.STREAMED)


def test_rows_become_columns_with_their_bookkeeping() -> None:
    names, columns = columns_of(
        [
            row(
                Op.UPDATE,
                {"id": "a", "status": "deleted", "deleted_at": AT},
                {"id": "a", "status": "active", "deleted_at": None},
            ),
            row(Op.DELETE, {"id": "b", "status": "x", "deleted_at": None, "unknown": 1}, version=8),
        ],
        COLUMNS,
    )
    assert dict(zip(names, columns, strict=True)) == {
        "id": ["a", "b"],
        "status": ["deleted", "x"],
        "deleted_at": [AT, None],
        "_op": ["u", "d"],
        "_kind": ["streamed", "streamed"],
        "_version": [9, 8],
        "_is_deleted": [0, 1],
        "_committed_at": [AT, AT],
        "_transaction": [7, 7],
        "_before": [{"status": "active", "deleted_at": None}, {}],
    }


def test_the_bookkeeping_columns_are_those_of_the_raw_path() -> None:
    names, _ = columns_of([row(Op.CREATE, {"id": "a"})], COLUMNS)
    assert tuple(names[1:]) == raw.BOOKKEEPING


def test_only_an_update_has_old_values_and_only_of_columns_that_were_sent_both_times() -> None:
    assert old_values(row(Op.UPDATE, {"a": 1, "b": 2}, {"a": 0, "c": 3}), ["a", "b", "c"]) == {"a": "0"}
    assert old_values(row(Op.DELETE, {"a": 1}), ["a"]) == {}
    assert old_values(row(Op.CREATE, {"a": 1}), ["a"]) == {}


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (None, None),
        ("ü", "ü"),
        (
            datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5, minutes=45))),
            "2026-01-01T21:19:05.000006Z",
        ),
        (True, "true"),
        (Decimal("1E+2"), "100"),
        (Decimal("12.30"), "12.30"),
        (7, "7"),
    ],
)
def test_old_values_are_text_as_the_envelope_has_it(held: Any, expected: str | None) -> None:
    assert text(held) == expected


@pytest.mark.parametrize(
    ("held", "stored"),
    [
        ("infinity", LATEST),
        ("-infinity", EARLIEST),
        ("+12345-01-01T00:00:00Z", LATEST),
        ("-0044-03-15T12:00:00Z", EARLIEST),
        ("0000-01-01T00:00:00Z", EARLIEST),
        (datetime(2300, 1, 1, tzinfo=UTC), LATEST),
        (datetime(1899, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), EARLIEST),
        (AT, AT),
        (None, None),
    ],
)
def test_times_that_clickhouse_can_t_hold_are_clamped(held: Any, stored: datetime | None) -> None:
    assert value(held, "Nullable(DateTime64(6, 'UTC'))") == stored


def test_both_paths_clamp_alike() -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert epoch + timedelta(microseconds=raw.EARLIEST_US) == decoded.EARLIEST
    assert epoch + timedelta(microseconds=raw.LATEST_US) == decoded.LATEST


def test_what_rows_hold_makes_their_table_grow() -> None:
    columns = {"id": "UUID", "status": "String", "points": "Int32", "sum": "Decimal(10, 2)", "at": "Nullable(Date32)"}
    held = {"id": "a", "status": None, "points": 2**40, "sum": Decimal("123456789.125"), "new": True, "empty": None}
    read = decoded.fields([row(Op.CREATE, held), row(Op.CREATE, {"id": "b", "status": "x", "points": 1})], columns)
    grows = growth(columns, read, ["id"])
    assert grows.added == {"new": "Nullable(Bool)"}
    assert grows.modified == {"status": "Nullable(String)", "points": "Int64", "sum": "Decimal(12, 3)"}
    assert growth(columns, decoded.fields([row(Op.CREATE, {"id": "b"})], columns), ["id"]) == Growth({}, {})
