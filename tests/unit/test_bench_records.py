"""The benchmark's work is what the connectors would write, and its end is known."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.records import TRANSACTION, Load
from processors.change import Change, Op
from processors.decode import Decoder
from tests.support.avro import Record, Registry, table


def decoded(load: Load) -> list[tuple[int, Change]]:
    """Return partition and change of every record, by the product's own decoder."""
    registry = Registry()
    made = list(load.envelopes(registry))
    decoder = Decoder(load.source, 1, [table("products")], registry, 1 << 20)
    changes: list[tuple[int, Change]] = []
    for offset, (partition, key, value) in enumerate(made):
        checked = decoder.check(Record(load.topic, partition, offset, 0, key, value))
        assert checked is not None
        changes.append((partition, decoder.change(checked, decoder.stamp(checked))))
    return changes


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 2, 4, 8]))
def test_the_last_change_of_every_product_is_the_row_that_the_load_promises(
    records: int, distinct: int, partitions: int
) -> None:
    load = Load("b", records, distinct, partitions)
    newest: dict[Any, Change] = {}
    places: dict[Any, int] = {}
    for partition, change in decoded(load):
        key = str(change.key["id"])
        assert places.setdefault(key, partition) == partition < partitions
        assert (change.op, change.before) == ((Op.UPDATE, newest[key].after) if key in newest else (Op.CREATE, None))
        newest[key] = change
    assert [change.after for change in newest.values()] == list(load.rows())


def test_versions_rise_and_are_those_that_the_model_names() -> None:
    load = Load("b", 5, 2)
    changes = [change for _, change in decoded(load)]
    assert [change.version for change in changes] == [load.version(record, 1) for record in range(5)]
    assert sorted({change.version for change in changes}) == [change.version for change in changes]
    assert {change.transaction for change in changes} == {TRANSACTION}


def test_every_turn_changes_the_price() -> None:
    load = Load("b", 6, 2)
    assert [load.row(1, turn)["price"] for turn in (0, 1, 2)] == [Decimal("0.07"), Decimal("0.20"), Decimal("0.33")]
