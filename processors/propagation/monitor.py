"""Gathers what `downriver sla status` shows: stored figures, the oldest unseen change, how far capture is behind.

It asks Kafka and the source, never a worker, so that a dead one shows. It writes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from connectors import files
from connectors.files import Connector
from downriver.exits import ServerAway
from downriver.settings import Settings
from processors.decode import Decoder
from processors.propagation.capture import (
    LaneCapture,
    age_s,
    connectors_by_lane,
    heartbeat_tables,
    newest_beats,
    slots,
)
from processors.propagation.figures import Figures
from processors.propagation.rules import OTHER, RuleSet, load_rules, rule_set
from processors.propagation.state import State, StateKey
from processors.propagation.status import Status, judge
from processors.propagation.topic import StateReader, away, decoded, disbelieve_lost_topics, end_offsets
from processors.propagation.unseen import Lookout, Unseen, Where, scanning_consumer
from processors.sinks import SINKS
from processors.tables import TABLES
from processors.tables.base import PARTITIONS, Lane, Table
from schemas.registry import RegistryAway, SchemaRegistry

LOOK_S = 3.0
"""How long one look may search the backlog of one sink; the next one goes on where it stopped."""


def kind_of(sink: str) -> str:
    """Return the kind of a sink's instance: `cache` of `cache-eu`; the name itself if it is of no known kind."""
    return next((kind for kind in SINKS if sink == kind or sink.startswith(f"{kind}-")), sink)


class _Servers:
    """The open connections of a monitor, and what it remembers of the topics."""

    def __init__(self, settings: Settings, registry: SchemaRegistry) -> None:
        self.reader = StateReader(settings)
        self.consumer: AIOKafkaConsumer = scanning_consumer(settings)
        tables = [*TABLES, *heartbeat_tables()]
        self.decoder = Decoder(settings.source, settings.epoch, tables, registry, settings.worker.max_record_bytes)
        self.lookouts: dict[str, Lookout] = {}

    async def close(self) -> None:
        await self.consumer.stop()
        await self.reader.consumer.stop()


