"""Column values: from what Avro decoding gives to what `processors.change.Row` promises.

A column's meaning is its Kafka Connect name ("connect.name"), as Debezium's PostgreSQL connector documents it with
`time.precision.mode=adaptive` and `decimal.handling.mode=precise`. Knows types, no tables and no envelope.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal
from typing import Any

Convert = Callable[[Any], Any]

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a timestamp without a zone is no instant
EPOCH_DAY = date(1970, 1, 1)
POSITIVE_INFINITY, NEGATIVE_INFINITY = 9_223_372_036_825_200_000, -9_223_372_036_832_400_000
"""What Debezium sends for 'infinity' and '-infinity' in a column without a zone (documentation, "Temporal types"), or beyond."""
FAR_INSTANT = re.compile(r"[+-]?\d{4,9}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
MAX_NUMERIC_BYTES = 10_000
"""24,000 digits. PostgreSQL's numeric holds more, but turning digits into Decimal takes quadratic time: a record full of
longer numbers would hold up its partition for minutes."""
EXACT = Context(prec=200_000)


def converter(type_: Any) -> Convert | None:
    """Return what turns a value of this Avro type (as fastavro parses it) into a Row's; None if it is right already."""
    if isinstance(type_, list):
        some = [branch for branch in type_ if branch != "null"]
        return converter(some[0]) if len(some) == 1 else None
    if isinstance(type_, str):
        return int32 if type_ == "int" else None
    name = type_.get("connect.name", "")
    if name == "org.apache.kafka.connect.data.Decimal":
        parameters = type_["connect.parameters"]
        precision = parameters.get("connect.decimal.precision")
        return _decimal(int(parameters["scale"]), None if precision is None else int(precision))
    if name in _BY_NAME:
        return _BY_NAME[name]
    if type_["type"] == "array":
        item = converter(type_["items"])
        return None if item is None else lambda items: [None if value is None else item(value) for value in items]
    return converter(type_["type"]) if type_["type"] in {"int", "long"} else None


def int32(value: int) -> int:
    """Return an Avro int, which fastavro accepts up to 64 bits."""
    if -(1 << 31) <= value < 1 << 31:
        return value
    msg = "an int of more than 32 bits"
    raise ValueError(msg)


def _decimal(scale: int, precision: int | None = None) -> Convert:
    """Return what reads a two's complement, big-endian number without its point; `precision` in digits, if declared."""
    limit = MAX_NUMERIC_BYTES if precision is None else min(MAX_NUMERIC_BYTES, precision * 5 // 12 + 2)

    def convert(value: bytes) -> Decimal:
        if not 0 < len(value) <= limit:
            msg = f"a numeric of {len(value)} bytes"
            raise ValueError(msg)
        return Decimal(int.from_bytes(value, "big", signed=True)).scaleb(-scale, EXACT)

    return convert


def _variable_decimal(value: Mapping[str, Any]) -> Decimal:
    """Read io.debezium.data.VariableScaleDecimal, which a numeric without precision comes as."""
    scale = int(value["scale"])
    if abs(scale) > 150_000:
        msg = "a numeric with a scale that PostgreSQL can't hold"
        raise ValueError(msg)
    made: Decimal = _decimal(scale)(value["value"])
    return made


def _date(days: int) -> date | str:
    """Read days since the epoch; a day beyond Python's calendar stays text."""
    try:
        return EPOCH_DAY + timedelta(days=int32(days))
    except OverflowError:
        return _iso_days(days)


def _timestamp(per_second: int) -> Convert:
    """Return what reads a timestamp without a zone, a count since the epoch."""

    def convert(count: int) -> datetime | str:
        if count >= POSITIVE_INFINITY:
            return "infinity"
        if count <= NEGATIVE_INFINITY:
            return "-infinity"
        microseconds = count * 1_000_000 // per_second
        try:
            return EPOCH + timedelta(microseconds=microseconds)
        except OverflowError:
            days, rest = divmod(microseconds, 86_400_000_000)
            return f"{_iso_days(days)}T{(EPOCH + timedelta(microseconds=rest)).time().isoformat()}"

    return convert


def _iso_days(days: int) -> str:
    """Return a day beyond the years 1 to 9999 in ISO 8601: `+294276-12-31`, `-4712-01-01`."""
    cycles, rest = divmod(days, 146_097)  # the Gregorian calendar repeats every 400 years, which are 146,097 days
    day = EPOCH_DAY + timedelta(days=rest)
    year = day.year + 400 * cycles
    sign = "+" if year > 9999 else "-" if year < 0 else ""
    return f"{sign}{abs(year):04d}-{day.month:02d}-{day.day:02d}"


def _time(per_second: int) -> Convert:
    """Return what reads a time of day, a count since midnight; 24:00:00, which PostgreSQL knows, stays text."""

    def convert(count: int) -> time | str:
        microseconds = count * 1_000_000 // per_second
        if microseconds == 86_400_000_000:
            return "24:00:00"
        if not 0 <= microseconds < 86_400_000_000:
            msg = "a time of day outside of 24 hours"
            raise ValueError(msg)
        return (EPOCH + timedelta(microseconds=microseconds)).time()

    return convert


def _zoned_timestamp(text: str) -> datetime | str:
    """Read an ISO 8601 instant; 'infinity', '-infinity' and years beyond 1 to 9999 stay text."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        if text in {"infinity", "-infinity"} or FAR_INSTANT.fullmatch(text):
            return text
        msg = "a timestamp that is not ISO 8601"
        raise ValueError(msg) from None
    if read.tzinfo is None:
        msg = "a timestamp without its zone"
        raise ValueError(msg)
    return read


def _micro_duration(count: int) -> timedelta:
    return timedelta(microseconds=count)


_BY_NAME: dict[str, Convert] = {
    "io.debezium.data.VariableScaleDecimal": _variable_decimal,
    "io.debezium.time.Date": _date,
    "io.debezium.time.Time": _time(1_000),
    "io.debezium.time.MicroTime": _time(1_000_000),
    "io.debezium.time.NanoTime": _time(1_000_000_000),
    "io.debezium.time.ZonedTime": time.fromisoformat,
    "io.debezium.time.Timestamp": _timestamp(1_000),
    "io.debezium.time.MicroTimestamp": _timestamp(1_000_000),
    "io.debezium.time.NanoTimestamp": _timestamp(1_000_000_000),
    "io.debezium.time.ZonedTimestamp": _zoned_timestamp,
    "io.debezium.time.MicroDuration": _micro_duration,
    "org.apache.kafka.connect.data.Date": _date,
    "org.apache.kafka.connect.data.Time": _time(1_000),
    "org.apache.kafka.connect.data.Timestamp": _timestamp(1_000),
}


def placeholders(text: str) -> tuple[Any, ...]:
    """Return every form in which Debezium's placeholder `text` says "not sent": text, bytes, and arrays of these."""
    encoded = text.encode()
    return text, encoded, [text], list(encoded)
