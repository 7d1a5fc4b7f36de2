"""From records to commands: check, stamp, decode, route. Pure but for the schema look-up; runs in a thread.

Nothing here raises for what a record holds: a record that can't be understood becomes a `Refused`, with its reason.
Only a registry that is away passes through, for the delivery to wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from processors.change import Change, CheckedRecord, Record, Stamp
from processors.decode import Undecodable
from processors.sinks.base import RawRoute, Route
from processors.tables.base import Table
from schemas.registry import RegistryAway


class Decoder(Protocol):
    """What this module needs of processors.decode.Decoder."""

    def check(self, record: Record) -> CheckedRecord | None: ...
    def stamp(self, checked: CheckedRecord) -> Stamp: ...
    def change(self, checked: CheckedRecord) -> Change: ...
    def keyed(self, checked: CheckedRecord, stamp: Stamp) -> Change: ...


class TableRules(Protocol):
    """What this module needs of processors.propagation.rules.TableRules."""

    def needs_row(self, stamp: Stamp) -> bool: ...
    def counts(self, stamp: Stamp, change: Change | None) -> Sequence[str]: ...


class Rows(Enum):
    """How much of a record a route needs decoded (design decision 7)."""

    NONE = "none"
    """It is a raw route: the sink parses the wire format itself."""
    KEY = "key"
    """It reads no column but the key's."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What the worker's sink does with the records of one topic: decided once, not asked for each record."""

    route: Any
    rows: Rows
    rules: TableRules

    @classmethod
    def of(cls, table: Table, route: Route | RawRoute, rules: TableRules) -> TopicPlan:
        """Make the plan for the table's topic."""
        if not isinstance(route, Route):
            return cls(route, Rows.NONE, rules)
        columns: Collection[str] | None = getattr(route, "columns", None)  # a route may say which ones it reads
        keyed = columns is not None and set(columns) <= set(table.key)
        return cls(route, Rows.KEY if keyed else Rows.ALL, rules)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that can never be delivered: it becomes a dead letter."""

    record: Record
    reason: str


Sample = tuple[str, int, int]
"""A change that a rule counts: rule, commit time in milliseconds since the epoch, offset."""


@dataclass(slots=True)
class Prepared:
    """What a sequence of records means for the sink.

    Attributes:
        commands: for the sink's `write`, in record order.
        owners: for each command the index of its record.
        samples: for each record that a rule counts, per rule, by the record's (topic, partition).
        skipped: records that mean nothing to anybody: tombstones, heartbeats.
    """

    commands: list[Any] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    skipped: int = 0


def prepare(records: Sequence[Record], plans: Mapping[str, TopicPlan], decoder: Decoder) -> Prepared:
    """Turn records into the sink's commands.

    Args:
        plans: by topic; every record's topic has one.

    Raises:
        RegistryAway: nothing was decided; call again later.
    """
    made = Prepared()
    for index, record in enumerate(records):
        try:
            _prepare_one(made, index, record, plans[record.topic], decoder)
        except Undecodable as error:
            made.refused.append(Refused(record, str(error)))
        except RegistryAway:
            raise
        except Exception as error:  # a route's or the decoder's own fault: one record, not the worker
            reason = f"{type(error).__name__} while preparing the record: {error}"
            made.refused.append(Refused(record, reason))
    return made


def _prepare_one(made: Prepared, index: int, record: Record, plan: TopicPlan, decoder: Decoder) -> None:
    checked = decoder.check(record)
    if checked is None:
        made.skipped += 1
        return
    stamp = decoder.stamp(checked)
    change = decoder.change(checked) if plan.rules.needs_row(stamp) else None
    if plan.rows is Rows.NONE:
        commands = plan.route.raw(checked)
    elif change is None and plan.rows is Rows.KEY:
        commands = plan.route.commands(decoder.keyed(checked, stamp))
    else:
        commands = plan.route.commands(change or decoder.change(checked))
    made.commands.extend(commands)
    made.owners.extend([index] * len(commands))
    if rules := plan.rules.counts(stamp, change):
        samples = made.samples.setdefault((record.topic, record.partition), [])
        samples.extend((rule, stamp.committed_ms, record.offset) for rule in rules)
