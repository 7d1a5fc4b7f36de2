"""The gate: a migration runs in the scratch database, and every captured table is judged by what became of it.

What it can't see: rows. A NOT NULL that some row breaks, a type that some value does not fit, how long a lock is held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from connectors.files import HEARTBEAT_TABLE, Connector
from downriver.settings import Settings
from processors.tables import TABLES
from processors.tables.base import Table
from schemas.compatibility import unreadable
from schemas.contracts import VALUE, Contracts, other_source
from schemas.gate import catalog, derive, outbox
from schemas.gate.catalog import PgTable
from schemas.gate.effects import SINKS, Context, Effect, Verdict, of_steps
from schemas.gate.migration import Statement, run, statements
from schemas.gate.scratch import scratch
from schemas.rows import Column, Kind, Step, column, steps

CHANGES_ROWS = re.compile(
    r"^\s*(?:UPDATE(?:\s+ONLY)?|DELETE\s+FROM|INSERT\s+INTO|MERGE\s+INTO)\s+([\w.\"]+)", re.IGNORECASE
)
USING = re.compile(r"\bUSING\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the gate found: one effect for each captured table that is touched, and what concerns no captured table."""

    effects: Sequence[Effect]
    notes: Sequence[str]
    schemas: Mapping[str, Mapping[str, object]]
    """Subject → the schema that Debezium will send, for the tables that change."""


def judge(
    settings: Settings,
    connectors: Sequence[Connector],
    contracts: Contracts,
    paths: Sequence[Path],
    programs: Path | None = None,
) -> Judgement:
    """Run the migration in a scratch database and judge every captured table.

    Raises:
        BadInput: a file, a statement or a program is at fault.
        ServerAway: PostgreSQL does not answer.
        DownriverError: the database's schema can't be copied.
    """
    import psycopg

    listed = statements(paths)
    with scratch(settings.postgres, programs) as connection:
        watched = [
            (connector, name) for connector in connectors for name in connector.tables if name != HEARTBEAT_TABLE
        ]
        before = {name: catalog.table(connection, name) for _, name in watched}
        known = catalog.tables(connection)
        run(connection, listed)
        names = catalog.tables(connection)
        after = {
            name: None if was is None or was.id not in names else catalog.table(connection, names[was.id])
            for name, was in before.items()
        }
    with psycopg.connect(settings.postgres.dsn(), autocommit=True) as live:
        rows = {name: catalog.rows(live, name) for name in before}
    effects: list[Effect] = []
    schemas: dict[str, Mapping[str, object]] = {}
    for connector, name in watched:
        was, now = before[name], after[name]
        if was is None:
            continue
        if name in connector.outboxes:
            if (effect := outbox.effect(connector, was, now, file_of(connector))) is not None:
                effects.append(effect)
            continue
        subject = f"{connector.prefix}.{name}{VALUE}"
        judged = _Judged(connector, _table(name), subject, was, now, rows[name], listed, contracts)
        effect = judged.effect()
        if effect.verdict is not Verdict.SAME or effect.why:
            effects.append(effect)
            if (schema := judged.schema()) is not None:
                schemas[subject] = schema
    events = frozenset().union(*(connector.outboxes for connector in connectors))
    return Judgement(effects, list(_notes(known, names, listed, rows, events)), schemas)


def file_of(connector: Connector) -> str:
    """Return the connector's file, as short as it can be named from here."""
    path = Path(connector.origin)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _table(name: str) -> Table | None:
    return next((table for table in TABLES if str(table.id) == name), None)


