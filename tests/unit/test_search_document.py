"""Folding: any order and any repetition of row versions ends in the same document as the order they were written in."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from processors.sinks.base import APPLIED, STALE, Outcome
from processors.sinks.search.document import (
    OUTDATED,
    Rating,
    fold_product,
    product_view,
    rating_average,
    rating_revision,
    shown_product,
)
from processors.sinks.search.review import fold_review, review_view, shown_review
from processors.sinks.search.route import Part, ReviewRow

PRODUCT = {
    "sku": "S-1",
    "name": "Headphones",
    "attributes": '{"weight": 1.10, "big": 123456789012345678901234567890}',
    "price": "12.30",
}


def product(version: int, **fields: Any) -> Part:
    return Part("p", "product", "", version, PRODUCT | fields)


def stock(warehouse: str, version: int, quantity: int, reserved: int = 0) -> Part:
    return Part("p", "stock", warehouse, version, {"quantity": quantity, "reserved": reserved})


def gone(part: str, slot: str, version: int) -> Part:
    return Part("p", part, slot, version, None)


def fold(*commands: Part | Rating, held: bytes | None = None) -> dict[str, Any]:
    source = fold_product("p", held, commands).source
    assert source is not None
    found: dict[str, Any] = orjson.loads(source)
    return found


def test_product_and_stock_meet_in_one_document_whichever_comes_first() -> None:
    commands = [product(5), stock("a", 3, 10, 2), stock("b", 4, 1, 1)]
    assert fold(*commands) == fold(*reversed(commands))
    found = fold(*commands)
    assert (found["listed"], found["stock"], found["in_stock"]) == (True, 8, True)
    assert found["price"] == "12.30"


def test_without_its_product_stock_is_kept_but_not_listed() -> None:
    found = fold(stock("a", 3, 10))
    assert (found["listed"], found["stock"], found["id"]) == (False, 10, "p")


def test_deletes_leave_a_mark_and_the_other_parts() -> None:
    found = fold(product(5), stock("a", 3, 10), stock("b", 3, 5), gone("product", "", 8), gone("stock", "a", 6))
    assert found == {
        "id": "p",
        "listed": False,
        "stock": 5,
        "in_stock": True,
        "rating_average": None,
        "rating_sum": 0,
        "rating_count": 0,
        "parts": {
            "product": {"version": 8, "deleted": True},
            "stock": {
                "a": {"version": 6, "deleted": True},
                "b": {"version": 3, "deleted": False, "quantity": 5, "reserved": 0},
            },
            "rating": 0,
        },
    }
    again = fold(product(9, name="Back"), held=orjson.dumps(found))
    assert (again["listed"], again["name"], again["stock"]) == (True, "Back", 5)


def test_more_reserved_than_there_is_counts_against_the_rest() -> None:
    found = fold(stock("a", 3, 1, 4), stock("b", 3, 2))
    assert (found["stock"], found["in_stock"]) == (-1, False)


def test_a_snapshot_row_only_creates() -> None:
    held = fold_product("p", None, [product(0, name="snapshot")]).source
    assert fold_product("p", held, [product(0, name="second snapshot")]).verdicts == [STALE]
    assert fold(product(2, name="streamed"), held=held)["name"] == "streamed"
    mark = fold_product("p", None, [gone("product", "", 4)]).source
    assert fold_product("p", mark, [product(0)]).source is None


def test_an_equal_version_is_stale_and_nothing_is_written() -> None:
    held = fold_product("p", None, [product(5)]).source
    folded = fold_product("p", held, [product(5, name="other"), product(4)])
    assert folded.source is None
    assert folded.verdicts == [STALE, STALE]


def test_a_column_that_was_not_sent_keeps_its_value() -> None:
    held = fold_product("p", None, [product(5, description="long")]).source
    found = fold(Part("p", "product", "", 6, {"name": "New"}), held=held)
    assert (found["name"], found["description"]) == ("New", "long")
    assert found["attributes"] == PRODUCT["attributes"]


def test_a_document_is_one_line() -> None:
    source = fold_product("p", None, [product(5, attributes='{\n"a":\r\n1}', description="two\nlines")]).source
    assert source is not None
    assert b"\n" not in source
    assert orjson.loads(source)["description"] == "two\nlines"


def test_a_rating_is_written_under_the_revision_it_was_asked_for() -> None:
    held = fold_product("p", None, [Rating("p", 0, 9, 2)]).source
    assert rating_revision(None) == 0
    assert rating_revision(held) == 1
    assert fold_product("p", held, [Rating("p", 0, 5, 1)]).verdicts == [OUTDATED]
    assert fold_product("p", held, [Rating("p", 0, 5, 1)]).source is None
    found = fold(stock("a", 1, 1), Rating("p", 1, 9, 2), held=held)
    assert (found["rating_average"], found["rating_sum"], found["rating_count"]) == ("4.50", 9, 2)
    assert found["parts"]["rating"] == 2, "raised though the sum is the same"
    assert found["listed"] is False


def test_the_average_is_rounded_half_to_even() -> None:
    assert rating_average(0, 0) is None
    assert rating_average(5, 1) == "5.00"
    assert rating_average(8, 3) == "2.67"
    assert rating_average(33, 8) == "4.12"
    assert rating_average(35, 8) == "4.38"


def test_a_reader_sees_the_row_its_stock_and_its_rating() -> None:
    found = fold(product(5), stock("a", 3, 10, 2), stock("b", 3, 5), gone("stock", "b", 4), Rating("p", 0, 13, 3))
    row = {"id": "p", **PRODUCT}
    assert shown_product(found) == product_view(row, [{"quantity": 10, "reserved": 2}], 13, 3)
    assert shown_product(found) != product_view(row | {"price": "12.3"}, [{"quantity": 10, "reserved": 2}], 13, 3)


def test_a_review_keeps_the_newest_version() -> None:
    def review(version: int, **fields: Any) -> ReviewRow:
        return ReviewRow("p", "r", version, {"rating": 5, "title": "T"} | fields)

    folded = fold_review("p:r", None, [review(4, rating=2), review(3), review(0), review(6, rating=1)])
    assert folded.verdicts == [APPLIED, STALE, STALE, APPLIED]
    live = orjson.loads(folded.source or b"")
    assert live == {"product_id": "p", "id": "r", "version": 6, "deleted": False, "rating": 1, "title": "T"}
    assert shown_review(live) == review_view({"product_id": "p", "id": "r", "rating": 1, "title": "T"})
    dead = fold_review("p:r", folded.source, [ReviewRow("p", "r", 8, None)]).source
    assert orjson.loads(dead or b"") == {"product_id": "p", "id": "r", "version": 8, "deleted": True}
    assert fold_review("p:r", dead, [review(0), review(7)]).source is None
    assert shown_review(orjson.loads(fold_review("p:r", dead, [review(10)]).source or b""))["rating"] == 5


# the property: a history is what happened to each slot, in versions; the snapshot may show any moment of it
SLOTS = [("product", ""), ("stock", "a"), ("stock", "b")]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Part], list[Part]]:
    """Return the history in order, and a delivery of it: shuffled, with repetitions."""
    history: list[Part] = []
    for part, slot in SLOTS:
        versions = draw(st.lists(st.integers(1, 40), unique=True, max_size=5))
        for version in sorted(versions):
            if draw(st.integers(0, 3)) == 0:
                history.append(gone(part, slot, version))
            elif part == "product":
                history.append(product(version, name=f"v{version}"))
            else:
                history.append(stock(slot, version, version, draw(st.integers(0, 3))))
    repeated = draw(st.lists(st.sampled_from(history), max_size=6)) if history else []
    return history, draw(st.permutations(history + repeated))


def in_batches(commands: Sequence[Part], cuts: Sequence[int]) -> tuple[Any, list[Outcome]]:
    held: bytes | None = None
    outcomes: list[Outcome] = []
    bounds = [0, *sorted(cut % (len(commands) + 1) for cut in cuts), len(commands)]
    for start, end in itertools.pairwise(bounds):
        folded = fold_product("p", held, commands[start:end])
        held = folded.source or held
        outcomes += [verdict.outcome for verdict in folded.verdicts]
    return held and orjson.loads(held), outcomes


@given(deliveries(), st.lists(st.integers(0, 50), max_size=3))
def test_any_order_and_repetition_ends_in_the_same_document(
    delivery: tuple[list[Part], list[Part]], cuts: list[int]
) -> None:
    history, delivered = delivery
    expected, _ = in_batches(history, [])
    found, outcomes = in_batches(delivered, cuts)
    assert found == expected
    assert len(outcomes) == len(delivered)
    replayed, outcomes = in_batches([*delivered, *delivered], [len(delivered)])
    assert replayed == expected
    assert set(outcomes[len(delivered) :]) <= {Outcome.STALE}


@given(deliveries(), st.integers(0, 50), st.data())
def test_snapshot_rows_never_beat_streamed_ones(
    delivery: tuple[list[Part], list[Part]], at: int, data: st.DataObject
) -> None:
    history, delivered = delivery
    expected, _ = in_batches(history, [])
    streamed = {(change.part, change.slot) for change in history}
    rows = [product(0, name="snapshot"), stock("a", 0, 1000), stock("b", 0, 1000)]
    of_streamed = [row for row in rows if (row.part, row.slot) in streamed]
    place = at % (len(delivered) + 1)
    found, _ = in_batches([*delivered[:place], *data.draw(st.permutations(of_streamed)), *delivered[place:]], [])
    assert found == expected


def test_a_column_that_a_migration_added_comes_and_goes_with_its_row() -> None:
    held = fold_product("p", None, [product(5, brand="acme", weight=3)]).source
    assert fold(stock("a", 3, 1), held=held)["brand"] == "acme"
    found = fold(product(6, weight=4), held=held)
    assert ("brand" in found, found["weight"]) == (False, 4)
    assert "weight" not in fold(gone("product", "", 7), held=held)
    row = PRODUCT | {"id": "p", "weight": 4, "brand": None}
    assert shown_product(found) == product_view(row, [], 0, 0)


def test_a_review_s_added_column_comes_and_goes_with_its_row() -> None:
    held = fold_review("p:r", None, [ReviewRow("p", "r", 5, {"rating": 5, "tone": "warm"})]).source
    assert held is not None
    assert orjson.loads(held)["tone"] == "warm"
    source = fold_review("p:r", held, [ReviewRow("p", "r", 6, {"rating": 4})]).source
    assert source is not None
    assert shown_review(orjson.loads(source)) == review_view({"product_id": "p", "id": "r", "rating": 4, "tone": None})
