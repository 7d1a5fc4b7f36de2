"""How a connector is: what was seen of it, and every problem that follows, with its cause and the way out. Pure.

Connect's RUNNING says that a task was started, not that changes flow. So a connector is judged by its stored position: the
commit time of the last change that Kafka has. Its heartbeat moves that each second; when it stands still, nothing flows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from connectors import cause, lsn
from connectors.connect import Live
from connectors.files import Connector
from connectors.source import SourceFacts

STALLED_AFTER_S = 15.0
"""A position that is older and does not move is no longer on its way: heartbeat and flush take a second each."""
BEHIND_AFTER_S = 30.0
"""The domain's limit for a slot."""
LOW_SHARE = 0.2
"""Of what a slot may hold in WAL: less than this left is told."""


class Severity(StrEnum):
    """How bad a problem is, worst first. All but WARNING make a connector unhealthy."""

    LOSS = "loss"
    FAILED = "failed"
    STALLED = "stalled"
    HALTED = "halted"
    """Somebody paused or stopped it, or it was never created."""
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        rule: its name, for programs.
        text: what is wrong, and why.
        way_out: what to do.
        heals: a restart may mend it.
    """

    rule: str
    severity: Severity
    text: str
    way_out: str
    heals: bool = False

    def __str__(self) -> str:
        return f"{self.text}\n  way out: {self.way_out}" if self.way_out else self.text


@dataclass(frozen=True, slots=True)
class Offset:
    """The position that Connect has stored.

    Attributes:
        lsn: up to where changes are in Kafka.
        at_s: when the last of them was committed, in seconds since the epoch, by the source's clock; None: not told.
        snapshot: a snapshot wrote it; streaming has not begun.
    """

    lsn: int
    at_s: float | None
    snapshot: bool

    @classmethod
    def read(cls, offset: dict[str, Any]) -> Offset | None:
        """Read Debezium's offset document; None if it holds no position."""
        places = [int(offset[key]) for key in ("lsn", "lsn_commit", "lsn_proc") if offset.get(key) is not None]
        if not places:
            return None
        moment = offset.get("ts_usec")
        snapshot = str(offset.get("snapshot", "false")).lower() not in {"false", "none", ""}
        return cls(max(places), moment / 1e6 if moment else None, snapshot)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What `guard` saw of a connector last, and what it found that nobody has accepted yet.

    Attributes:
        lost: rule → sentence, of what can't be seen any more once the connector goes on.
        stopped: why the guard stopped it; empty: it did not.
    """

    system: str = ""
    timeline: int = 0
    transactions: int | None = None
    counted_since: str = ""
    streamed_lsn: int | None = None
    lost: dict[str, str] = field(default_factory=dict)
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that was seen of one connector at one moment.

    Attributes:
        connector: its settings; the file's where Connect has none of that name.
        live: None: Connect has none.
        source: None: not asked, or away (see `source_away`).
        wal_lsn: where the source wrote after the offset was read.
        hints: why nothing moves, as far as others could tell: Connect's own check, Kafka, the registry.
        watched: a Debezium connector for PostgreSQL, whose source can be asked.
    """

    connector: Connector
    live: Live | None
    topics: tuple[str, ...] = ()
    offset: Offset | None = None
    source: SourceFacts | None = None
    source_away: str = ""
    wal_lsn: int | None = None
    hints: tuple[str, ...] = ()
    watched: bool = True

    @property
    def name(self) -> str:
        """The connector's name."""
        return self.connector.name

    @property
    def states(self) -> tuple[str, ...]:
        """What Connect says: the connector's own state, then its tasks'."""
        status = self.live.status if self.live else None
        return () if status is None else (status.state, *(task.state for task in status.tasks))

    @property
    def running(self) -> bool:
        """Whether Connect says RUNNING of the connector and each of its tasks, of which there is one at least."""
        return len(self.states) > 1 and set(self.states) == {"RUNNING"}

    @property
    def offset_age_s(self) -> float | None:
        """How old the stored position is; None where none is stored or the source's clock is unknown."""
        if self.offset is None or self.offset.at_s is None or self.source is None:
            return None
        return max(0.0, self.source.now_s - self.offset.at_s)


