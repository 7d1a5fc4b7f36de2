"""Everything committed up to now is visible at these sinks: waits until that is true, or tells what is missing.

The order makes it true (design decision 9): take the source's position P; wait until every lane has captured P; only then
read the ends of the topics; wait until readers see them. It writes nothing and asks no worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from connectors import files
from connectors.connect import ConnectClient
from connectors.files import Connector
from downriver.exits import ServerAway
from downriver.settings import Settings
from processors.propagation.capture import connectors_by_lane
from processors.propagation.monitor import feeding
from processors.propagation.state import State, StateKey
from processors.propagation.topic import StateReader, away, decoded, disbelieve_lost_topics, end_offsets
from processors.propagation.unseen import Where, read_on, scanning_consumer
from processors.tables.base import PARTITIONS, Lane

POLL_S = 0.25
GAP_S = 5.0
"""How long to look whether records are left between a visible offset and the end."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What has not arrived.

    Attributes:
        where: a lane that is not captured far enough, or a sink.
        topic, partition: of the sink; empty and -1 for a lane.
        stands, wanted: offsets (readers see what is below); for a lane, LSNs.
    """

    where: str
    topic: str
    partition: int
    stands: int
    wanted: int

    def __str__(self) -> str:
        if self.partition < 0:
            return f"lane {self.where}: captured up to {spell_lsn(self.stands)}, wanted {spell_lsn(self.wanted)}"
        return f"{self.where}: {self.topic}/{self.partition} is visible up to {self.stands} of {self.wanted}"


@dataclass(frozen=True, slots=True)
class Arrival:
    """How the wait ended.

    Attributes:
        lsn: the position that was waited for.
        missing: what has not arrived; empty: all has.
        dead_letters: sink → records that became dead letters during the wait: they are passed, and never shown.
    """

    lsn: int
    waited_s: float
    missing: tuple[Missing, ...] = ()
    dead_letters: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether readers of every sink see everything up to `lsn`, dead letters apart."""
        return not self.missing


def spell_lsn(lsn: int) -> str:
    """Return an LSN as PostgreSQL writes it: 0/16B3748."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


async def arrived(
    settings: Settings,
    sinks: Sequence[str],
    timeout_s: float,
    on_progress: Callable[[str], None] = lambda _: None,
    *,
    connectors: Sequence[Connector] | None = None,
) -> Arrival:
    """Wait until readers of the sinks see every change that was committed before this call.

    Args:
        on_progress: hears what is waited for, in a sentence, whenever that changes.
        connectors: what captures the lanes, default: the connector files.

    Raises:
        ServerAway: PostgreSQL, Connect or Kafka is away.
        BadInput: a lane has no connector.
    """
    started = time.monotonic()
    deadline = started + timeout_s
    captured_by = connectors_by_lane(settings, files.load() if connectors is None else connectors)
    lanes = {table.lane for sink in sinks for table in feeding(sink)}
    try:
        async with StateReader(settings) as reader:
            consumer = scanning_consumer(settings)
            try:
                await consumer.start()
                before = _dead_letters(await _states(settings, reader, {}), sinks)
                lsn = await _source_lsn(settings)
                wanted = {lane: connector for lane, connector in captured_by.items() if lane in lanes}
                missing = await _captured(settings, wanted, lsn, deadline, on_progress)
                if not missing:
                    missing = await _seen(settings, sinks, reader, consumer, deadline, on_progress)
                after = _dead_letters(await _states(settings, reader, {}), sinks)
            finally:
                await consumer.stop()
    except KafkaError as error:
        raise ServerAway(away(settings, error)) from None
    dead = {sink: after[sink] - before[sink] for sink in sinks if after[sink] > before[sink]}
    return Arrival(lsn, time.monotonic() - started, tuple(missing), dead)


async def _source_lsn(settings: Settings) -> int:
    """Return the end of what is written to the WAL, committed or not: every commit so far is below it."""
    try:
        async with await psycopg.AsyncConnection.connect(settings.postgres.dsn(), autocommit=True) as connection:
            cursor = await connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint")
            row = await cursor.fetchone()
    except psycopg.Error as error:
        where = f"{settings.postgres.host}:{settings.postgres.port}"
        msg = f"PostgreSQL at {where} is away: {str(error).strip() or type(error).__name__}"
        raise ServerAway(msg) from None
    return int(row[0]) if row else 0


async def _captured(
    settings: Settings,
    connectors: Mapping[Lane, Connector],
    lsn: int,
    deadline: float,
    on_progress: Callable[[str], None],
) -> list[Missing]:
    """Wait until Connect has stored, for every lane, a streamed position at or past `lsn`.

    A transaction that commits after P may hold a row below P, but what was committed before P is streamed before any row
    at or past P. An idle lane gets there by its heartbeat, a commit of its own.
    """
    with ConnectClient(settings.connect, max(deadline - time.monotonic(), 0.0), on_progress) as client:
        told = ""
        while True:
            missing = []
            for lane, connector in connectors.items():
                stands = streamed_lsn(await asyncio.to_thread(client.offsets, connector.name))
                if stands < lsn:
                    missing.append(Missing(lane, "", -1, stands, lsn))
            if not missing:
                return []
            told = _tell(on_progress, f"waiting for capture: {', '.join(each.where for each in missing)}", told)
            if time.monotonic() > deadline:
                return missing
            await asyncio.sleep(POLL_S)


def streamed_lsn(offsets: Sequence[Mapping[str, object]]) -> int:
    """Return how far a connector's stored offsets say it has streamed; 0: not at all, or still in its snapshot."""
    positions = [
        int(str(offset[name]))
        for offset in offsets
        if not offset.get("snapshot")
        for name in ("lsn", "lsn_commit", "lsn_proc")
        if offset.get(name) is not None
    ]
    return max(positions, default=0)


