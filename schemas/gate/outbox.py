"""What a migration does to an outbox: its rows leave as events, so it has no contract and no sink reads it. Pure.

What can break is the way of the events: Debezium's EventRouter asks for columns by name.
"""

from __future__ import annotations

from collections.abc import Iterator

from connectors.connector import Connector, event_columns
from schemas.gate.catalog import PgTable
from schemas.gate.effects import Effect, Verdict

LEFT_OUT = "an outbox: its rows leave as events (docs/outbox.md), so no contract, schema or sink is judged"


def effect(connector: Connector, was: PgTable, now: PgTable | None, file: str) -> Effect | None:
    """Return what becomes of the events, None where the table stays as it was."""
    if now == was:
        return None
    broken = list(_broken(connector, was, now, file))
    return Effect(
        was.name,
        Verdict.BREAKS if broken else Verdict.SAME,
        before=[way_out for _, way_out in broken],
        why=[*(why for why, _ in broken), LEFT_OUT],
    )


def _broken(connector: Connector, was: PgTable, now: PgTable | None, file: str) -> Iterator[tuple[str, str]]:
    """Yield what ends the events, each with the way out."""
    if now is None or now.name != was.name:
        what = "is dropped" if now is None else f"is renamed to {now.name}"
        yield (
            f"{was.name} {what}: no event is captured from then on",
            f"let {connector.name} capture what takes its place: table.include.list and predicates in {file}",
        )
        return
    publication = connector.publication
    if publication in was.publications and publication not in now.publications:
        way_out = f"ALTER PUBLICATION {publication} ADD TABLE {now.name} in the same migration"
        yield f"{now.name} leaves the publication {publication}: its events would be lost", way_out
    columns = {column.name for column in now.columns}
    for column in sorted({column.name for column in was.columns} & event_columns(connector.config, was.name) - columns):
        yield (
            f"{now.name}.{column} goes, and the EventRouter asks for it: the task fails at the next event (tried)",
            f"take it out of transforms.* in {file} and apply, then migrate",
        )
