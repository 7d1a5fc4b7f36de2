"""Which records a sink can't go on with, because a migration took away or changed what its route reads.

Reads and keeps the notes of schemas.agreed. A record is stopped, not refused: its partition waits, others go on, and once
somebody accepts what happened it goes on from there. Blocking (the registry); called in the threads that prepare.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from processors.change import CheckedRecord, Stamp
from processors.sinks.base import RawRoute, Route
from processors.tables.base import Class, Table
from schemas.agreed import Agreed, Agreements, Problem
from schemas.registry import Refused, SchemaRegistry
from schemas.rows import Column, Kind, columns

log = structlog.get_logger(__name__)
ASK_AGAIN_S = 1.0
"""How often the note on a stopped topic is read again."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a topic stands still for this sink, and how it goes on."""

    topic: str
    reason: str
    way_on: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.way_on}"


@dataclass(slots=True)
class _Topic:
    """What is known of one topic: its note, the columns of each schema, and beyond which LSN a schema stops us."""

    table: Table
    reads: Callable[[str], bool]
    agreed: Agreed = field(default_factory=Agreed)
    schemas: dict[int, Mapping[str, Column]] = field(default_factory=dict)
    limits: dict[int, tuple[int, tuple[Problem, ...]]] = field(default_factory=dict)
    read_at: float = 0.0


NEVER = 1 << 64
"""Beyond every LSN."""


class Contracts:
    """The contracts of one worker's topics. Thread-safe.

    Args:
        tables: by topic, with the route that the worker's sink has for each.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        registry: SchemaRegistry,
        tables: Mapping[str, tuple[Table, Route | RawRoute]],
        sink: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreements = Agreements(registry)
        self._sink = sink
        self._clock = clock
        self._lock = threading.Lock()
        self._topics = {topic: _Topic(table, reads(table, route)) for topic, (table, route) in tables.items()}

    def stopped(self, checked: CheckedRecord, stamp: Stamp) -> Stop | None:
        """Return why this record, and what follows it in its partition, must wait; None if it need not.

        Raises:
            RegistryAway: nothing can be said now.
        """
        topic = self._topics[checked.record.topic]
        limit = topic.limits.get(checked.schema_id)
        if limit is not None and stamp.lsn <= limit[0]:
            return None
        with self._lock:
            return self._look(checked.record.topic, topic, checked, stamp.lsn)

    def _look(self, name: str, topic: _Topic, checked: CheckedRecord, lsn: int) -> Stop | None:
        if checked.schema_id not in topic.schemas:
            found = columns(checked.schema)
            topic.schemas[checked.schema_id] = {n: c for n, c in found.items() if n not in topic.table.excluded}
        elif self._clock() - topic.read_at < ASK_AGAIN_S and not self._back(topic, checked.schema_id, lsn):
            return self._verdict(name, topic, checked.schema_id, lsn)
        mine = topic.schemas[checked.schema_id]
        topic.agreed = self._note(name, topic, lambda held: held.seen(mine, lsn, topic.table.key))
        topic.read_at = self._clock()
        stop = self._verdict(name, topic, checked.schema_id, lsn)
        if stop is not None:
            told = {problem.column: str(problem) for problem in self._at(topic, checked.schema_id, lsn)}
            topic.agreed = self._note(name, topic, lambda held: held.wait(told))
        return stop

    def _verdict(self, name: str, topic: _Topic, schema_id: int, lsn: int) -> Stop | None:
        """Renew the limits of every schema of the topic, then judge one record."""
        for each, listed in topic.schemas.items():
            problems = tuple(p for p in topic.agreed.problems(listed, topic.table.key) if self._concerns(topic, p))
            gone = [topic.agreed.gone[column] for column in listed if column in topic.agreed.gone]
            topic.limits[each] = min([*gone, *(problem.since for problem in problems)], default=NEVER), problems
        at_fault = self._at(topic, schema_id, lsn)
        if not at_fault:
            return None
        told = "; ".join(str(problem) for problem in at_fault)
        named = " ".join(f"--column {problem.column}" for problem in at_fault)
        return Stop(
            name,
            f"a migration of {topic.table.id} took away what {self._sink} reads: {told}",
            f"to go on without it: downriver schemas accept {name}-value {named}",
        )

    @staticmethod
    def _back(topic: _Topic, schema_id: int, lsn: int) -> bool:
        """Whether a column whose end was accepted is there again."""
        return any(lsn > topic.agreed.gone.get(column, NEVER) for column in topic.schemas[schema_id])

    @staticmethod
    def _at(topic: _Topic, schema_id: int, lsn: int) -> list[Problem]:
        return [problem for problem in topic.limits[schema_id][1] if lsn > problem.since]

    @staticmethod
    def _concerns(topic: _Topic, problem: Problem) -> bool:
        """Whether the route reads the column; a key that grows concerns every store that sorts by it."""
        return topic.reads(problem.column) and (problem.kind is not Kind.WIDENED or problem.column in topic.table.key)

    def _note(self, name: str, topic: _Topic, change: Callable[[Agreed], Agreed]) -> Agreed:
        try:
            return self._agreements.update(name, change)
        except Refused as error:  # it may be read only to us: then this worker knows what it has seen itself
            log.warning("note_not_kept", topic=name, reason=str(error))
            return change(topic.agreed)


def reads(table: Table, route: Route | RawRoute) -> Callable[[str], bool]:
    """Return what tells whether the route reads a column of the table."""
    listed = getattr(route, "reads", None) or getattr(route, "columns", None)
    if listed is not None:
        chosen = frozenset(listed)
        return chosen.__contains__
    return lambda column: table.class_of(column) is not Class.RESTRICTED
