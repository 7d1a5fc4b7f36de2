"""Which records wait for a decision: by their schema, by what their route reads, and by where they stand in the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.change import CheckedRecord, Kind, Op, Stamp
from processors.engine.contract import ASK_AGAIN_S, Contracts
from processors.tables import TABLES
from schemas.agreed import Agreed, Agreements, read
from schemas.registry import Refused
from schemas.rows import Column
from tests.support.ccompat import Ccompat
from tests.support.records import FakeRecord
from tests.unit.test_schemas_rows import envelope

PRODUCTS = next(table for table in TABLES if table.id.name == "products")
TOPIC = PRODUCTS.topic("shop")
OLD = envelope(id="string", name="string", category="string", price="int")
ADDED = envelope(id="string", name="string", category="string", price="int", brand=["null", "string"])
WITHOUT = envelope(id="string", category="string", price="int")
RETYPED = envelope(id="string", name="string", category="string", price="string")
SCHEMAS = [OLD, ADDED, WITHOUT, RETYPED]


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += ASK_AGAIN_S
        return self.now_s


def contracts(registry: Ccompat, sink: str = "search") -> Contracts:
    route = PRODUCTS.route(sink)
    assert route is not None
    return Contracts(registry.client(), {TOPIC: (PRODUCTS, route)}, sink, Clock())


def look(held: Contracts, schema: Mapping[str, Any], lsn: int) -> bool:
    """Tell whether a record of that schema, at that place, is stopped."""
    record = CheckedRecord(FakeRecord(TOPIC), PRODUCTS.id, SCHEMAS.index(schema), schema)
    stop = held.stopped(record, Stamp(Op.UPDATE, Kind.STREAMED, 0, 1, lsn))
    return stop is not None


def test_additions_are_followed_and_a_column_that_comes_and_goes_is_stopped_by_its_old_schema() -> None:
    """The table's old shape has its old schema and id (tried): only the place in the log tells the two apart."""
    registry = Ccompat()
    held = contracts(registry)
    assert [look(held, OLD, 10), look(held, ADDED, 20), look(held, OLD, 15), look(held, ADDED, 25)] == [False] * 4
    assert look(held, OLD, 30)
    assert look(held, OLD, 31)
    note = Agreements(registry.client()).read(TOPIC)
    assert note.waiting == {"brand": "brand is dropped (string null)"}
    assert not look(held, OLD, 16)  # still a late record of the time before


def test_another_process_knows_it_too_and_a_restart_forgets_nothing() -> None:
    registry = Ccompat()
    assert not look(contracts(registry), ADDED, 20)
    assert look(contracts(registry), OLD, 30)
    assert not look(contracts(registry), OLD, 19)


def test_the_reason_names_the_table_the_column_and_the_way_on() -> None:
    registry = Ccompat()
    held = contracts(registry)
    look(held, OLD, 10)
    record = CheckedRecord(FakeRecord(TOPIC), PRODUCTS.id, SCHEMAS.index(WITHOUT), WITHOUT)
    stop = held.stopped(record, Stamp(Op.UPDATE, Kind.STREAMED, 0, 1, 20))
    assert stop is not None
    assert stop.reason == "a migration of public.products took away what search reads: name is dropped (string)"
    assert stop.way_on == f"to go on without it: downriver schemas accept {TOPIC}-value --column name"


def test_once_accepted_it_goes_on_in_every_sink() -> None:
    registry = Ccompat()
    search, analytics = contracts(registry), contracts(registry, "analytics")
    for held in (search, analytics):
        look(held, OLD, 10)
        assert look(held, WITHOUT, 20)
    Agreements(registry.client()).update(TOPIC, lambda note: note.accept("name"))
    for held in (search, analytics):
        assert not look(held, WITHOUT, 20)
        assert not look(held, WITHOUT, 21)
        assert not look(held, OLD, 11)
    note = Agreements(registry.client()).read(TOPIC)
    assert (note.waiting, note.accepted, note.gone) == ({}, frozenset(), {"name": 20})
    # it is there again, and gone again: that is another decision
    assert not look(search, OLD, 30)
    assert look(search, WITHOUT, 40)


