"""Preparing records: each sink gets what its route needs, and no more is decoded than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from processors.change import CheckedRecord
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
        self.whole = 0

    def change(self, checked: CheckedRecord) -> Any:
        self.whole += 1
        return super().change(checked)


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
    assert rows_of("cache")["products"] is Rows.ALL  # the category is no key
    assert set(rows_of("search").values()) == {Rows.ALL}
    assert {table: rows for table, rows in rows_of("analytics").items() if rows is not Rows.NONE} == {"users": Rows.ALL}


@pytest.mark.parametrize("op", ["c", "u", "d"])
def test_a_key_alone_gives_the_same_invalidation_as_the_whole_row(capture: Capture, decoder: Spy, op: str) -> None:
    row = sample("inventory")
    record = capture.record("inventory", op, before=None if op == "c" else row, after=None if op == "d" else row)
    made = run("cache", [record], decoder)
    assert decoder.whole == 0
    checked = decoder.check(record)
    assert checked is not None
    route = plans("cache")[record.topic].route
    [by_key], [by_row] = made.commands, route.commands(decoder.change(checked))
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
    made = run("analytics", [dearer, renamed], decoder)
    assert decoder.whole == 2
    assert [rule for rule, _, _ in made.samples[dearer.topic, 0]] == ["prices", "other"]
    assert len(made.commands) == 2


def test_what_cant_be_understood_is_refused_alone(capture: Capture, decoder: Spy) -> None:
    good = capture.record("inventory", "c", after=sample("inventory"))
    assert good.value is not None
    bad = replace(good, value=b"\x01" + good.value[1:])
    made = run("cache", [bad, good], decoder)
    assert [(item.record, "not 0" in item.reason) for item in made.refused] == [(bad, True)]
    assert made.owners == [1]
