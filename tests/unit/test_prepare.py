"""Preparing records: each sink gets what its route needs, and no more is decoded than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from processors.change import NOT_SENT, CheckedRecord, Stamp, lsn_of
from processors.decode import Decoder
from processors.engine.prepare import Rows, TopicPlan, prepare
from processors.propagation.rules import load_rules, rule_set
from processors.sinks.cache.route import Invalidate
from processors.tables import TABLES
from tests.support.avro import Capture
from tests.support.columns import sample

RULES = rule_set(load_rules())


class Spy(Decoder):
    """Notes what is decoded in full."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.whole_rows = 0

    def change(self, checked: CheckedRecord, stamp: Stamp, *, before: bool = True) -> Any:
        self.whole_rows += 1
        return super().change(checked, stamp, before=before)


def plans(sink: str) -> dict[str, TopicPlan]:
    return {
        table.topic("shop"): TopicPlan.of(table, route, RULES.for_table(table.id))
        for table in TABLES
        if (route := table.route(sink)) is not None
    }


def rows_of(sink: str) -> dict[str, Rows]:
    return {topic.rpartition(".")[2]: plan.rows for topic, plan in plans(sink).items()}


@pytest.fixture
def capture() -> Capture:
    return Capture()


@pytest.fixture
def decoder(capture: Capture) -> Spy:
    return Spy("shop", 1, list(TABLES), capture.registry, 1 << 20)


def run(sink: str, records: Sequence[Any], decoder: Decoder) -> Any:
    return prepare(records, plans(sink), decoder)


def test_each_route_says_how_much_it_needs() -> None:
    assert rows_of("cache")["inventory"] is Rows.KEY
    assert rows_of("cache")["reviews"] is Rows.KEY
    assert rows_of("cache")["products"] is Rows.SOME  # the category is no key
    assert set(rows_of("search").values()) == {Rows.LATEST}
    assert {table: rows for table, rows in rows_of("analytics").items() if rows is not Rows.NONE} == {
        "users": Rows.SOME
    }


@pytest.mark.parametrize("op", ["c", "u", "d"])
def test_a_key_alone_gives_the_same_invalidation_as_the_whole_row(capture: Capture, decoder: Spy, op: str) -> None:
    row = sample("inventory")
    record = capture.record("inventory", op, before=None if op == "c" else row, after=None if op == "d" else row)
    made = run("cache", [record], decoder)
    assert decoder.whole_rows == 0
    checked = decoder.check(record)
    assert checked is not None
    route = plans("cache")[record.topic].route
    [by_key], [by_row] = made.commands, route.commands(decoder.change(checked, decoder.stamp(checked)))
    assert isinstance(by_key, Invalidate)
    assert (set(by_key.keys), by_key.tags, by_key.transaction, by_key.kind, by_key.lsn) == (
        set(by_row.keys),
        by_row.tags,
        by_row.transaction,
        by_row.kind,
        by_row.lsn,
    )


def test_a_price_is_compared_even_for_a_sink_that_takes_raw_records(capture: Capture, decoder: Spy) -> None:
    row = sample("products")
    dearer = capture.record("products", "u", before=row, after=row | {"price": row["price"] + 1})
    renamed = capture.record("products", "u", before=row, after=row | {"name": "another"})
    decoder.stamp(decoder.check(dearer))  # type: ignore[arg-type]  # the short way is learned
    made = run("analytics", [dearer, renamed], decoder)
    assert decoder.whole_rows == 0
    assert [rule for rule, _, _ in made.samples[dearer.topic, 0]] == ["prices", "other"]
    assert len(made.commands) == 2


def test_what_cant_be_understood_is_refused_alone(capture: Capture, decoder: Spy) -> None:
    good = capture.record("inventory", "c", after=sample("inventory"))
    assert good.value is not None
    bad = replace(good, value=b"\x01" + good.value[1:])
    made = run("cache", [bad, good], decoder)
    assert [(item.record, "not 0" in item.reason) for item in made.refused] == [(bad, True)]
    assert made.owners == [1]


def stock(capture: Capture, op: str, lsn: int, quantity: int = 1, snapshot: str | None = None, **row: Any) -> Any:
    """Return a record about the one row of stock that all of these are about."""
    now = sample("inventory", quantity=quantity, **row)
    before, after = (now if op in "ud" else None), (None if op == "d" else now)
    return capture.record("inventory", op, before=before, after=after, lsn=lsn, snapshot=snapshot)


def test_search_gets_the_newest_change_of_each_key_and_every_change_counts(capture: Capture, decoder: Spy) -> None:
    other = capture.record("inventory", "c", after=sample("inventory", product_id=str(uuid4())), lsn=50)
    records = [stock(capture, "c", 10), stock(capture, "u", 30, 3), other, stock(capture, "u", 20, 2)]
    made = run("search", records, decoder)
    assert [(command.fields["quantity"], lsn_of(command.version)) for command in made.commands[:1]] == [(3, 30)]
    assert sorted(made.owners) == [1, 2]
    assert (made.coalesced, decoder.whole_rows) == (2, 2)
    assert [rule for rule, _, _ in made.samples[records[0].topic, 0]] == ["inventory"] * 4


def test_a_delete_loses_against_the_create_that_shares_its_position(capture: Capture, decoder: Spy) -> None:
    for records in (
        [stock(capture, "d", 10), stock(capture, "c", 10)],
        [stock(capture, "c", 10), stock(capture, "d", 10)],
    ):
        [command] = run("search", records, decoder).commands
        assert command.fields is not None


def test_a_snapshot_row_never_beats_a_streamed_change(capture: Capture, decoder: Spy) -> None:
    made = run("search", [stock(capture, "u", 10, 2), stock(capture, "r", 90, 9, snapshot="true")], decoder)
    assert [command.fields["quantity"] for command in made.commands] == [2]


def test_a_row_that_was_not_sent_whole_is_written_beside_the_one_before_it(capture: Capture, decoder: Spy) -> None:
    def product(lsn: int, **values: Any) -> Any:
        return capture.record(
            "products", "u", before=sample("products", name="old"), after=sample("products", **values), lsn=lsn
        )

    records = [
        product(10),
        product(20, description="long"),
        product(30, name="new", description=NOT_SENT),
        product(40, name="last"),
    ]
    made = run("search", records, decoder)
    assert [lsn_of(command.version) for command in made.commands] == [20, 30, 40]
    assert made.coalesced == 1


def test_where_the_newest_cant_be_decoded_the_one_before_it_is_written(capture: Capture, decoder: Spy) -> None:
    def product(lsn: int) -> Any:
        return capture.record("products", "c", after=sample("products", description="pending"), lsn=lsn)

    run("search", [product(5)], decoder)  # the short way is learned: what is in the row shows late
    newest = product(30)
    broken = replace(newest, value=(newest.value or b"").replace(b"pending", b"pend\xff\xfeg"))
    made = run("search", [product(10), product(20), broken], decoder)
    assert [lsn_of(command.version) for command in made.commands] == [20]
    assert [item.record for item in made.refused] == [broken]
    assert made.coalesced == 1