class Monitor:
    """Looks again and again; remembers how far it searched. Use as an async context manager, from one task.

    Args:
        connectors: what captures the lanes, default: the connector files.
        sinks: which sinks to show besides those that published figures.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        connectors: Sequence[Connector] | None = None,
        sinks: Sequence[str] = tuple(SINKS),
        rules: RuleSet | None = None,
    ) -> None:
        self._settings = settings
        self._connectors = connectors_by_lane(settings, files.load() if connectors is None else connectors)
        self._sinks = tuple(sinks)
        self._rules = rule_set(load_rules()) if rules is None else rules
        self._registry = SchemaRegistry(settings.registry)
        self._servers: _Servers | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()
        self._registry.close()

    async def _close(self) -> None:
        if self._servers is not None:
            servers, self._servers = self._servers, None
            await servers.close()

    async def look(self, look_s: float = LOOK_S, since: Status | None = None) -> Status:
        """Return how every rule stands at every sink. A server that is away makes it unknown; it does not raise.

        Args:
            look_s: how long to search the backlog of each sink at most.
            since: an earlier status: figures and dead letters count from there.

        Raises:
            DownriverError: the topic of the states holds what is no state.
        """
        problems: list[str] = []
        beats: Mapping[Lane, float | None] = dict.fromkeys(Lane)
        states: Mapping[StateKey, State] = {}
        unseen: dict[str, Unseen] = {}
        slots_of = asyncio.create_task(slots(self._settings, self._connectors))
        try:
            if self._servers is None:
                self._servers = _Servers(self._settings, self._registry)
                await self._servers.consumer.start()
                await self._servers.reader.consumer.start()
            states, ends = await self._read_states(self._servers)
            unseen = await self._look_around(self._servers, states, ends, look_s)
            beats = await newest_beats(
                self._servers.consumer, self._servers.decoder, self._settings.source, time.monotonic() + LOOK_S
            )
        except KafkaError as error:
            problems.append(away(self._settings, error))
            await self._close()
        except RegistryAway as error:
            problems.append(str(error))
        except BaseException:
            slots_of.cancel()  # Ctrl-C must not wait for a source that is away
            raise
        try:
            captured = await slots_of
        except ServerAway as error:
            captured = {}
            problems.append(str(error))
        now_s = time.time()
        capture = {
            lane: replace(captured.get(lane, LaneCapture()), age_s=age_s(beats[lane], connector, now_s))
            for lane, connector in self._connectors.items()
        }
        return self._sum_up(now_s, states, unseen, capture, tuple(problems), since)

    async def _read_states(self, servers: _Servers) -> tuple[dict[StateKey, State], dict[Where, int]]:
        """Return the states and the ends of the topics. The ends come first: what arrives after them may be seen, too."""
        source = self._settings.source
        everywhere: list[Where] = [(table.topic(source), number) for table in TABLES for number in range(PARTITIONS)]
        ends = await end_offsets(servers.consumer, everywhere)
        stored = await servers.reader.read()
        states = {key: decoded(self._settings, key, value) for key, value in stored.items()}
        states = {key: state for key, state in states.items() if (key.topic, key.partition) in ends}
        await disbelieve_lost_topics(servers.consumer, states, ends)
        return states, ends

    async def _look_around(
        self, servers: _Servers, states: Mapping[StateKey, State], ends: Mapping[Where, int], look_s: float
    ) -> dict[str, Unseen]:
        unseen: dict[str, Unseen] = {}
        for sink in self._sinks_in(states):
            tables = {table.topic(self._settings.source): table for table in feeding(sink)}
            lookout = servers.lookouts.get(sink)
            if lookout is None:
                rules = self._rules.for_sink(sink)
                by_topic = {topic: rules.for_table(table.id) for topic, table in tables.items()}
                lookout = servers.lookouts[sink] = Lookout(by_topic, servers.decoder, servers.consumer)
            mine = {where: end for where, end in ends.items() if where[0] in tables}
            visible = {where: states.get(StateKey(sink, *where), State()).visible for where in mine}
            unseen[sink] = await lookout.look(visible, mine, time.monotonic() + look_s)
        return unseen

    def _sinks_in(self, states: Mapping[StateKey, State]) -> list[str]:
        return list(dict.fromkeys([*self._sinks, *sorted({key.sink for key in states})]))

    def _sum_up(
        self,
        now_s: float,
        states: Mapping[StateKey, State],
        unseen: Mapping[str, Unseen],
        capture: Mapping[Lane, LaneCapture],
        problems: tuple[str, ...],
        since: Status | None,
    ) -> Status:
        limits: dict[str, float | None] = {**self._rules.limits, OTHER: None}
        sinks = self._sinks_in(states)
        standings = {}
        for rule, limit_s in limits.items():
            for sink in sinks:
                counted = [
                    table for table in feeding(sink) if rule in self._rules.for_sink(sink).for_table(table.id).names
                ]
                if not counted:
                    continue
                figures = Figures()
                for key, state in states.items():
                    if key.sink == sink and rule in state.rules:
                        figures.merge(state.rules[rule])
                if since is not None and (earlier := since.standings.get((rule, sink))) is not None:
                    figures = figures.since(earlier.figures)
                found = unseen.get(sink, Unseen())
                oldest_ms = found.oldest_ms.get(rule)
                lanes = {table.lane for table in counted}
                standings[rule, sink] = judge(
                    figures,
                    limit_s,
                    None if oldest_ms is None else now_s - oldest_ms / 1000,
                    found.unread.get(rule, 0),
                    {lane: each for lane, each in capture.items() if lane in lanes},
                    problems,
                )
        dead = {sink: sum(state.dead_letters for key, state in states.items() if key.sink == sink) for sink in sinks}
        if since is not None:
            dead = {sink: number - since.dead_letters.get(sink, 0) for sink, number in dead.items()}
        return Status(now_s, limits, standings, capture, dead, problems)


def feeding(sink: str) -> list[Table]:
    """Return the tables that feed the sink."""
    kind = kind_of(sink)
    return [table for table in TABLES if table.route(kind) is not None]


async def snapshot(settings: Settings, since: Status | None = None, patience_s: float = 10.0) -> Status:
    """Look once; a large backlog is searched for up to `patience_s` seconds per sink.

    Args:
        since: an earlier snapshot: figures and dead letters count from there.
    """
    async with Monitor(settings) as monitor:
        return await monitor.look(patience_s, since)