def beats(connector: Connector) -> bool:
    """Tell whether a heartbeat moves the position of an idle lane."""
    interval = connector.config.get("heartbeat.interval.ms", "0")
    return interval.isdigit() and int(interval) > 0


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict on one connector.

    Attributes:
        state: one word: Connect's, or LOST, STALLED, STARTING, SNAPSHOT, ABSENT where that says more.
    """

    look: Look
    state: str
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether changes flow."""
        return all(problem.severity is Severity.WARNING for problem in self.problems)


def quiet(look: Look, limit_s: float = STALLED_AFTER_S) -> bool:
    """Tell whether a running connector's position is too old to be on its way: a second look tells if it stands still."""
    if not (look.watched and look.running and beats(look.connector)):
        return False
    age_s = look.offset_age_s
    return look.source is None or look.offset is None or (age_s is not None and age_s > limit_s)


def judge(
    look: Look,
    before: Look | None = None,
    remembered: Remembered | None = None,
    stalled_after_s: float = STALLED_AFTER_S,
) -> Health:
    """Say how the connector is.

    Args:
        before: an earlier look, at least a second ago: what moved since is not stalled.
        remembered: what `guard` knows of it.
    """
    of_source = list(_told_by_source(look)) if look.watched else []
    told = {problem.rule for problem in of_source} & {"slot-missing", "slot-lost", "slot-ahead"}
    problems = [
        *of_source,
        # the source says it better than the trace
        *(
            problem
            for problem in _told_by_connect(look)
            if not (told and problem.rule in {"slot-unusable", "slot-ahead"})
        ),
        *_remembered(look, remembered, of_source),
        *_standing_still(look, before, stalled_after_s),
    ]
    ranked = sorted(dict.fromkeys(problems), key=lambda problem: list(Severity).index(problem.severity))
    return Health(look, _state(look, ranked), tuple(ranked))


def _state(look: Look, problems: Sequence[Problem]) -> str:
    worst = problems[0].severity if problems else Severity.WARNING
    if look.live is None:
        return "ABSENT"
    if worst is Severity.LOSS:
        return "LOST"
    if worst is Severity.FAILED:
        return "FAILED"
    if worst is Severity.STALLED:
        return "STALLED"
    told = next((state for state in look.states if state != "RUNNING"), "RUNNING" if look.running else "UNASSIGNED")
    if told == "RUNNING" and look.watched and (look.offset is None or look.offset.snapshot):
        return "SNAPSHOT" if look.offset else "STARTING"
    return told


def _filled(look: Look, text: str) -> str:
    return text.replace("{name}", look.name).replace("{slot}", look.connector.slot if look.watched else "-")


def _told_by_connect(look: Look) -> Iterator[Problem]:
    name = look.name
    if look.live is None:
        yield Problem(
            "absent", Severity.HALTED, f"Kafka Connect has no connector {name}", "`downriver connectors apply`"
        )
        return
    status = look.live.status
    if status is None or (status.state == "RUNNING" and not status.tasks):
        text = "it has no task: Connect rebalances, or its settings keep the tasks from being made"
        yield Problem("no-task", Severity.STALLED, text, f"`downriver connectors restart {name} --all`", heals=True)
        return
    for who, state, trace in (
        ("the connector", status.state, status.trace),
        *((f"task {task.id}", task.state, task.trace) for task in status.tasks),
    ):
        if state == "FAILED":
            found = cause.read(trace)
            lost = "changes may be lost: " if found.loss else ""
            severity = Severity.LOSS if found.loss else Severity.FAILED
            text = f"{lost}{who} failed: {found.text}"
            yield Problem(found.rule, severity, text, _filled(look, found.way_out), found.heals)
        elif state == "UNASSIGNED":
            text = f"{who} is on no worker: Connect rebalances, or has too few workers"
            yield Problem("unassigned", Severity.STALLED, text, "wait for the rebalance; see that a worker runs")
    if status.state in {"PAUSED", "STOPPED"}:
        slot = look.source.slot if look.source else None
        held = f"; its slot holds {lsn.size(slot.retained_bytes)} of WAL, and more each second" if slot else ""
        text = f"{status.state.lower()}{held}"
        yield Problem(status.state.lower(), Severity.HALTED, text, f"`downriver connectors resume {name}`")


