"""Analytics routes: pure, and strict about columns."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from processors.change import Change, CheckedRecord, Kind, Op, Origin, Row, TableId
from processors.sinks.analytics.route import AnalyticsRecord, DecodedAnalytics, RawAnalytics
from processors.sinks.base import RawRoute, Route
from processors.tables import TABLES
from tests.support.avro import Capture, table
from tests.support.columns import sample

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
USERS = TableId("public", "users")


def change(op: Op, before: Row | None, after: Row | None, kind: Kind = Kind.STREAMED) -> Change:
    row = after or before or {}
    return Change("shop", USERS, op, {"id": row["id"]}, before, after, 17, AT, 5, Origin("t", 0, 0, kind))


def test_a_raw_route_hands_on_the_record_itself() -> None:
    capture = Capture()
    record = capture.record("orders", "c", after=sample("orders"))
    checked = CheckedRecord(record, table("orders").id, 1, capture.registry.schema(1))
    route = RawAnalytics()
    assert route.raw(checked) == (AnalyticsRecord(checked),)
    assert isinstance(route, RawRoute)
    assert isinstance(DecodedAnalytics(("id",)), Route)


def test_a_decoded_row_holds_the_chosen_columns_and_what_orders_it() -> None:
    before = {"id": "1", "email": "a@b", "status": "active"}
    after = {"id": "1", "email": "c@d", "status": "deleted"}
    (row,) = DecodedAnalytics(("id", "status")).commands(change(Op.UPDATE, before, after, Kind.REPAIR))
    assert (row.row, row.before) == ({"id": "1", "status": "deleted"}, {"id": "1", "status": "active"})
    assert (row.table, row.op, row.version, row.committed_at, row.transaction, row.kind) == (
        USERS,
        Op.UPDATE,
        17,
        AT,
        5,
        Kind.REPAIR,
    )


def test_a_delete_holds_the_row_as_it_last_was_and_an_unsent_column_stays_absent() -> None:
    (row,) = DecodedAnalytics(("id", "status", "country")).commands(
        change(Op.DELETE, {"id": "1", "status": "active"}, None)
    )
    assert (row.row, row.before) == ({"id": "1", "status": "active"}, None)


@given(st.dictionaries(st.sampled_from(["id", "email", "name", "status", "country"]), st.text()))
def test_nothing_but_the_chosen_columns_gets_out(row: dict[str, str]) -> None:
    row = {"id": "1"} | row
    route = DecodedAnalytics(("id", "status"))
    for given_change in (
        change(Op.CREATE, None, dict(row)),
        change(Op.UPDATE, dict(row), dict(row)),
        change(Op.DELETE, dict(row), None),
    ):
        (command,) = route.commands(given_change)
        assert set(command.row) | set(command.before or {}) <= {"id", "status"}


def test_a_table_with_a_restricted_column_on_its_topic_is_never_passed_on_raw() -> None:
    for captured in TABLES:
        route = captured.route("analytics")
        assert route is not None, captured.id
        if captured.captured_restricted:
            assert isinstance(route, DecodedAnalytics), captured.id
            assert not captured.captured_restricted & set(route.columns), captured.id
