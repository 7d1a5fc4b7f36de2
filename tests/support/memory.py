"""A sink in memory that keeps the contract, and can be told to break: the reference for unit tests and the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from processors.change import Change
from processors.sinks.base import APPLIED, STALE, Pace, SinkUnavailable, Verdict

Fault = Callable[[Sequence["Put"]], Sequence[Verdict] | None]


@dataclass(frozen=True, slots=True)
class Put:
    """Keep `value` under `key` unless something newer is there; None is a delete that leaves a mark."""

    key: str
    version: int
    value: str | None


@dataclass(frozen=True, slots=True)
class MemoryRoute:
    """Every change puts its row's text under its key."""

    sink: str = "memory"

    def commands(self, change: Change) -> Sequence[Put]:
        """One command for every change."""
        value = None if change.deleted else repr(sorted(change.row.items()))
        return [Put(repr(sorted(change.key.items())), change.version, value)]


@dataclass(slots=True)
class MemorySink:
    """Rows by key with their versions.

    Attributes:
        faults: taken one a write, first first: returns verdicts, raises, or returns None to let the write through.
    """

    name: str = "memory"
    pace: ClassVar[Pace] = Pace(max_records=100, extra=2)
    rows: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    writes: list[list[Put]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    async def open(self) -> None:
        """Count."""
        self.opened += 1

    async def write(self, batch: Sequence[Put]) -> Sequence[Verdict]:
        """Keep what is newer."""
        self.writes.append(list(batch))
        if self.faults and (verdicts := self.faults.pop(0)(batch)) is not None:
            return verdicts
        return [self._put(put) for put in batch]

    def _put(self, put: Put) -> Verdict:
        if put.key in self.rows and self.rows[put.key][0] >= put.version:
            return STALE
        self.rows[put.key] = (put.version, put.value)
        return APPLIED

    async def shown(self) -> None:
        """What is written is seen."""

    async def close(self) -> None:
        """Count."""
        self.closed += 1


def away(_: Sequence[Put]) -> Sequence[Verdict] | None:
    """A fault: the store does not answer."""
    msg = "memory does not answer"
    raise SinkUnavailable(msg)


def reply_lost(sink: MemorySink) -> Fault:
    """A fault: the write is applied, the reply is lost. The most useful of all."""

    def fault(batch: Sequence[Put]) -> Sequence[Verdict] | None:
        for put in batch:
            sink._put(put)
        msg = "the connection broke after the write"
        raise SinkUnavailable(msg)

    return fault
