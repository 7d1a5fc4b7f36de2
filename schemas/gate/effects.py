"""What a change of a table means downstream: for each sink, and what is to be done about it, in order.

Pure: a table before and after, its table file, its connector. The words are those of `downriver schemas gate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from processors.sinks.analytics.route import DecodedAnalytics
from processors.tables.base import Class, Table
from schemas.rows import STOPS, Kind, Step

SINKS = ("cache", "search", "analytics")


class Verdict(StrEnum):
    """What becomes of a table, from harmless to harmful."""

    SAME = "unchanged"
    FOLLOWED = "followed"
    """Workers follow by themselves, without a restart; nothing is lost."""
    FIRST = "something first"
    """Workers follow, but something has to be done before the migration."""
    STOPS = "stops"
    """Workers stop this table, and no other, until somebody says how to go on."""
    BREAKS = "breaks"
    """Capture breaks, or the application does: not to be run like this."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What happens to one table.

    Attributes:
        steps: what becomes of its columns.
        sinks: sink → what happens there.
        before: what to do before the migration, in order; `after`: after it.
        avro: what Avro's own checker says, both ways.
    """

    table: str
    verdict: Verdict
    steps: Sequence[Step] = ()
    sinks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    avro: Sequence[str] = ()
    why: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Context:
    """What an effect depends on besides the columns.

    Attributes:
        subject: of the values.
        excluded: columns that the connector leaves out.
        rows: about how many there are in the database in use.
        connector: the file that captures the table.
        defaults: of added columns, name → the default's SQL.
        rewritten: columns whose values the migration may compute anew, for which PostgreSQL sends no change.
    """

    table: Table
    subject: str
    excluded: frozenset[str]
    rows: int
    connector: str
    defaults: Mapping[str, str] = field(default_factory=dict)
    rewritten: frozenset[str] = frozenset()


RANK = list(Verdict)


def worst(effects: Iterable[Effect]) -> Verdict:
    """Return the worst verdict."""
    return max((effect.verdict for effect in effects), key=RANK.index, default=Verdict.SAME)


def of_steps(steps: Sequence[Step], context: Context) -> Effect:
    """Return what the steps mean."""
    name = str(context.table.id)
    captured = [step for step in steps if step.column not in context.excluded]
    sinks = {sink: list(_at(sink, captured, context)) for sink in SINKS if context.table.route(sink) is not None}
    before = list(_before(captured, context))
    after = list(_after(captured, context))
    if any(stops(step, context.table) for step in captured):
        verdict = Verdict.STOPS
    elif before:
        verdict = Verdict.FIRST
    else:
        verdict = Verdict.FOLLOWED if steps else Verdict.SAME
    why = [
        f"{step}: not captured (column.exclude.list of {context.connector})" for step in steps if step not in captured
    ]
    return Effect(name, verdict, steps, sinks, before, after, why=why)


def reads(table: Table, sink: str, column: str) -> bool:
    """Whether the table's route to that sink reads the column."""
    route = table.route(sink)
    if route is None:
        return False
    listed = getattr(route, "reads", None) or getattr(route, "columns", None)  # a route may say which ones it reads
    if listed is not None:
        return column in listed
    return table.class_of(column) is not Class.RESTRICTED


def stops(step: Step, table: Table) -> bool:
    """Whether any sink stops at it. A key that takes more values stops too: no store can widen what it sorts by."""
    if step.kind is Kind.WIDENED and step.column in table.key:
        return True
    return step.kind in STOPS and bool(_readers(step.column, table))


def _readers(column: str, table: Table) -> list[str]:
    return [sink for sink in SINKS if reads(table, sink, column)]


def _at(sink: str, steps: Sequence[Step], context: Context) -> Iterator[str]:
    """Tell what happens at one sink, step by step."""
    told = False
    for step in steps:
        for line in _step_at(sink, step, context):
            told = True
            yield line
    if not told:
        yield "nothing"


def _step_at(sink: str, step: Step, context: Context) -> Iterator[str]:
    table = context.table
    read = reads(table, sink, step.column)
    if stops(step, table):
        if read and step.kind in (Kind.DROPPED, Kind.RENAMED):
            yield f"stops at the first row without {step.column}"
        elif read:
            yield f"stops at the first row with the new type of {step.column}"
        return
    if sink == "cache" or not read:
        if step.kind is Kind.ADDED and sink == "analytics" and isinstance(table.route(sink), DecodedAnalytics):
            yield f"{step.column} is not stored: DecodedAnalytics does not list it"
        return
    if step.kind is Kind.ADDED and sink == "analytics" and step.after.startswith("io.debezium."):
        yield f"{step.column} is not stored: ClickHouse has no column for {step.after}; a numeric needs a precision"
    elif step.kind is Kind.ADDED:
        yield f"{step.column} is {'a new field with a mapping of its own' if sink == 'search' else 'a new column'}"
    elif step.kind in (Kind.WIDENED, Kind.NULLABLE) and sink == "analytics":
        yield f"the column {step.column} is widened where it must be ({step.before} → {step.after})"


def _before(steps: Iterable[Step], context: Context) -> Iterator[str]:
    """Tell what to do first."""
    table, name = context.table, context.table.id
    file = f"processors/tables/{name.name}.py"
    for step in steps:
        if step.kind is Kind.ADDED and table.class_of(step.column) is Class.RESTRICTED:
            if step.column in table.columns:
                yield f"{name}.{step.column} is Restricted: add it to column.exclude.list in {context.connector} and apply"
            else:
                yield (
                    f"say what {name}.{step.column} is in {file} and deploy the workers; unclassified it counts as "
                    f"Restricted: add it to column.exclude.list in {context.connector} and apply, or it reaches the topic"
                )
        if stops(step, table) and (readers := _readers(step.column, table)):
            yield (
                f"take {step.column} out of what {', '.join(readers)} and their readers use"
                + (
                    f"; better: add {step.to}, fill it, switch readers over, and drop {step.column} last"
                    if step.to
                    else ""
                )
            )
            yield (
                f"to let workers go on by themselves, accept it beforehand: "
                f"downriver schemas accept {context.subject} --column {step.column}"
            )


def _after(steps: Iterable[Step], context: Context) -> Iterator[str]:
    """Tell what to do afterwards."""
    table = context.table
    steps = list(steps)
    for step in steps:
        if not stops(step, table):
            continue
        yield f"workers that stopped go on after: downriver schemas accept {context.subject} --column {step.column}"
    stale = sorted(
        {step.column for step in steps if step.kind is Kind.ADDED and step.column in context.defaults}
        | {step.column for step in steps if step.kind is Kind.RENAMED}
        | {step.column for step in steps if step.column in context.rewritten}
    )
    stale = [column for column in stale if _readers(column, table)]
    if stale and context.rows:
        yield (
            f"about {context.rows:,} row(s) that are there already change without a change being sent "
            f"({', '.join(stale)}): downriver connectors reread {table.id}"
        )
    if steps:
        yield f"pin what the table now sends: downriver schemas pull {context.subject}"
