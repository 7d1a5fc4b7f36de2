"""The propagation rules as data: what each counts, and how soon a reader must see it.

Pure but for reading the file. Knows which tables and sinks exist, and nothing of Kafka, clocks or measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from downriver.exits import BadInput
from processors.change import Change, Kind, Op, Row, Stamp, TableId
from processors.sinks import SINKS
from processors.tables import TABLES
from processors.tables.base import Table

OTHER = "other"
"""The built-in rule: every change that no rule counts. Reported, without a limit."""

RULES_FILE = Path(__file__).with_name("rules.yaml")

_STRICT = ConfigDict(extra="forbid")
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Counted:
    """One thing a rule counts.

    Attributes:
        table: `schema.name`.
        columns: empty: every change of the table. Otherwise only updates in which one of these columns differs. An
            insert sets a price but changes none, a delete ends it: both are left to `other` (domain.md: a price change
            is a product *update* whose price or currency differs). A changed key arrives as delete and insert.
    """

    table: Annotated[str, Field(pattern=r"^[^.\s]+\.[^.\s]+$")]
    columns: Annotated[tuple[str, ...], Field(min_length=1)] = ()

    def matches(self, change: Change) -> bool:
        """Whether the change is of this kind. Snapshot rows and repairs are the caller's to leave out."""
        if str(change.table) != self.table:
            return False
        return not self.columns or (change.op is Op.UPDATE and differs(change.before, change.after, self.columns))


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Rule:
    """A propagation rule; the words are explained in rules.yaml."""

    name: _Name
    counts: Annotated[tuple[Counted, ...], Field(min_length=1)]
    limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
    objective_percent: Annotated[float, Field(gt=0, le=100, strict=True)] = 99.9
    window_days: Annotated[int, Field(ge=1, le=366, strict=True)] = 30
    sinks: Annotated[tuple[str, ...], Field(min_length=1)] = ()

    def matches(self, change: Change) -> bool:
        """Whether the rule counts the change."""
        return change.origin.kind is Kind.STREAMED and any(counted.matches(change) for counted in self.counts)

    def watches(self, sink: str) -> bool:
        """Whether the rule holds for the sink of that name."""
        return not self.sinks or sink in self.sinks


def differs(before: Row | None, after: Row | None, columns: Iterable[str]) -> bool:
    """Whether one of the columns differs between the two rows of an update.

    A column that was not sent (an unchanged TOAST value) does not differ. An update without a row before, which
    preflight refuses to capture, counts: a change in doubt must not slip past its rule.
    """
    if after is None:
        return False
    if before is None:
        return True
    return any(name in before and name in after and before[name] != after[name] for name in columns)


@dataclass(frozen=True, slots=True)
class TableRules:
    """What the rules say of one table, prepared for one look at each record.

    Attributes:
        always: rules that count every change of the table.
        by_columns: rules that count some updates → the columns that must differ.
    """

    always: tuple[str, ...] = ()
    by_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that `counts` may return for a record of this table."""
        return (*self.always, *self.by_columns, *(() if self.always else (OTHER,)))

    @property
    def columns(self) -> frozenset[str]:
        """The columns that are compared, of the updates that `needs_row` says."""
        return frozenset(name for columns in self.by_columns.values() for name in columns)

    def needs_row(self, stamp: Stamp) -> bool:
        """Whether `columns` of this record must be read: only updates can differ in one, and only streamed ones count."""
        return bool(self.by_columns) and stamp.op is Op.UPDATE and stamp.kind is Kind.STREAMED

    def counts(self, stamp: Stamp, rows: tuple[Row | None, Row | None] | None) -> tuple[str, ...]:
        """Return the names of the rules that count the record: at least `other`, or none for a snapshot row or a repair.

        Args:
            rows: before and after, with at least `columns`; None unless `needs_row(stamp)`.

        Raises:
            ValueError: `needs_row(stamp)` and no rows were given.
        """
        if stamp.kind is not Kind.STREAMED:
            return ()
        if not self.by_columns or stamp.op is not Op.UPDATE:
            return self.always or (OTHER,)
        if rows is None:
            msg = f"the rules {', '.join(self.by_columns)} compare columns: the update must be decoded"
            raise ValueError(msg)
        names = self.always + tuple(name for name, columns in self.by_columns.items() if differs(*rows, columns))
        return names or (OTHER,)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules that hold for one sink, or all rules."""

    rules: tuple[Rule, ...]

    @property
    def limits(self) -> dict[str, float]:
        """Rule name → its limit in seconds; `other` has none and is not in it."""
        return {rule.name: rule.limit_s for rule in self.rules}

    def for_sink(self, sink: str) -> RuleSet:
        """Return only the rules that hold for that sink: what the others count is `other` there."""
        return RuleSet(tuple(rule for rule in self.rules if rule.watches(sink)))

    def for_table(self, table: TableId) -> TableRules:
        """Return what the rules say of one table. Ask once, not for each record."""
        wanted = str(table)
        found = [(rule.name, counted) for rule in self.rules for counted in rule.counts if counted.table == wanted]
        always = tuple(dict.fromkeys(name for name, counted in found if not counted.columns))
        columns: dict[str, tuple[str, ...]] = {}
        for name, counted in found:
            if name not in always:
                columns[name] = columns.get(name, ()) + counted.columns
        return TableRules(always, columns)

    def tables(self, rule: str) -> frozenset[str]:
        """Return the tables (`schema.name`) that the rule of that name counts."""
        return frozenset(counted.table for each in self.rules if each.name == rule for counted in each.counts)


