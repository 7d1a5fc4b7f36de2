"""The contract between the engine and every sink. Pure; the engine calls, sinks answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar, runtime_checkable

from downriver.exits import DownriverError
from processors.change import Change, CheckedRecord


class Outcome(StrEnum):
    """What became of one command, and what the engine does about it."""

    APPLIED = "applied"
    """Written. The engine acknowledges."""
    STALE = "stale"
    """The store already holds this or something newer: nothing to do. Counted, acknowledged, no error."""
    RETRY = "retry"
    """Not now (throttled, not visible yet). The engine writes it again, after a back-off, in place."""
    REJECTED = "rejected"
    """Never (a mapping refuses the value). The engine makes it a dead letter, then acknowledges."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one command, with the store's reason where it is RETRY or REJECTED."""

    outcome: Outcome
    reason: str = ""


APPLIED = Verdict(Outcome.APPLIED)
STALE = Verdict(Outcome.STALE)


def retry(reason: str) -> Verdict:
    """Return the verdict RETRY with its reason."""
    return Verdict(Outcome.RETRY, reason)


def rejected(reason: str) -> Verdict:
    """Return the verdict REJECTED with its reason."""
    return Verdict(Outcome.REJECTED, reason)


@dataclass(frozen=True, slots=True)
class Pace:
    """How a sink likes its batches; the engine makes them so.

    Attributes:
        max_records: in one claim, about.
        extra: claims written at the same time besides each lane's own one; these take the first lane's batches first.
        linger_s: at least this long between the starts of two claims of one lane: what comes meanwhile joins the next
            one (many small inserts hurt ClickHouse, many small refreshes Elasticsearch).
        fetch_s: while records flow, the broker may hold a fetch back this long for more of them to come; the first after
            a pause is fetched at once.
    """

    max_records: int
    extra: int
    linger_s: float = 0.0
    fetch_s: float = 0.05


class SinkUnavailable(DownriverError):
    """The store did not answer, or answered that it can't now: nothing was decided for the whole batch.

    The message names the server and what it said. The engine waits with back-off and writes the same batch again.
    """


In = TypeVar("In", contravariant=True)


class Sink(Protocol[In]):
    """A store that takes commands. At-least-once delivery, effectively-once effect: idempotent by (key, version).

    Who calls what, in which order: the engine calls `open()` once; then `write()` any number of times, several at
    once for different partitions (never two at once for one partition, so the changes of one key come in order);
    after a successful write `shown()`; `close()` once, when no call is under way.

    `write(batch)` returns one verdict per command, same length, same order. It may be called again with all or any
    part of an earlier batch: after a crash, a lost reply, a rebalance. It coalesces several commands of one key
    itself, where only the last matters. It never buffers, never acknowledges and does not retry a server that is
    away: it raises SinkUnavailable. Any other exception is taken for the data's fault: the engine halves the batch
    until the one command that raises is alone, and makes that a dead letter after three attempts.

    `shown()` returns when a reader of the store sees everything that this sink's `write()` calls had applied when
    `shown()` was called. A store that shows at once returns at once. It may raise SinkUnavailable.
    """

    @property
    def name(self) -> str:
        """The instance, such as `search` or `cache-eu`: it names the consumer group and labels the metrics."""

    @property
    def pace(self) -> Pace:
        """How it likes its batches: a class attribute will do."""

    async def open(self) -> None:
        """Connect and check what the sink needs (indexes, tables, versions). Raises SinkUnavailable or BadInput."""

    async def write(self, batch: Sequence[In]) -> Sequence[Verdict]:
        """Apply the commands; see the class."""

    async def shown(self) -> None:
        """Wait until a reader sees what was written; see the class."""

    async def close(self) -> None:
        """Close connections. Never raises for a server that is away."""


@runtime_checkable
class Route(Protocol):
    """What a change of one table means for one kind of sink. Pure: no I/O, no clock, tested as a function.

    A route gets whole rows unless it says that it reads less, which is what a replay's speed hangs on: `columns`, the
    names it reads of both rows; or `latest_alone = True`: of several changes of one key in a batch only the newest means
    anything to it, and of that the row after alone (the one before only for columns that the other lacks).

    `reads`, or else `columns`, also says which columns it can't do without: a migration that takes one away stops the
    table for this sink (processors.engine.contract). A route that has neither reads every column that sinks may hold.
    """

    @property
    def sink(self) -> str:
        """The kind of sink, a key of SINKS: cache, search, analytics."""

    def commands(self, change: Change) -> Sequence[Any]:
        """Return the sink's commands for the change, none if it means nothing to it."""


@runtime_checkable
class RawRoute(Protocol):
    """A route for a sink that parses the wire format itself: it gets checked records, undecoded."""

    @property
    def sink(self) -> str:
        """The kind of sink."""

    def raw(self, record: CheckedRecord) -> Sequence[Any]:
        """Return the sink's commands for the record."""