async def _seen(
    settings: Settings,
    sinks: Sequence[str],
    reader: StateReader,
    consumer: AIOKafkaConsumer,
    deadline: float,
    on_progress: Callable[[str], None],
) -> list[Missing]:
    """Wait until readers of each sink see its topics up to the ends that they have now."""
    topics = {sink: {table.topic(settings.source) for table in feeding(sink)} for sink in sinks}
    every = {(topic, number) for sink in sinks for topic in topics[sink] for number in range(PARTITIONS)}
    ends = {where: end for where, end in (await end_offsets(consumer, every)).items() if end > 0}
    looked: dict[tuple[Where, int], bool] = {}
    told = ""
    while True:
        states = await _states(settings, reader, ends)
        behind = [
            Missing(sink, *where, visible, end)
            for sink in sinks
            for where, end in ends.items()
            if where[0] in topics[sink] and (visible := states.get(StateKey(sink, *where), State()).visible) < end
        ]
        for sink in sinks:
            await _look_behind(consumer, [each for each in behind if each.where == sink], looked)
        missing = [each for each in behind if looked.get(((each.topic, each.partition), each.stands), True)]
        if not missing:
            return []
        left = {sink: sum(each.wanted - each.stands for each in missing if each.where == sink) for sink in sinks}
        sentence = ", ".join(f"{sink} {number} records" for sink, number in left.items() if number)
        told = _tell(on_progress, f"waiting to be visible: {sentence}", told)
        if time.monotonic() > deadline:
            return missing
        await asyncio.sleep(POLL_S)


async def _look_behind(
    consumer: AIOKafkaConsumer, behind: Sequence[Missing], looked: dict[tuple[Where, int], bool]
) -> None:
    """Note whether records are left from each position to its end, or only transaction markers and what compaction emptied.

    One read for all positions of a sink, and none for a position that was looked at before: a snapshot leaves every
    partition of every table behind, and to read them one after the other at each poll took a minute (tried).

    Args:
        looked: partition and position → whether records are left from there on; added to.
    """
    wanted = {(each.topic, each.partition): each for each in behind}
    wanted = {where: each for where, each in wanted.items() if (where, each.stands) not in looked}

    def take(where: Where, _: Sequence[object]) -> bool:
        looked[where, wanted[where].stands] = True
        return True

    starts = {where: each.stands for where, each in wanted.items()}
    ends = {where: each.wanted for where, each in wanted.items()}
    stands = await read_on(consumer, starts, ends, take, time.monotonic() + GAP_S)
    for where, position in stands.items():
        if position >= ends[where]:
            looked.setdefault((where, starts[where]), False)


async def _states(settings: Settings, reader: StateReader, ends: Mapping[Where, int]) -> dict[StateKey, State]:
    states = {key: decoded(settings, key, value) for key, value in (await reader.read()).items()}
    if ends:
        await disbelieve_lost_topics(reader.consumer, states, ends)
    return states


def _dead_letters(states: Mapping[StateKey, State], sinks: Sequence[str]) -> dict[str, int]:
    return {sink: sum(state.dead_letters for key, state in states.items() if key.sink == sink) for sink in sinks}


def _tell(on_progress: Callable[[str], None], sentence: str, told: str) -> str:
    if sentence != told:
        on_progress(sentence)
    return sentence