def rule_set(rules: Iterable[Rule]) -> RuleSet:
    """Return the rules as a set to be asked by table and sink."""
    return RuleSet(tuple(rules))


def load_rules(
    path: Path | None = None,
    tables: Sequence[Table] = TABLES,
    sinks: Iterable[str] = tuple(SINKS),
) -> tuple[Rule, ...]:
    """Read and check the rules.

    Args:
        path: default: the rules.yaml beside this module.
        tables: the captured tables: a rule can only count these, and compare columns that travel.
        sinks: the kinds of sink that exist; a rule may name a kind or an instance of it (`cache-eu`).

    Raises:
        BadInput: every mistake at once, each with file, line and reason.
    """
    path = path or RULES_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the propagation rules {path} can't be read: {error}"
        raise BadInput(msg) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error)
        msg = f"{path}:{mark.line + 1 if mark else 1}: not YAML: {reason}"
        raise BadInput(msg) from None
    mistakes = _duplicates(root)
    rules: tuple[Rule, ...] = ()
    try:
        rules = _FILE.validate_python(data).rules
    except ValidationError as error:
        mistakes += [(each["loc"], _reason(each)) for each in error.errors(include_url=False)]
    mistakes += _wrong_names(rules, tables, tuple(sinks))
    if mistakes:
        lines = sorted((_line(root, at), reason) for at, reason in mistakes)
        told = "\n".join(f"  {path}:{line}: {reason}" for line, reason in lines)
        msg = f"{len(lines)} mistake(s) in the propagation rules:\n{told}"
        raise BadInput(msg)
    return rules


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class _File:
    rules: tuple[Rule, ...]


_FILE = TypeAdapter(_File)

_Path = tuple[int | str, ...]
_Mistakes = list[tuple[_Path, str]]


_PLAINLY = {"tuple_type": "must be a list", "too_short": "must not be empty", "dataclass_type": "must be a mapping"}
"""pydantic's kind of mistake → what to say where its own words speak of Python's types."""


def _reason(mistake: Any) -> str:
    where = ".".join(str(part) for part in mistake["loc"] if isinstance(part, str)) or "the file"
    if mistake["type"] == "missing":
        return f"{where} is missing"
    return f"{where} = {mistake['input']!r}: {_PLAINLY.get(mistake['type'], mistake['msg'])}"


def _wrong_names(rules: Sequence[Rule], tables: Sequence[Table], sinks: Sequence[str]) -> _Mistakes:
    """Find names that are taken, or that nothing bears: a rule with one would silently count nothing."""
    known = {str(table.id): table.columns.keys() - set(table.excluded) for table in tables}
    found: _Mistakes = []
    for number, rule in enumerate(rules):
        at: _Path = ("rules", number)
        if rule.name == OTHER or rule.name in {earlier.name for earlier in rules[:number]}:
            found.append(((*at, "name"), f"the name {rule.name!r} is taken: choose another one"))
        for index, counted in enumerate(rule.counts):
            here: _Path = (*at, "counts", index)
            if counted.table not in known:
                listed = ", ".join(sorted(known))
                found.append(((*here, "table"), f"there is no captured table {counted.table!r}; there are: {listed}"))
                continue
            columns = known[counted.table]
            found += [
                ((*here, "columns", place), f"{counted.table} carries no column {name!r}; it has: {sorted(columns)}")
                for place, name in enumerate(counted.columns)
                if name not in columns
            ]
        found += [
            ((*at, "sinks", place), f"there is no sink {name!r}; there are: {', '.join(sinks)}")
            for place, name in enumerate(rule.sinks)
            if not any(name == kind or name.startswith(f"{kind}-") for kind in sinks)
        ]
    return found


def _duplicates(node: yaml.Node | None, at: _Path = ()) -> _Mistakes:
    """Find keys given twice in one mapping: YAML would silently take the last."""
    found: _Mistakes = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                found.append(((*at, key.value), f"{key.value} is given twice"))
            seen.add(key.value)
            found += _duplicates(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found += _duplicates(value, (*at, index))
    return found


def _line(node: yaml.Node | None, at: _Path) -> int:
    """Return the line, from 1, of the place in the file, or of the nearest place around it that exists."""
    line = 1
    for step in at:
        below: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            # the last of two equal keys: that is the one to remove
            key, below = next(((key, value) for key, value in reversed(node.value) if key.value == step), (None, None))
            line = key.start_mark.line + 1 if key else line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            below = node.value[step]
            line = below.start_mark.line + 1
        if below is None:
            break
        node = below
    return line
