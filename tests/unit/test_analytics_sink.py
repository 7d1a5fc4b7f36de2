"""The sink's verdicts: what is halved, what waits, what is a dead letter. ClickHouse is played by a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from hypothesis import given, settings
from hypothesis import strategies as st

from downriver.settings import Clickhouse, Settings, with_local_addresses
from processors.change import CheckedRecord, Kind, Op, TableId
from processors.sinks.analytics.grow import Parts
from processors.sinks.analytics.route import AnalyticsRecord, AnalyticsRow
from processors.sinks.analytics.sink import AnalyticsSink
from processors.sinks.analytics.store import Refused, Store
from processors.sinks.base import APPLIED, Outcome, SinkUnavailable
from tests.support.avro import Capture, table
from tests.support.columns import sample

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
SETTINGS = with_local_addresses(Settings())


class Played:
    """A store that keeps what it is given and refuses what it is told to."""

    address = "ClickHouse at nowhere"

    def __init__(self, columns: Mapping[str, str], refuse: frozenset[bytes] = frozenset()) -> None:
        self.columns, self.refuse = columns, refuse
        self.inserts: list[Sequence[bytes]] = []
        self.rows: list[list[Any]] = []
        self.grown: list[str] = []
        self.whole_schema = False

    def parts(self, table: str) -> Parts:
        return Parts(self.columns, self.columns, self.columns, tuple(self.columns))

    def grow(self, statements: Sequence[str]) -> None:
        self.grown.extend(statements)

    def insert_raw(self, statement: str, values: Sequence[bytes]) -> None:
        self.inserts.append(values)
        if self.whole_schema or self.refuse & set(values):
            raise Refused("Code: 376. no", whole_schema=self.whole_schema)

    def insert_columns(self, table: str, names: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
        self.rows.extend(list(row) for row in zip(*columns, strict=True))


def sink_over(store: Played) -> AnalyticsSink:
    sink = AnalyticsSink(SETTINGS)
    sink._store = store  # type: ignore[assignment]
    return sink


def records(capture: Capture, count: int, name: str = "inventory") -> list[AnalyticsRecord]:
    made = [capture.record(name, "c", after=sample(name, quantity=number)) for number in range(count)]
    return [checked(capture, record.value or b"", name, record) for record in made]


def checked(capture: Capture, value: bytes, name: str, record: Any) -> AnalyticsRecord:
    schema_id = int.from_bytes(value[1:5], "big")
    return AnalyticsRecord(CheckedRecord(record, table(name).id, schema_id, capture.registry.schema(schema_id)))


COLUMNS = {"product_id": "UUID", "warehouse_id": "Int32", "quantity": "Int32"}


async def test_a_batch_of_one_schema_is_one_insert() -> None:
    store = Played(COLUMNS)
    batch = records(Capture(), 5)
    assert await sink_over(store).write(batch) == [APPLIED] * 5
    assert store.inserts == [[command.checked.value for command in batch]]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.data())
async def test_refused_records_are_found_and_all_others_are_written(count: int, data: st.DataObject) -> None:
    batch = records(Capture(), count)
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    store = Played(COLUMNS, frozenset(batch[number].checked.value for number in bad))
    verdicts = await sink_over(store).write(batch)
    assert {number for number, verdict in enumerate(verdicts) if verdict.outcome is Outcome.REJECTED} == bad
    assert all("376" in verdicts[number].reason for number in bad)
    written = [value for insert in store.inserts if not store.refuse & set(insert) for value in insert]
    assert sorted(written) == sorted(batch[number].checked.value for number in range(count) if number not in bad)


async def test_what_every_record_fails_with_is_not_halved() -> None:
    store = Played(COLUMNS)
    store.whole_schema = True
    verdicts = await sink_over(store).write(records(Capture(), 64))
    assert [verdict.outcome for verdict in verdicts] == [Outcome.REJECTED] * 64
    assert len(store.inserts) == 1


async def test_a_batch_may_mix_tables_schemas_and_decoded_rows() -> None:
    capture = Capture()
    first = records(capture, 2)
    capture.columns["inventory"] = capture.columns["inventory"] | {
        "note": {"type": ["null", "string"], "default": None}
    }
    later = capture.record("inventory", "c", after=sample("inventory") | {"note": "x"})
    row = AnalyticsRow(TableId("public", "users"), Op.CREATE, {"quantity": 3}, None, 5, AT, 1, Kind.STREAMED)
    store = Played(COLUMNS)
    batch: list[AnalyticsRecord | AnalyticsRow] = [
        first[0],
        row,
        checked(capture, later.value or b"", "inventory", later),
        first[1],
    ]
    assert await sink_over(store).write(batch) == [APPLIED] * 4
    assert store.inserts == [[first[0].checked.value, first[1].checked.value], [later.value]]
    assert store.rows == [[3, "c", "streamed", 5, 0, AT, 1, {}]]


async def test_records_of_a_table_without_a_history_wait_for_the_migration() -> None:
    store = Played({})
    sink = sink_over(store)
    with pytest.raises(SinkUnavailable, match="no table inventory_history: add a migration"):
        await sink.write(records(Capture(), 1))
    store.columns = COLUMNS
    assert await sink.write(records(Capture(), 1)) == [APPLIED]


async def test_an_unreadable_schema_is_a_dead_letter_with_its_reason() -> None:
    capture = Capture()
    (command,) = records(capture, 1)
    broken = CheckedRecord(command.checked.record, command.checked.table, 1, {"name": "Flat", "fields": []})
    (verdict,) = await sink_over(Played(COLUMNS)).write([AnalyticsRecord(broken)])
    assert verdict.outcome is Outcome.REJECTED
    assert "Flat is no Debezium envelope" in verdict.reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DatabaseError("too many parts", code=252), SinkUnavailable),
        (DatabaseError("the registry is away", code=210), SinkUnavailable),
        (DatabaseError("a bare 502", code=None), SinkUnavailable),
        (OperationalError("connection refused"), SinkUnavailable),
        (ConnectionResetError("reset"), SinkUnavailable),
        (DatabaseError("bad number", code=27), Refused),
        (DatabaseError("bad type", code=53), Refused),
    ],
)
def test_what_an_error_means(error: Exception, expected: type[Exception]) -> None:
    class Failing:
        def raw_insert(self, *_: Any, **__: Any) -> None:
            raise error

    store = Store(Clickhouse(host="ch.example", port=8123), 1)
    store._client = Failing()  # type: ignore[assignment]
    with pytest.raises(expected, match=str(error)) as raised:
        store.insert_raw("INSERT", [b""])
    if expected is SinkUnavailable:
        assert "ch.example:8123" in str(raised.value)
    else:
        assert isinstance(raised.value, Refused)
        assert raised.value.whole_schema is (error.args[0] == "bad type")


async def test_tables_are_inserted_into_side_by_side_and_all_are_waited_for() -> None:
    class Meeting(Played):
        """Each table's insert waits until the other one's has begun; that of `orders` finds the server away."""

        def __init__(self) -> None:
            super().__init__(COLUMNS)
            self.both, self.ended = Barrier(2, timeout=10), 0

        def insert_raw(self, statement: str, values: Sequence[bytes]) -> None:
            self.both.wait()
            if "`orders_history`" in statement:
                raise SinkUnavailable("away")
            self.ended += 1

    capture, store = Capture(), Meeting()
    orders = capture.record("orders", "c", after=sample("orders"))
    batch = [*records(capture, 2), checked(capture, orders.value or b"", "orders", orders)]
    with pytest.raises(SinkUnavailable, match="away"):
        await sink_over(store).write(batch)
    assert store.ended == 1