def _told_by_source(look: Look) -> Iterator[Problem]:
    if look.source is None:
        if look.source_away:
            way_out = "see that it runs, and that DOWNRIVER_POSTGRES__HOST and its like name it"
            yield Problem("source-away", Severity.STALLED, look.source_away, way_out)
        return
    yield from _slot(look, look.source)
    position = look.offset
    if position and look.wal_lsn is not None and position.lsn > look.wal_lsn:
        text = (
            f"the source was restored to an earlier time: {lsn.told(position.lsn)} is in Kafka already, and PostgreSQL writes "
            f"at {lsn.told(look.wal_lsn)}; new changes would count as older than what sinks have"
        )
        yield Problem("source-restored", Severity.LOSS, text, _filled(look, EPOCH))
    if look.source.publication_problem and position and not position.snapshot:
        way_out = f"then `downriver connectors restart {look.name}`"
        yield Problem("publication", Severity.FAILED, look.source.publication_problem, way_out)


EPOCH = (
    "`downriver connectors stop {name}`, raise DOWNRIVER_EPOCH for every worker, "
    "`downriver connectors offsets reset {name} --drop-slot`, `downriver connectors resume {name}` for a new snapshot, "
    "`downriver connectors reread` for each table, `downriver verify`, then `downriver connectors guard --accept {name}`"
)


def _slot(look: Look, source: SourceFacts) -> Iterator[Problem]:
    slot, name, position = source.slot, look.connector.slot, look.offset
    start_over = _filled(look, cause.START_OVER)
    if slot is None:
        if position is not None:
            since = lsn.told(position.lsn)
            text = f"changes may be lost: slot {name} does not exist, nothing keeps the changes since {since}"
            yield Problem("slot-missing", Severity.LOSS, text, start_over)
        return
    if slot.wal_status == "lost":
        why = {"idle_timeout": "nobody read it for idle_replication_slot_timeout"}.get(
            slot.invalidation, "it held more WAL than max_slot_wal_keep_size allows"
        )
        since = f" since {lsn.told(position.lsn)}" if position else ""
        text = f"changes may be lost: PostgreSQL gave slot {name} up ({why}), the changes{since} are gone"
        yield Problem("slot-lost", Severity.LOSS, text, start_over)
        return
    if position and not position.snapshot and slot.confirmed_lsn is not None and slot.confirmed_lsn > position.lsn:
        text = (
            f"changes may be lost: slot {name} is at {lsn.told(slot.confirmed_lsn)}, ahead of the stored position "
            f"{lsn.told(position.lsn)}; what was committed in between won't come"
        )
        yield Problem("slot-ahead", Severity.LOSS, text, start_over)
    if slot.wal_status == "unreserved" or _low(slot.safe_bytes, slot.retained_bytes):
        left = "at the next checkpoint" if not slot.safe_bytes else f"after {lsn.size(slot.safe_bytes)} more"
        text = f"slot {name} holds {lsn.size(slot.retained_bytes)} of WAL and is lost {left} (max_slot_wal_keep_size)"
        yield Problem(
            "slot-low",
            Severity.WARNING,
            text,
            "let the connector catch up, or raise max_slot_wal_keep_size now (a reload)",
        )


def _low(safe_bytes: int | None, retained_bytes: int) -> bool:
    return safe_bytes is not None and safe_bytes < LOW_SHARE * (safe_bytes + retained_bytes)


