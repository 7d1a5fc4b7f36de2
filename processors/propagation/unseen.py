"""Looks up the oldest change that nobody sees yet: the first record that a rule counts at or after a visible offset.

It asks the topics themselves, so that the answer is known when no worker lives. It knows neither figures nor limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from downriver.kafka import aiokafka_config
from downriver.settings import Settings
from processors.change import Record
from processors.decode import Decoder, Undecodable
from processors.propagation.rules import TableRules

Where = tuple[str, int]
"""A topic's partition."""

RECORDS = 500
"""Records looked at between two looks at the clock."""


@dataclass(slots=True)
class _Scan:
    """How far one partition was searched for one sink; kept between looks.

    Attributes:
        visible: where the search began: readers see what is below.
        next: the offset to go on at.
        found: rule → offset and commit time (ms) of the first record from the visible offset on that it counts.
    """

    visible: int = 0
    next: int = 0
    found: dict[str, tuple[int, int]] = field(default_factory=dict)

    def follow(self, visible: int, end: int) -> None:
        """Move to a new visible offset: what it has passed is seen, and what that one had hidden must be searched for.

        Going back, or an end before what was searched (a topic made anew), starts the search anew.
        """
        if visible < self.visible or end < self.next:
            self.found, self.next = {}, visible
        kept = {rule: hit for rule, hit in self.found.items() if hit[0] >= visible}
        if len(kept) < len(self.found):
            self.next = visible
        self.visible = visible
        self.next = max(self.next, visible)
        self.found = kept


@dataclass(slots=True)
class Unseen:
    """What one sink's readers don't see yet, by rule.

    Attributes:
        oldest_ms: rule → commit time, in milliseconds since the epoch, of the oldest change found.
        unread: rule → records that the look had no time for: they may hold an older one.
    """

    oldest_ms: dict[str, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)


def scanning_consumer(settings: Settings) -> AIOKafkaConsumer:
    """Return a consumer without a group, made for reading a few records here and there. It is not started."""
    return AIOKafkaConsumer(
        **aiokafka_config(settings.kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=256 * 1024,
        fetch_max_bytes=8 * 2**20,
        request_timeout_ms=10_000,
    )


async def read_on(
    consumer: AIOKafkaConsumer,
    starts: Mapping[Where, int],
    ends: Mapping[Where, int],
    take: Callable[[Where, Sequence[Record]], bool],
    until: float,
) -> dict[Where, int]:
    """Read each partition from its start to its end, or until `take` says that it is enough.

    Args:
        take: called in a thread with consecutive records of a partition, all before its end; returns whether it
            wants no more of them.
        until: a time of `time.monotonic()`; where reading stands then, it stops.

    Returns:
        Where the reading of each partition stands: the next offset.
    """
    todo = {TopicPartition(*where): ends[where] for where, start in starts.items() if start < ends[where]}
    stands = dict(starts)
    if not todo:
        return stands
    consumer.assign(list(todo))
    for partition in todo:
        consumer.seek(partition, starts[partition.topic, partition.partition])
    while todo and time.monotonic() < until:
        fetched = await consumer.getmany(timeout_ms=100, max_records=RECORDS)
        for partition, end in list(todo.items()):
            where = (partition.topic, partition.partition)
            records = [record for record in fetched.get(partition, ()) if record.offset < end]
            enough = await asyncio.to_thread(take, where, records) if records else False
            # the position also passes what is no record: transaction markers, offsets that compaction emptied
            stands[where] = records[-1].offset + 1 if enough else min(await consumer.position(partition), end)
            if enough or stands[where] >= end:
                consumer.pause(partition)
                del todo[partition]
    return stands


class Lookout:
    """Finds the oldest unseen change of every rule, at one sink.

    Args:
        rules: topic → what the rules that hold for the sink say of its table. Only these topics are looked at.
        consumer: of `scanning_consumer`, started; shared, one look at a time.
    """

    def __init__(self, rules: Mapping[str, TableRules], decoder: Decoder, consumer: AIOKafkaConsumer) -> None:
        self._rules = rules
        self._decoder = decoder
        self._consumer = consumer
        self._scans: dict[Where, _Scan] = {}

    async def look(self, visible: Mapping[Where, int], ends: Mapping[Where, int], until: float) -> Unseen:
        """Look from the visible offsets to the ends. What a look did not get to, the next one goes on with.

        Args:
            visible: for each of `ends`, below which offset readers see everything.
            until: a time of `time.monotonic()` at which to stop.

        Raises:
            KafkaError: Kafka is away (aiokafka's).
            RegistryAway: a record can't be read without the registry.
        """
        starts: dict[Where, int] = {}
        for where, end in ends.items():
            scan = self._scans.setdefault(where, _Scan())
            scan.follow(visible[where], end)
            if scan.next < end and not self._enough(where):
                starts[where] = scan.next
        for where, stand in (await read_on(self._consumer, starts, ends, self._take, until)).items():
            self._scans[where].next = stand
        return self._sum_up(ends)

    def _enough(self, where: Where) -> bool:
        return self._scans[where].found.keys() >= set(self._rules[where[0]].names)

    def _take(self, where: Where, records: Sequence[Record]) -> bool:
        rules, found = self._rules[where[0]], self._scans[where].found
        for record in records:
            try:
                checked = self._decoder.check(record)
                if checked is None:
                    continue
                stamp = self._decoder.stamp(checked)
                rows = self._decoder.glance(checked, stamp, rules.columns) if rules.needs_row(stamp) else None
            except Undecodable:
                continue  # it will be a dead letter, which has its own count
            for rule in rules.counts(stamp, rows):
                found.setdefault(rule, (record.offset, stamp.committed_ms))
            if self._enough(where):
                return True
        return self._enough(where)

    def _sum_up(self, ends: Mapping[Where, int]) -> Unseen:
        unseen = Unseen()
        for where, end in ends.items():
            scan = self._scans[where]
            for rule in self._rules[where[0]].names:
                if (hit := scan.found.get(rule)) is not None:
                    unseen.oldest_ms[rule] = min(hit[1], unseen.oldest_ms.get(rule, hit[1]))
                elif scan.next < end:
                    unseen.unread[rule] = unseen.unread.get(rule, 0) + end - scan.next
        return unseen
