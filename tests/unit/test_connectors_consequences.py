"""The judgement itself, from facts made up: what a running server can't be brought to say in a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.captured import Captured, Slot, TableFacts, Wal
from connectors.connector import HEARTBEAT_TABLE, State, homes
from connectors.consequences import Consequence, Facts, Weight, judge, left_behind
from connectors.files import load
from connectors.plan import Item, Plan, Step
from connectors.topics import TopicFacts, wanted

GIB = 2**30
(CATALOG,) = (connector for connector in load() if connector.name == "downriver_catalog")
WAL = Wal(keep=8 * GIB, ordinary=GIB, present=2 * GIB, per_s=2**20)
SLOT = Slot(active=True, wal_status="reserved", safe=7 * GIB, retained=GIB)
TABLES = {
    name: TableFacts(name, 1000, 2**20, "f", ("id",), (), 0, ()) for name in CATALOG.tables if name != HEARTBEAT_TABLE
}
SOURCE = Captured(TABLES, frozenset(CATALOG.tables), {CATALOG.slot: SLOT}, WAL)
STREAMED = {"lsn": 0x1_0000_0010, "txId": 1}


def facts(
    *,
    live: Mapping[str, str] | None = CATALOG.config,
    state: str = "RUNNING",
    offset: Mapping[str, Any] | None = STREAMED,
    source: Captured = SOURCE,
    topics: Mapping[str, TopicFacts] | None = None,
) -> Facts:
    return Facts(live, state, offset, source, topics or {})


def told(found: list[Consequence]) -> dict[str, tuple[Weight, str]]:
    return {each.name: (each.weight, each.text) for each in found}


def with_slot(slot: Slot | None, wal: Wal = WAL) -> Captured:
    return replace(SOURCE, slots={} if slot is None else {CATALOG.slot: slot}, wal=wal)


def test_a_harmless_change_has_no_consequence() -> None:
    assert judge(CATALOG, facts(), ["poll.interval.ms", "producer.override.linger.ms", "max.batch.size"]) == []


@pytest.mark.parametrize(
    ("identity", "routed", "blocked"), [("d", True, False), ("d", False, True), ("f", False, False)]
)
def test_only_an_outbox_may_have_its_key_for_identity(identity: str, routed: bool, blocked: bool) -> None:
    (events,) = (connector for connector in load() if connector.name == "downriver_events")
    meant = events if routed else replace(events, config={**events.config, "transforms": ""})
    table = TableFacts("public.outbox", 1000, 2**20, identity, ("id",), (), 0, ())
    source = Captured({table.name: table}, frozenset(events.tables), {events.slot: SLOT}, WAL)
    found = judge(meant, facts(live=None, state="", offset=None, source=source), [])
    assert ("replica-identity" in told(found)) == blocked


def test_a_table_that_another_connector_captures_is_said_to_move() -> None:
    live = {**CATALOG.config, "table.include.list": f"{CATALOG.config['table.include.list']},public.outbox,public.old"}
    there = replace(facts(live=live), homes=homes(load()))
    found = [each for each in judge(CATALOG, there, ["table.include.list"]) if each.name == "dropped-table"]
    assert [each.weight for each in found] == [Weight.ALLOW] * 2
    assert found[0].text.startswith("public.outbox: captured by downriver_events from now on")
    assert found[0].way_out.startswith("apply downriver_events too")
    assert found[1].text.startswith("public.old: not captured any more")


def test_a_slot_that_is_nearly_lost_is_told_with_the_time_that_is_left() -> None:
    near = replace(SLOT, safe=GIB, retained=7 * GIB)
    weight, text = told(judge(CATALOG, facts(source=with_slot(near)), ["poll.interval.ms"]))["wal-headroom"]
    assert weight is Weight.WARNING
    assert "is lost after another 1.0 GiB of WAL (about 17 minutes at the server's average)" in text


def test_a_slot_that_nothing_bounds_is_a_danger_to_the_disk() -> None:
    wal = replace(WAL, keep=None)
    new = judge(CATALOG, facts(live=None, state="", offset=None, source=with_slot(None, wal)), [])
    assert told(new)["wal-headroom"][0] is Weight.WARNING
    assert "may fill the disk of pg_wal" in told(new)["wal-headroom"][1]
    resting = replace(CATALOG, state=State.STOPPED)
    found = told(judge(resting, facts(source=with_slot(replace(SLOT, safe=None), wal)), []))
    assert "nothing bounds it (max_slot_wal_keep_size = -1): it fills the disk" in found["slot-holds-wal"][1]


def test_headroom_is_what_must_still_be_free() -> None:
    found = told(judge(CATALOG, facts(live=None, state="", offset=None, source=with_slot(None)), []))
    assert "grow to about 9.0 GiB" in found["wal-headroom"][1]
    assert "2.0 GiB now: 7.0 GiB more must be free on its disk" in found["wal-headroom"][1]


def test_a_slot_that_postgresql_gave_up_blocks() -> None:
    lost = replace(SLOT, wal_status="lost", safe=None, retained=None)
    assert told(judge(CATALOG, facts(source=with_slot(lost)), ["poll.interval.ms"]))["lost-slot"][0] is Weight.BLOCKS


@pytest.mark.parametrize(
    ("offset", "records", "expected"),
    [
        (None, 0, "snapshot"),
        (None, 5, "second-snapshot"),
        (STREAMED, 5, "resumes"),
        ({"lsn": 8, "snapshot": "INITIAL"}, 5, "snapshot-begins-again"),
    ],
)
def test_where_a_new_connector_begins(offset: Mapping[str, Any] | None, records: int, expected: str) -> None:
    topics = {topic.topic: TopicFacts(topic.num_partitions, records) for topic in wanted(CATALOG)}
    found = told(judge(CATALOG, facts(live=None, state="", offset=offset, topics=topics), CATALOG.config))
    places = {"snapshot", "second-snapshot", "resumes", "snapshot-begins-again", "no-snapshot", "lost-slot"}
    assert places & set(found) == {expected}


def test_heartbeats_alone_are_no_history() -> None:
    topics = {topic.topic: TopicFacts(1, 9) for topic in wanted(CATALOG) if topic.topic.endswith("heartbeat")}
    assert topics
    found = told(judge(CATALOG, facts(live=None, state="", offset=None, topics=topics), CATALOG.config))
    assert "snapshot" in found


def test_without_a_snapshot_the_rows_that_are_there_are_missing() -> None:
    skipping = replace(CATALOG, config={**CATALOG.config, "snapshot.mode": "no_data"})
    weight, text = told(judge(skipping, facts(live=None, state="", offset=None), []))["no-snapshot"]
    assert (weight, "about 2,000 rows (2.0 MiB in 2 tables)" in text) == (Weight.WARNING, True)


def test_a_live_connector_without_an_offset_over_records_reads_them_again() -> None:
    topics = {topic.topic: TopicFacts(topic.num_partitions, 3) for topic in wanted(CATALOG)}
    found = told(judge(CATALOG, facts(state="STOPPED", offset=None, topics=topics), []))
    assert found["second-snapshot"][0] is Weight.ALLOW


@given(keys=st.sets(st.sampled_from(sorted(CATALOG.config))))
def test_the_heaviest_comes_first_and_each_is_said_once(keys: set[str]) -> None:
    found = judge(CATALOG, facts(source=with_slot(None)), keys)
    order = [list(Weight).index(each.weight) for each in found]
    assert order == sorted(order, reverse=True)
    assert len(found) == len(set(found))


def test_what_is_left_behind_is_named_also_when_nobody_can_be_asked() -> None:
    (left,) = left_behind("a", {"slot.name": "s", "publication.name": "p"}, None)
    assert "slot s and publication p stay" in left.text
    assert left.way_out.endswith("SELECT pg_drop_replication_slot('s'); DROP PUBLICATION p")
    (left,) = left_behind("a", {}, None)
    assert "slot debezium and publication dbz_publication stay" in left.text


def test_a_plan_gathers_what_must_be_allowed_and_what_blocks() -> None:
    allow, block, note = (Consequence(name, weight, "text", "way") for name, weight in (
        ("new-slot", Weight.ALLOW), ("no-key", Weight.BLOCKS), ("snapshot", Weight.NOTE)
    ))  # fmt: skip
    plan = Plan(
        (
            Item("a", Step.UPDATE, "RUNNING", "RUNNING", (), (allow, note)),
            Item("b", Step.UPDATE, "RUNNING", "RUNNING", (), (allow, block)),
            Item("c", Step.ORPHAN, "RUNNING", "RUNNING"),
        )
    )
    assert plan.needed() == {"new-slot": ["a", "b"]}
    assert plan.blocked() == ["b: text; way [no-key]"]
    assert plan.changes
    assert not Plan(plan.items[2:]).changes