def test_it_may_be_accepted_before_it_happens() -> None:
    registry = Ccompat()
    held = contracts(registry)
    look(held, OLD, 10)
    Agreements(registry.client()).update(TOPIC, lambda note: note.accept("name", "price"))
    assert not look(held, WITHOUT, 20)
    assert look(held, RETYPED, 30) is False
    assert look(held, OLD, 40)  # and back is another change of type


def test_a_sink_that_does_not_read_the_column_goes_on() -> None:
    """The cache's keys of a product are made of its id and category."""
    registry = Ccompat()
    held = contracts(registry, "cache")
    look(held, OLD, 10)
    assert not look(held, WITHOUT, 20)
    assert not look(held, RETYPED, 30)
    assert Agreements(registry.client()).read(TOPIC).waiting == {}


def test_a_new_type_is_stopped_and_one_that_takes_more_is_not() -> None:
    registry = Ccompat()
    held = contracts(registry)
    look(held, OLD, 10)
    assert look(held, RETYPED, 20)
    wide = envelope(id="string", name=["null", "string"], category="string", price="long")
    SCHEMAS.append(wide)
    assert not look(held, wide, 30)


def test_without_the_right_to_write_a_worker_knows_what_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Ccompat()
    held = contracts(registry)

    def refuse(*_: object) -> int:
        msg = "read only"
        raise Refused(msg)

    monkeypatch.setattr(held._agreements._registry, "register", refuse)
    assert not look(held, OLD, 10)
    assert look(held, WITHOUT, 20)
    assert registry.subjects == {}


@given(
    st.dictionaries(st.sampled_from("abc"), st.sampled_from([Column("int"), Column("decimal", size=(5, 2))])),
    st.integers(1),
)
def test_a_note_is_read_as_it_was_written(columns: dict[str, Column], lsn: int) -> None:
    note = Agreed().seen(columns, lsn).wait({"a": "gone"}).accept("b")
    assert read(note.document("t", 3)) == note


HISTORY = st.lists(
    st.sampled_from([frozenset(), frozenset("b"), frozenset("c"), frozenset("bc")]), min_size=1, max_size=6
)


@given(HISTORY, st.randoms(use_true_random=False))
def test_whatever_the_order_of_arrival_no_drop_goes_unseen_and_no_late_record_stops(
    history: list[frozenset[str]], random: Any
) -> None:
    """Each era of the table has two records, of two partitions; one partition may be any number of eras ahead."""
    eras = [{name: Column("int") for name in ("id", *sorted(extra))} for extra in history]
    queues = [[(10 * era + part, era) for era in range(len(eras))] for part in (1, 2)]
    note = Agreed()
    first_seen: dict[str, int] = {}
    while any(queues):
        queue = random.choice([queue for queue in queues if queue])
        lsn, era = queue.pop(0)
        note = note.seen(eras[era], lsn)
        stopped = {problem.column for problem in note.problems(eras[era]) if lsn > problem.since}
        for name in eras[era]:
            first_seen[name] = min(first_seen.get(name, lsn), lsn)
        known_before = {name for name, since in first_seen.items() if since < lsn}
        assert stopped <= known_before - set(eras[era])  # what is stopped was really there before, and is not now
        for name in known_before - set(eras[era]):
            # what this worker saw of a column before this record makes it stop, unless its note is from later still
            assert name in stopped or note.columns[name].since >= lsn


def test_a_worker_that_starts_after_the_decision_is_not_misled_by_a_late_record() -> None:
    registry = Ccompat()
    held = contracts(registry)
    look(held, OLD, 10)
    look(held, WITHOUT, 20)
    Agreements(registry.client()).update(TOPIC, lambda note: note.accept("name"))
    look(held, WITHOUT, 20)
    fresh = contracts(registry)
    assert not look(fresh, OLD, 12)  # another partition is behind
    assert not look(fresh, WITHOUT, 25)
    assert not look(contracts(registry), WITHOUT, 26)


def test_a_late_record_does_not_take_a_wider_type_back() -> None:
    note = Agreed().seen({"x": Column("int")}, 10).seen({"x": Column("long")}, 20).seen({"x": Column("int")}, 15)
    assert (note.columns["x"].column, note.columns["x"].since) == (Column("long"), 20)