@dataclass(frozen=True, slots=True)
class _Judged:
    """One captured table before and after."""

    connector: Connector
    table: Table | None
    subject: str
    was: PgTable
    now: PgTable | None
    rows: int
    listed: Sequence[Statement]
    contracts: Contracts

    def effect(self) -> Effect:
        """Return what becomes of the table."""
        name, now = self.was.name, self.now
        if now is None:
            return self._gone(
                "is dropped", f"its rows stay in every sink as they last were, about {self.rows:,} of them"
            )
        if now.name != name:
            return self._gone(
                f"is renamed to {now.name}", "the connector captures by name: from then on its changes are lost"
            )
        found = self._steps(now)
        if broken := list(self._broken(now)):
            return Effect(
                name,
                Verdict.BREAKS,
                found,
                why=[why for why, _ in broken],
                before=[way_out for _, way_out in broken],
                sinks=dict.fromkeys(SINKS, ("what was captured before stays; see why",)),
            )
        if self.table is None:
            return Effect(
                name, Verdict.FOLLOWED if found else Verdict.SAME, found, why=["no processors/tables/ file knows it"]
            )
        effect = of_steps(found, self._context(now, found))
        if self._key(self.was) != self._key(now):
            effect = self._key_changed(effect, now)
        notes = list(self._replaced(now)) + [f"{each}: a type that can't be judged" for each in self._underivable(now)]
        return replace(effect, avro=list(self._avro(now)), why=[*effect.why, *notes])

    def schema(self) -> Mapping[str, object] | None:
        """Return the value schema that Debezium will send; None where there is none, or where it can't be derived."""
        if self.now is None or self.now.name != self.was.name:
            return None
        contract = next((each for each in self.contracts.all if each.subject == self.subject), None)
        if contract is None or contract.schema is None:
            return None
        try:
            return derive.envelope(contract.schema, derive.fields(self.now.columns, self._excluded))
        except derive.Underivable:
            return None

    @property
    def _excluded(self) -> frozenset[str]:
        prefix = f"{self.was.name}."
        return frozenset(name.removeprefix(prefix) for name in self.connector.excluded if name.startswith(prefix))

    @property
    def _file(self) -> str:
        return file_of(self.connector)

    def _gone(self, what: str, then: str) -> Effect:
        name = self.was.name
        lines = [
            f"take {name} out of processors/tables, of table.include.list in {self._file} and of the readers",
            "downriver connectors apply, and restart the workers; then migrate",
        ]
        return Effect(
            name, Verdict.BREAKS, sinks=dict.fromkeys(SINKS, (then,)), before=lines, why=[f"{name} {what}: {then}"]
        )

    def _broken(self, now: PgTable) -> Iterator[tuple[str, str]]:
        """Yield what breaks capture or the application, each with the way out."""
        name = now.name
        if not now.key:
            yield f"{name} has no primary key any more", f"keep one: ALTER TABLE {name} ADD PRIMARY KEY (…)"
        if now.identity != "f" and self.was.identity == "f":
            way_out = f"ALTER TABLE {name} REPLICA IDENTITY FULL in the same migration"
            yield f"{name} loses REPLICA IDENTITY FULL: old values, and unchanged long ones, would be missing", way_out
        if self.connector.publication in self.was.publications and self.connector.publication not in now.publications:
            way_out = f"ALTER PUBLICATION {self.connector.publication} ADD TABLE {name} in the same migration"
            yield f"{name} leaves the publication {self.connector.publication}: its changes would be lost", way_out
        yield from self._untrue(now)
        old = {each.number for each in self.was.columns}
        for each in now.columns:
            if each.generated and each.number not in old and now.identity == "f":
                yield (
                    f"{name}.{each.name} is a stored generated column: under REPLICA IDENTITY FULL PostgreSQL 18 then "
                    f"refuses every UPDATE and DELETE of the table (tried)",
                    "make it VIRTUAL, or an ordinary column that a trigger or the application fills",
                )

    def _untrue(self, now: PgTable) -> Iterator[tuple[str, str]]:
        """Yield the columns whose NULLs would travel as their default: Kafka Connect can't tell the two apart."""
        before = {each.number: each for each in self.was.columns}
        for each in now.columns:
            was = before.get(each.number)
            if each.name not in self._excluded and derive.untrue(each) and (was is None or not derive.untrue(was)):
                yield (
                    f"{now.name}.{each.name} may be NULL and has a default: its NULLs would arrive as the default (tried; "
                    "KAFKA-8713)",
                    f"ALTER TABLE {now.name} ALTER {each.name} SET NOT NULL, or DROP DEFAULT",
                )

    def _steps(self, now: PgTable) -> list[Step]:
        """Return what became of the columns; a rename is one step, for the column keeps its number."""
        old = {each.number: each for each in self.was.columns}
        new = {each.number: each for each in now.columns}
        renamed = {
            old[number].name: new[number].name
            for number in old.keys() & new.keys()
            if old[number].name != new[number].name
        }
        found = steps(self._columns(self.was), self._columns(now))
        kept = [step for step in found if step.column not in renamed and step.column not in renamed.values()]
        shown = {each.name: each.shown for each in self.was.columns}
        return [Step(name, Kind.RENAMED, shown[name], "", to) for name, to in sorted(renamed.items())] + kept

    def _columns(self, table: PgTable) -> dict[str, Column]:
        read: dict[str, Column] = {}
        for each in table.columns:
            if each.generated:
                continue
            try:
                read[each.name] = column(derive.field(each))
            except derive.Underivable:
                continue  # told by _underivable
        return read

    def _underivable(self, now: PgTable) -> Iterator[str]:
        old = {each.number: each.shown for each in self.was.columns}
        for each in now.columns:
            if old.get(each.number) != each.shown and each.name not in self._excluded and not each.generated:
                try:
                    derive.field(each)
                except derive.Underivable as error:
                    yield str(error)

    def _context(self, now: PgTable, found: Sequence[Step]) -> Context:
        assert self.table is not None  # noqa: S101  # the caller asked
        old = {each.number for each in self.was.columns}
        defaults = {each.name: each.default for each in now.columns if each.number not in old and each.default}
        retyped = {step.column for step in found if step.kind is Kind.RETYPED}
        return Context(
            self.table,
            self.subject,
            self._excluded,
            self.rows,
            self._file,
            defaults,
            frozenset(retyped | self._computed(found)),
        )

    def _computed(self, found: Sequence[Step]) -> set[str]:
        """Return the columns whose new values an ALTER … USING computes."""
        said = [each.text for each in self.listed if USING.search(each.text)]
        return {
            step.column for step in found if any(re.search(rf"\b{re.escape(step.column)}\b", text) for text in said)
        }

    def _key(self, table: PgTable) -> tuple[str, ...]:
        """Return the columns of the record key: those that message.key.columns names, else the primary key."""
        for part in self.connector.config.get("message.key.columns", "").split(";"):
            name, _, listed = part.partition(":")
            if name == table.name:
                return tuple(each.strip() for each in listed.split(","))
        return tuple(table.key)

    def _key_changed(self, effect: Effect, now: PgTable) -> Effect:
        was, is_now = ", ".join(self._key(self.was)), ", ".join(self._key(now))
        assert self.table is not None  # noqa: S101  # the caller asked
        stops = dict.fromkeys(effect.sinks, ("stops at the first row with the new key",))
        lines = [
            f"a key tells which row is meant: with ({is_now}) in place of ({was}) every store has other rows",
            f"safer: a new table beside {now.name}, filled, captured, and switched to",
        ]
        after = [
            f"workers that stopped go on after: the new key in processors/tables/{self.table.id.name}.py, the sinks' "
            "tables made anew for it, and a restart",
            f"downriver connectors reread {now.name}",
        ]
        return replace(
            effect,
            verdict=Verdict.STOPS,
            sinks=stops,
            before=[*lines, *effect.before],
            after=[*after, *effect.after],
            why=[f"the record key changes from ({was}) to ({is_now})", *effect.why],
        )

    def _replaced(self, now: PgTable) -> Iterator[str]:
        """Tell of columns that were dropped and added again under the same name: no schema shows it."""
        old = {each.name: each.number for each in self.was.columns}
        for each in now.columns:
            if each.name in old and old[each.name] != each.number:
                yield (
                    f"{each.name} is dropped and added again: its values are gone from the source, sinks keep them until "
                    f"each row changes or is read again (downriver connectors reread {now.name})"
                )

    def _avro(self, now: PgTable) -> Iterator[str]:
        """Tell what Avro's own rules say, for consumers that go by them."""
        try:
            old, new = (
                {"type": "record", "name": "Value", "fields": derive.fields(each.columns, self._excluded)}
                for each in (self.was, now)
            )
        except derive.Underivable:
            return
        yield from (f"BACKWARD: the new schema can't read old records: {why}" for why in unreadable(new, old))
        yield from (f"FORWARD: the old schema can't read new records: {why}" for why in unreadable(old, new))


def _notes(
    known: Mapping[int, str],
    names: Mapping[int, str],
    listed: Sequence[Statement],
    rows: Mapping[str, int],
    events: frozenset[str],
) -> Iterator[str]:
    """Tell what concerns no captured table, or no column."""
    for number, name in sorted(names.items()):
        if number not in known:
            adds = f"`downriver connectors add-table {name} CONNECTOR` (docs/add-a-table.md)"
            yield f"{name} is a new table: not captured until {adds}"
    for statement in listed:
        changed = CHANGES_ROWS.match(statement.text)
        if changed:
            name = changed[1].replace('"', "")
            full = name if "." in name else f"public.{name}"
            if full in events:
                yield f"{statement}: changes rows of {full}: what it inserts is sent as events, and nothing else of it"
            elif full in rows:
                yield f"{statement}: changes rows of {full}, at most about {rows[full]:,}: each is a change that travels"


def for_source(connectors: Sequence[Connector], source: str) -> list[Connector]:
    """Return the connectors as they are named for another source."""
    return [
        replace(each, config=dict(each.config) | {"topic.prefix": other_source(each.prefix, "shop", source)})
        for each in connectors
    ]
