"""The look-out for the oldest unseen change, held against a plain search of the whole log, whatever moves in between."""

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from functools import cache

from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.change import Record as AnyRecord
from processors.decode import Decoder
from processors.propagation.rules import load_rules, rule_set
from processors.propagation.unseen import Lookout, read_on
from processors.tables import TABLES
from tests.support.avro import Capture, Record, table
from tests.support.columns import COMMITTED, sample

TOPIC = table("products").topic("shop")
RULES = {TOPIC: rule_set(load_rules()).for_table(table("products").id)}
CAPTURE = Capture()
DECODER = Decoder("shop", 1, TABLES, CAPTURE.registry, 1_000_000)
KINDS = ("price", "name", "create", "snapshot", "poison", "tombstone", "nothing")


class Log:
    """A consumer's view of partitions in memory; hands out a few records at a time; offsets may be empty."""

    def __init__(self, slots: Sequence[Record | None], step: int = 2) -> None:
        self.slots = slots
        self.step = step
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.reads = 0

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.positions, self.paused = dict.fromkeys(partitions, 0), set()

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.positions[partition] = offset

    def pause(self, partition: TopicPartition) -> None:
        self.paused.add(partition)

    async def position(self, partition: TopicPartition) -> int:
        return self.positions[partition]

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Record]]:
        assert timeout_ms > 0 < max_records
        found = defaultdict(list)
        for partition in self.positions.keys() - self.paused:
            start = self.positions[partition]
            self.positions[partition] = min(start + self.step, len(self.slots))
            found[partition] = [each for each in self.slots[start : start + self.step] if each is not None]
            self.reads += 1
        return {partition: records for partition, records in found.items() if records}


@cache
def record_of(kind: str, offset: int) -> Record | None:
    """Return what is at an offset: a record of that kind, committed at its second; None: the offset is empty."""
    at = COMMITTED + timedelta(seconds=offset)
    row, dearer = sample("products"), sample("products", price=Decimal("99.00"))
    rows = {"price": ("u", row, dearer), "name": ("u", row, row), "create": ("c", None, row)}
    if kind in rows:
        op, before, after = rows[kind]
        return CAPTURE.record("products", op, before=before, after=after, offset=offset, committed_at=at)
    match kind:
        case "snapshot":
            return CAPTURE.record("products", "r", after=row, offset=offset, snapshot="true", lsn=None)
        case "poison":
            return Record(TOPIC, 0, offset, 0, b"\0", b"\0\0\0\0\1junk")
        case "tombstone":
            return Record(TOPIC, 0, offset, 0, CAPTURE.key("products", row), None)
    return None


def log_of(kinds: Sequence[str]) -> list[Record | None]:
    """Return one partition's offsets with what is at each."""
    return [record_of(kind, offset) for offset, kind in enumerate(kinds)]


def plain_search(kinds: Sequence[str], visible: int, end: int) -> dict[str, int]:
    """Return rule → commit time (ms) of the first offset in visible..end that it counts."""
    first: dict[str, int] = {}
    for offset in range(visible, end):
        rule = {"price": "prices", "name": "other", "create": "other"}.get(kinds[offset])
        if rule is not None:
            at = COMMITTED + timedelta(seconds=offset)
            first.setdefault(rule, int(at.timestamp() * 1000))
    return first


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=14),
    st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), min_size=1, max_size=5),
)
async def test_it_finds_what_a_plain_search_finds(kinds: list[str], looks: list[tuple[int, int]]) -> None:
    """Visible offsets and ends move as they like between looks, even back."""
    lookout = Lookout(RULES, DECODER, Log(log_of(kinds)))
    for first, second in looks:
        visible, end = sorted((min(first, len(kinds)), min(second, len(kinds))))
        unseen = await lookout.look({(TOPIC, 0): visible}, {(TOPIC, 0): end}, time.monotonic() + 60)
        wanted = plain_search(kinds, visible, end)
        assert (unseen.oldest_ms, unseen.unread) == (wanted, {})


async def test_a_look_without_time_says_what_it_did_not_read_and_the_next_goes_on() -> None:
    kinds = ["name"] * 9 + ["price"]
    log = Log(log_of(kinds))
    lookout = Lookout(RULES, DECODER, log)
    ends = {(TOPIC, 0): 10}
    cut = await lookout.look({(TOPIC, 0): 0}, ends, 0.0)
    assert (cut.oldest_ms, cut.unread) == ({}, {"prices": 10, "other": 10})
    whole = await lookout.look({(TOPIC, 0): 0}, ends, time.monotonic() + 60)
    assert whole.oldest_ms == plain_search(kinds, 0, 10)
    reads = log.reads
    assert (await lookout.look({(TOPIC, 0): 0}, ends, time.monotonic() + 60)).oldest_ms == whole.oldest_ms
    assert log.reads == reads


async def test_reading_on_passes_what_is_no_record_and_stops_at_the_end() -> None:
    slots = log_of(["create", "nothing", "nothing", "create", "create", "nothing"])
    taken: list[int] = []

    def take(_: tuple[str, int], records: Sequence[AnyRecord]) -> bool:
        taken.extend(record.offset for record in records)
        return False

    where = (TOPIC, 0)
    assert await read_on(Log(slots), {where: 1}, {where: 4}, take, time.monotonic() + 60) == {where: 4}
    assert taken == [3]
    assert await read_on(Log(slots), {where: 5}, {where: 6}, take, time.monotonic() + 60) == {where: 6}
    assert taken == [3]