def _since(look: Look, past: Remembered) -> Iterator[Problem]:
    """Tell what changed against the past that must not change without anybody knowing."""
    source, position = look.source, look.offset
    if source is not None and past.system:
        if source.system != past.system:
            text = f"the source is another PostgreSQL cluster: system {source.system}, it was {past.system}"
            yield Problem("source-replaced", Severity.LOSS, text, _filled(look, EPOCH))
        elif source.timeline != past.timeline:
            text = (
                f"the source was promoted or restored: timeline {source.timeline}, it was {past.timeline}; "
                "commits that Kafka has may not exist in it, and what it lacks may be in the sinks"
            )
            yield Problem("source-promoted", Severity.LOSS, text, _filled(look, EPOCH))
    if source is not None and source.slot is not None and past.transactions is not None:
        now = source.slot.transactions
        same = source.slot.counted_since == past.counted_since
        if same and now is not None and now < past.transactions:
            text = (
                f"changes may be lost: slot {look.connector.slot} was made again ({now} transactions decoded, "
                f"{past.transactions} before): what was committed in between won't come"
            )
            yield Problem("slot-made-again", Severity.LOSS, text, _filled(look, cause.START_OVER))
    if past.streamed_lsn is not None and position is not None and position.snapshot:
        text = (
            f"a second snapshot: it had streamed to {lsn.told(past.streamed_lsn)}; rows deleted in between "
            "stay in the sinks, and snapshot rows overwrite nothing"
        )
        yield Problem("second-snapshot", Severity.LOSS, text, _filled(look, AFTER_SNAPSHOT))


AFTER_SNAPSHOT = (
    "let a snapshot end, `downriver connectors reread` for each table, `downriver verify`, then "
    "`downriver connectors guard --accept {name}`"
)


def _remembered(look: Look, remembered: Remembered | None, told: Sequence[Problem]) -> Iterator[Problem]:
    if remembered is None:
        return
    now = {problem.rule: problem for problem in _since(look, remembered)}
    yield from now.values()
    for rule, text in remembered.lost.items():
        if rule not in now and rule not in {problem.rule for problem in told}:
            way_out = _filled(look, EPOCH if rule.startswith("source-") else AFTER_SNAPSHOT)
            yield Problem(rule, Severity.LOSS, text, way_out)


def _standing_still(look: Look, before: Look | None, limit_s: float) -> Iterator[Problem]:
    """Tell of a connector that Connect says is RUNNING and whose position does not move, and why."""
    if not (look.watched and look.running):
        return
    if not beats(look.connector):
        text = "it has no heartbeat (heartbeat.interval.ms): idle and stalled look the same, and WAL is held"
        yield Problem("no-heartbeat", Severity.WARNING, text, "set heartbeat.interval.ms and heartbeat.action.query")
        return
    age_s = look.offset_age_s
    moved = before is not None and before.offset is not None and look.offset != before.offset
    if look.offset is None:
        if reasons := list(_reasons(look)):
            text = f"Connect says RUNNING, and no position was ever stored: {'; '.join(reasons)}"
            yield Problem("stalled", Severity.STALLED, text, _filled(look, UNSTALL), heals=True)
        return
    if age_s is None or age_s <= limit_s or look.offset.snapshot:
        return
    if not moved:
        reasons = list(_reasons(look)) or [
            "PostgreSQL, Kafka and the registry answer; look into the Connect worker's log"
        ]
        text = f"Connect says RUNNING, and nothing moves since {age_s:.0f} s: {'; '.join(reasons)}"
        yield Problem("stalled", Severity.STALLED, text, _filled(look, UNSTALL), heals=True)
    elif age_s > BEHIND_AFTER_S:
        text = f"{age_s:.0f} s behind, and catching up or falling back"
        yield Problem("behind", Severity.WARNING, text, "`downriver connectors status --watch` shows which")


UNSTALL = "mend what is named; if nothing moves then, `downriver connectors restart {name} --all`"


def _reasons(look: Look) -> Iterator[str]:
    source = look.source
    if source is not None:
        if source.blocked:
            held = source.blocked
            query = " ".join(held.query.split())[:60]
            yield (
                f"its query {query!r} waits for a lock that process {held.by_pid} ({held.by_application}) has held for "
                f"{held.since_s:.0f} s (SELECT pg_terminate_backend({held.by_pid}) ends it)"
            )
        if source.role_problem:
            yield source.role_problem
    yield from look.hints
    if source is not None and source.slot is not None and not source.slot.active:
        yield f"nobody reads slot {look.connector.slot}"
