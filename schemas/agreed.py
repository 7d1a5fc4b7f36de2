"""What is agreed of a captured table: its columns as workers have seen them, and what a person accepted of their end.

A schema alone can't tell a dropped column from one that is not there yet: a column that is dropped again gives the table's
old schema back, with its old id (tried). So workers note from which LSN on they have seen each column. An ALTER TABLE waits
for every writer of its table, so for one table LSNs do tell before from after.

The note is kept in the registry, in the subject `<topic>-agreed`, which every worker can reach already: a record without
fields whose attributes hold it. Nothing is ever sent with it. Pure but for `Agreements`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from downriver.exits import DownriverError
from downriver.versions import UnknownVersion, Versions
from schemas.registry import RegistryAway, SchemaRegistry, Version
from schemas.rows import STOPS, Column, Kind, changes

SUFFIX = "-agreed"
ATTRIBUTE = "downriver"
TRIES = 10
VERSIONS = Versions("a note")
KNOWN = frozenset(each.name for each in fields(Column))
"""What this program knows to say of a column; what a newer one adds within a version is passed over."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A column, and the LSN of a record that held it: its column was there from that LSN on, if not before."""

    column: Column
    since: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What readers of a column can't go on with, in records of one schema beyond the LSN `since`."""

    column: str
    kind: Kind
    since: int
    before: str
    after: str

    def __str__(self) -> str:
        change = " → ".join(part for part in (self.before, self.after) if part)
        return f"{self.column} is {self.kind} ({change})"


@dataclass(frozen=True, slots=True)
class Agreed:
    """The note on one topic.

    Attributes:
        columns: those that its records have, by name.
        gone: columns whose end was accepted → the LSN from which on they are gone.
        accepted: columns whose next problem is accepted: workers go on when they meet it.
        waiting: what workers stopped at and nobody has accepted yet: column → a sentence.
    """

    columns: Mapping[str, Seen] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()
    waiting: Mapping[str, str] = field(default_factory=dict)

    def seen(self, columns: Mapping[str, Column], lsn: int, key: Sequence[str] = ()) -> Agreed:
        """Return the note after a record of that LSN with these columns."""
        known, gone, accepted = dict(self.columns), dict(self.gone), set(self.accepted)
        for problem in self.problems(columns, key):
            if problem.column in accepted and lsn > problem.since:
                accepted.discard(problem.column)
                was = known.pop(problem.column)
                if problem.kind is Kind.DROPPED:
                    gone[problem.column] = lsn
                else:
                    known[problem.column] = replace(was, column=columns[problem.column], since=lsn)
        for name, column in columns.items():
            if name in gone and lsn <= gone[name]:
                continue  # a late record from before its end
            was_seen = known.get(name)
            if was_seen is None:
                known[name] = Seen(column, lsn)
                gone.pop(name, None)
            elif was_seen.column != column and lsn > was_seen.since and not _stops(was_seen.column, column, name, key):
                known[name] = Seen(column, lsn)
        return Agreed(
            known, gone, frozenset(accepted), {k: v for k, v in self.waiting.items() if k not in self.accepted}
        )

    def problems(self, columns: Mapping[str, Column], key: Sequence[str] = ()) -> list[Problem]:
        """Return what can't be followed in records with these columns, each beyond its LSN."""
        found = []
        for name, was in self.columns.items():
            now = columns.get(name)
            if now is None:
                found.append(Problem(name, Kind.DROPPED, was.since, str(was.column), ""))
            elif kind := _stops(was.column, now, name, key):
                found.append(Problem(name, kind, was.since, str(was.column), str(now)))
        return found

    def accept(self, *columns: str) -> Agreed:
        """Return the note with the next problem of these columns accepted."""
        waiting = {name: told for name, told in self.waiting.items() if name not in columns}
        return replace(self, accepted=self.accepted | set(columns), waiting=waiting)

    def wait(self, told: Mapping[str, str]) -> Agreed:
        """Return the note with what workers stopped at: column → a sentence."""
        new = {name: sentence for name, sentence in told.items() if name not in self.accepted}
        return replace(self, waiting=dict(self.waiting) | new)

    def document(self, topic: str, number: int) -> dict[str, Any]:
        """Return the note as an Avro record without fields: what the registry takes. `number` makes it one of its own."""
        held = {
            "version": VERSIONS.newest,
            "number": number,
            "columns": {
                name: {"since": seen.since}
                | {k: v for k, v in asdict(seen.column).items() if v not in (None, (), "", False)}
                for name, seen in sorted(self.columns.items())
            },
            "gone": dict(sorted(self.gone.items())),
            "accepted": sorted(self.accepted),
            "waiting": dict(sorted(self.waiting.items())),
        }
        return {"type": "record", "name": "Agreed", "namespace": topic, "fields": [], ATTRIBUTE: held}


def read(document: Mapping[str, Any]) -> Agreed:
    """Read what `document` wrote.

    Raises:
        UnknownVersion: a newer worker wrote it.
    """
    held = document.get(ATTRIBUTE) or {}
    held = VERSIONS.cast(held, held.get("version", 1))
    columns = {}
    for name, each in (held.get("columns") or {}).items():
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in each.items() if k in KNOWN}
        columns[name] = Seen(Column(**values), int(each["since"]))
    return Agreed(
        columns, held.get("gone") or {}, frozenset(held.get("accepted") or ()), dict(held.get("waiting") or {})
    )


def _stops(was: Column, now: Column, name: str, key: Sequence[str]) -> Kind | None:
    """Return the change that readers can't follow, None if there is none. No store widens what it sorts by."""
    for kind in changes(was, now):
        if kind in STOPS or (kind is Kind.WIDENED and name in key):
            return kind
    return None


class Agreements:
    """The notes, in the registry. Blocking. Two workers may write at once: what is lost is seen and written again."""

    def __init__(self, registry: SchemaRegistry) -> None:
        self._registry = registry

    def read(self, topic: str) -> Agreed:
        """Return the note on the topic, an empty one if there is none. Raises RegistryAway."""
        return _read(topic, self._registry.version(topic + SUFFIX))

    def topics(self) -> list[str]:
        """Return the topics that there is a note on. Raises RegistryAway."""
        return [name.removesuffix(SUFFIX) for name in self._registry.subjects() if name.endswith(SUFFIX)]

    def update(self, topic: str, change: Callable[[Agreed], Agreed]) -> Agreed:
        """Write the note as `change` makes it of the present one; return it.

        Raises:
            RegistryAway: the registry does not answer.
            Refused: it takes no schemas from us.
            DownriverError: others keep writing in between.
        """
        for _ in range(TRIES):
            newest = self._registry.version(topic + SUFFIX)
            held = _read(topic, newest)
            wanted = change(held)
            if wanted == held:
                return held
            # numbered, for a note that comes back to an earlier one would keep that one's version
            number = 1 if newest is None else newest.number + 1
            self._registry.register(topic + SUFFIX, wanted.document(topic, number))
        msg = f"the note {topic}{SUFFIX} is written by others again and again"
        raise DownriverError(msg)


def _read(topic: str, newest: Version | None) -> Agreed:
    """Return the note of that version of the subject; records wait for a worker that can read it, as for a registry."""
    try:
        return Agreed() if newest is None else read(newest.schema)
    except UnknownVersion as error:
        msg = f"{topic}{SUFFIX} in the registry: {error}"
        raise RegistryAway(msg) from None
