"""A few columns read alone: the same values as by the whole way, for every table, column and kind of row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.change import NOT_SENT
from processors.decode import Decoder
from processors.tables import TABLES
from tests.support.avro import Capture, table
from tests.support.columns import COLUMNS, sample

OPS = {"c": (False, True), "u": (True, True), "d": (True, False), "r": (False, True)}
"""op → whether there is a row before, and after."""


class Spy(Decoder):
    """Counts the records that took the long way."""

    long = 0

    def change(self, *arguments: Any, **options: Any) -> Any:
        self.long += 1
        return super().change(*arguments, **options)


@pytest.fixture(scope="module")
def capture() -> Capture:
    return Capture()


@pytest.fixture(scope="module")
def decoder(capture: Capture) -> Spy:
    return Spy("shop", 1, TABLES, capture.registry, 1 << 20)


def read(capture: Capture, decoder: Spy, of: str, op: str, columns: frozenset[str], **values: Any) -> Any:
    """Return (glanced rows, whole rows, whether the long way was taken), once the short way is learned."""
    before, after = (sample(of, **values) if there else None for there in OPS[op])
    checked = decoder.check(capture.record(of, op, before=before, after=after, snapshot="true" if op == "r" else None))
    assert checked is not None
    decoder.stamp(checked)
    stamp = decoder.stamp(checked)
    whole = decoder.change(checked, stamp._replace(rows_end=0))
    decoder.long = 0
    glanced = decoder.glance(checked, stamp, columns)
    return glanced, (whole.before, whole.after), bool(decoder.long)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_alone_reads_as_in_the_whole_row(capture: Capture, decoder: Spy, name: str, op: str) -> None:
    of = table(name)
    for column in of.columns.keys() - set(of.excluded):
        glanced, whole, _ = read(capture, decoder, name, op, frozenset({column}))
        for row, meant in zip(glanced, whole, strict=True):
            assert (row is None) == (meant is None)
            assert row is None or row[column] == meant[column]


@pytest.mark.parametrize(
    ("name", "columns"),
    [("products", {"id", "category", "price", "currency"}), ("users", {"id", "email"}), ("inventory", {"quantity"})],
)
@pytest.mark.parametrize("op", OPS)
def test_what_routes_and_rules_read_takes_the_short_way(
    capture: Capture, decoder: Spy, name: str, columns: set[str], op: str
) -> None:
    glanced, whole, long = read(capture, decoder, name, op, frozenset(columns))
    assert not long
    assert glanced == tuple(None if row is None else {each: row[each] for each in columns} for row in whole)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(category=texts, name=texts, description=st.none() | texts, tags=st.none() | st.lists(texts, max_size=70))
@settings(max_examples=200, deadline=None)
def test_any_text_around_and_in_the_column(capture: Capture, decoder: Spy, **values: Any) -> None:
    glanced, whole, long = read(capture, decoder, "products", "u", frozenset({"category"}), **values)
    assert [row["category"] for row in glanced] == [row["category"] for row in whole]
    assert not long


def test_a_column_that_was_not_sent_takes_the_long_way_and_is_absent(capture: Capture, decoder: Spy) -> None:
    glanced, _, long = read(
        capture, decoder, "products", "u", frozenset({"description", "category"}), description=NOT_SENT
    )
    assert long
    assert "description" not in glanced[1]
    assert glanced[1]["category"] == sample("products")["category"]
