"""From records to commands: check, stamp, decode, route. Pure but for the schema look-up; runs in a thread.

Nothing here raises for what a record holds: a record that can't be understood becomes a `Refused`, with its reason.
Only a registry that is away passes through, for the delivery to wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from processors.change import Change, CheckedRecord, Kind, Op, Record, Row, Stamp
from processors.decode import OtherKey, Undecodable
from processors.engine.contract import Stop
from processors.sinks.base import RawRoute, Route
from processors.tables.base import Table
from schemas.registry import RegistryAway

BothRows = tuple[Row | None, Row | None]
"""The row before and the row after."""


class Decoder(Protocol):
    """What this module needs of processors.decode.Decoder."""

    def check(self, record: Record) -> CheckedRecord | None: ...
    def stamp(self, checked: CheckedRecord) -> Stamp: ...
    def glance(self, checked: CheckedRecord, stamp: Stamp, columns: frozenset[str]) -> BothRows: ...
    def change(self, checked: CheckedRecord, stamp: Stamp, *, before: bool = True) -> Change: ...
    def partial(self, checked: CheckedRecord, stamp: Stamp, rows: BothRows) -> Change: ...
    def whole(self, checked: CheckedRecord) -> bool: ...


class Contract(Protocol):
    """What this module needs of processors.engine.contract.Contracts."""

    def stopped(self, checked: CheckedRecord, stamp: Stamp) -> Stop | None: ...


class TableRules(Protocol):
    """What this module needs of processors.propagation.rules.TableRules."""

    @property
    def columns(self) -> frozenset[str]: ...
    def needs_row(self, stamp: Stamp) -> bool: ...
    def counts(self, stamp: Stamp, rows: BothRows | None) -> Sequence[str]: ...


class Rows(Enum):
    """How much of a record a route needs decoded (design decision 7)."""

    NONE = "none"
    """It is a raw route: the sink parses the wire format itself."""
    KEY = "key"
    """It reads no column but the key's."""
    SOME = "some"
    """It reads a few columns of both rows."""
    LATEST = "latest"
    """Of several changes of one key only the newest, and of that the row after, the one before only for what it lacks."""
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """What the worker's sink does with the records of one topic: decided once, not asked for each record.

    Attributes:
        routed: the columns that the route reads, for Rows.SOME.
        columns: these, and what the rules compare.
    """

    route: Any
    rows: Rows
    rules: TableRules
    routed: frozenset[str]
    columns: frozenset[str]

    @classmethod
    def of(cls, table: Table, route: Route | RawRoute, rules: TableRules) -> TopicPlan:
        """Make the plan for the table's topic."""
        if not isinstance(route, Route):
            return cls(route, Rows.NONE, rules, frozenset(), rules.columns)
        columns: Collection[str] | None = getattr(route, "columns", None)  # a route may say which ones it reads
        if columns is not None:
            routed = frozenset(columns)
            rows = Rows.KEY if routed <= set(table.key) else Rows.SOME
            return cls(route, rows, rules, routed, rules.columns | routed)
        rows = Rows.LATEST if getattr(route, "latest_alone", False) else Rows.BOTH
        return cls(route, rows, rules, frozenset(), rules.columns)


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
        commands: for the sink's `write`, those of one key in record order.
        owners: for each command the index of its record.
        samples: for each record that a rule counts, per rule, by the record's (topic, partition).
        skipped: records that mean nothing to anybody: tombstones, heartbeats.
        coalesced: records without a command because a newer change of their key is among the records.
        stopped: by (topic, partition), the offset from which on its records must wait, and why.
    """

    commands: list[Any] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    skipped: int = 0
    coalesced: int = 0
    stopped: dict[tuple[str, int], tuple[int, Stop]] = field(default_factory=dict)


def prepare(
    records: Sequence[Record], plans: Mapping[str, TopicPlan], decoder: Decoder, contract: Contract | None = None
) -> Prepared:
    """Turn records into the sink's commands.

    Args:
        plans: by topic; every record's topic has one.
        contract: tells which records must wait for a decision; None: none must.

    Raises:
        RegistryAway: nothing was decided; call again later.
    """
    made = Prepared()
    kept: _Kept = {}
    for index, record in enumerate(records):
        if made.stopped and (record.topic, record.partition) in made.stopped:
            continue
        try:
            _prepare_one(made, index, record, plans[record.topic], decoder, kept, contract)
        except OtherKey as error:
            way_on = "to go on: the new key in its table file, the sinks' tables made anew for it, a restart (docs/schemas.md)"
            made.stopped[record.topic, record.partition] = record.offset, Stop(record.topic, str(error), way_on)
        except Undecodable as error:
            made.refused.append(Refused(record, str(error)))
        except RegistryAway:
            raise
        except Exception as error:  # a route's or the decoder's own fault: one record, not the worker
            made.refused.append(Refused(record, _fault(error)))
    for (topic, _), same_key in kept.items():
        _add_newest(made, same_key, plans[topic], decoder)
    return made


class _Seen(NamedTuple):
    """A record of a route that wants the newest of each key alone, not decoded yet."""

    place: int
    checked: CheckedRecord
    stamp: Stamp

    @property
    def order(self) -> tuple[int, bool]:
        """What orders the changes of one key as their versions do, within one epoch."""
        stamp = self.stamp
        return (0, True) if stamp.kind is Kind.SNAPSHOT else (stamp.lsn, stamp.op is not Op.DELETE)


_Kept = dict[tuple[str, bytes | None], list[_Seen]]
"""Topic and record key → its records."""


def _prepare_one(
    made: Prepared,
    index: int,
    record: Record,
    plan: TopicPlan,
    decoder: Decoder,
    kept: _Kept,
    contract: Contract | None,
) -> None:
    checked = decoder.check(record)
    if checked is None:
        made.skipped += 1
        return
    stamp = decoder.stamp(checked)
    if contract is not None and (stop := contract.stopped(checked, stamp)) is not None:
        made.stopped[record.topic, record.partition] = record.offset, stop
        return
    needed = plan.rules.needs_row(stamp)
    rows: BothRows = None, None
    if plan.rows is Rows.BOTH:
        change = decoder.change(checked, stamp)
        rows = change.before, change.after
        _add(made, index, plan.route.commands(change))
    else:
        if needed or plan.rows is Rows.SOME:
            rows = decoder.glance(checked, stamp, plan.columns if needed else plan.routed)
        if plan.rows is Rows.NONE:
            _add(made, index, plan.route.raw(checked))
        elif plan.rows is not Rows.LATEST:
            _add(made, index, plan.route.commands(decoder.partial(checked, stamp, rows)))
    if rules := plan.rules.counts(stamp, rows if needed else None):
        samples = made.samples.setdefault((record.topic, record.partition), [])
        samples.extend([(rule, stamp.committed_us // 1000, record.offset) for rule in rules])
    if plan.rows is Rows.LATEST:
        same_key = kept.setdefault((record.topic, record.key), [])
        same_key.append(_Seen(index, checked, stamp))
        if not decoder.whole(checked):  # it lacks columns, which what came before it has: both are written
            last = same_key.pop()
            _add_newest(made, same_key, plan, decoder)
            same_key.clear()
            _add(made, index, plan.route.commands(decoder.change(checked, last.stamp, before=False)))


def _add_newest(made: Prepared, same_key: list[_Seen], plan: TopicPlan, decoder: Decoder) -> None:
    """Add the commands of the newest record that can be decoded; the first of equals. The older ones need none."""
    left = list(same_key)
    while left:
        newest = max(left, key=lambda seen: seen.order)
        left.remove(newest)
        try:
            change = decoder.change(newest.checked, newest.stamp, before=False)
            _add(made, newest.place, plan.route.commands(change))
        except Undecodable as error:
            made.refused.append(Refused(newest.checked.record, str(error)))
        except Exception as error:  # as in `prepare`
            made.refused.append(Refused(newest.checked.record, _fault(error)))
        else:
            made.coalesced += len(left)
            return


def _add(made: Prepared, index: int, commands: Sequence[Any]) -> None:
    made.commands.extend(commands)
    made.owners.extend([index] * len(commands))


def _fault(error: Exception) -> str:
    return f"{type(error).__name__} while preparing the record: {error}"
