"""A small supervisor: restarts failed tasks a bounded number of times, and says what a restart can't heal.

What it must know of the past (the source's timeline, how far a connector had streamed, losses that nobody accepted) it
keeps in Kafka, so that a loss stays told after the connector went on, whoever guards then. A connector whose source was
restored, replaced or promoted is stopped: its new changes could count as older than what the sinks have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from connectors import live, memory, observe
from connectors.connect import ConnectClient, Refused, Untrusted
from connectors.connector import Connector
from connectors.health import Health, Look, Problem, Remembered, Severity
from downriver.exits import DownriverError, ServerAway
from downriver.settings import Settings

REMEMBER_EVERY_S = 10.0
NEEDS_ACCESS = frozenset({"access", "source-away"})
"""Failures that a restart heals only once Connect gets into the source again; Connect itself is asked whether it does."""
STOPS = frozenset({"source-restored", "source-replaced", "source-promoted"})


class Kind(StrEnum):
    """What an event tells."""

    PROBLEM = "problem"
    SOLVED = "solved"
    RESTARTED = "restarted"
    GAVE_UP = "gave-up"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a person should hear. `at_s`: seconds since the epoch, by the guard's clock."""

    at_s: float
    connector: str
    kind: Kind
    rule: str
    severity: str
    text: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How often a failed connector is restarted.

    Attributes:
        restarts: at most so many in a row.
        pause_s: before the second; doubled before each further one, up to `pause_max_s`.
        calm_s: after so long without a failure counting begins anew.
    """

    restarts: int = 5
    pause_s: float = 15.0
    pause_max_s: float = 600.0
    calm_s: float = 900.0


@dataclass(slots=True)
class Attempts:
    """The restarts of one connector in a row. Times are of a clock that only goes forward."""

    count: int = 0
    next_s: float = 0.0
    failed_s: float = 0.0
    gave_up: bool = False

    def due(self, now_s: float, limits: Limits) -> bool:
        """Tell whether to restart now, and count it."""
        self.failed_s = now_s
        if self.count >= limits.restarts or now_s < self.next_s:
            return False
        self.count += 1
        self.next_s = now_s + min(limits.pause_s * 2 ** (self.count - 1), limits.pause_max_s)
        return True

    def spent(self, now_s: float, limits: Limits) -> bool:
        """Tell once that no restart is left, when the last one had its time."""
        if self.gave_up or self.count < limits.restarts or now_s < self.next_s:
            return False
        self.gave_up = True
        return True

    def well(self, now_s: float, limits: Limits) -> None:
        """Note that nothing has failed; after a while the past is forgotten."""
        if now_s - self.failed_s > limits.calm_s:
            self.count, self.next_s, self.gave_up = 0, 0.0, False


@dataclass(slots=True)
class Guard:
    """Looks, acts, and returns what happened. One `look` after the other, from one thread.

    Attributes:
        names: of the connectors; empty: those of `wanted`.
        clock: seconds, for the pauses between restarts.
    """

    settings: Settings
    names: Sequence[str] = ()
    wanted: Mapping[str, Connector] = field(default_factory=dict)
    limits: Limits = Limits()
    patience_s: float = 5.0
    clock: Callable[[], float] = time.monotonic
    healths: list[Health] = field(default_factory=list)
    _known: dict[str, Remembered] | None = None
    _kept: dict[str, Remembered] = field(default_factory=dict)
    _kept_s: float = float("-inf")
    _before: dict[str, Look] = field(default_factory=dict)
    _told: dict[tuple[str, str], Problem] = field(default_factory=dict)
    _attempts: dict[str, Attempts] = field(default_factory=dict)

    def look(self) -> list[Event]:
        """Look once at every connector, restart what is due, stop what must not go on.

        A server that is away is an event, not an error: the guard outlives it.
        """
        events: list[Event] = []
        if self._known is None:
            try:
                self._known = memory.recall(self.settings)
                self._kept = dict(self._known)
            except ServerAway as error:
                return self._changed("-", [_away("kafka-away", error)])
        known = self._known
        try:
            with live.client(self.settings, self.patience_s) as client:
                before = self._before or None
                self.healths = observe.healths(self.settings, client, self.names, self.wanted, before, known)
                events += self._changed("-", [])
                for health in self.healths:
                    name = health.look.name
                    known[name] = learned(health, known.get(name, Remembered()))
                    events += self._changed(name, health.problems)
                    events += self._act(client, health)
        except (ServerAway, Refused, Untrusted) as error:  # a certificate may expire while it watches
            return [*events, *self._changed("-", [_away("connect-away", error)])]
        self._before = {health.look.name: health.look for health in self.healths}
        try:
            self._keep()
        except ServerAway as error:
            events += self._changed("-", [_away("kafka-away", error)])
        return events

    def close(self) -> None:
        """Write what is not written yet; nothing where it never got as far as knowing anything."""
        if self._known is not None:
            self._keep(now=True)

    def _act(self, client: ConnectClient, health: Health) -> Iterator[Event]:
        """Stop, or restart, where that is right."""
        name, now_s = health.look.name, self.clock()
        attempts = self._attempts.setdefault(name, Attempts())
        assert self._known is not None  # noqa: S101
        if (why := next((each for each in health.problems if each.rule in STOPS), None)) is not None:
            known = self._known[name]
            if health.look.states and health.look.states[0] != "STOPPED" and not known.stopped:
                client.stop(name)
                self._known[name] = replace(known, stopped=why.rule)
                yield self._event(name, Kind.STOPPED, why.rule, why.severity, f"stopped: {why.text}", why.way_out)
            return
        failed = [each for each in health.problems if each.severity in {Severity.FAILED, Severity.LOSS}]
        if not failed or "FAILED" not in health.look.states:
            attempts.well(now_s, self.limits)
            return
        attempts.failed_s = now_s
        if not all(problem.heals for problem in failed):
            return  # told as a problem, with the way out
        if {problem.rule for problem in failed} & NEEDS_ACCESS and observe.access(client, health.look):
            return  # it would fail the same way
        rule, text = failed[0].rule, failed[0].text
        if attempts.spent(now_s, self.limits):
            given = f"restarted {attempts.count} times and failed again: {text}"
            yield self._event(name, Kind.GAVE_UP, rule, Severity.FAILED, given, failed[0].way_out)
        elif attempts.due(now_s, self.limits):
            try:
                client.restart(name)
            except Refused as error:
                yield self._event(name, Kind.PROBLEM, "restart-refused", Severity.FAILED, str(error))
                return
            told = f"restart {attempts.count} of {self.limits.restarts}: {text}"
            yield self._event(name, Kind.RESTARTED, rule, Severity.WARNING, told)

    def _changed(self, name: str, problems: Sequence[Problem]) -> list[Event]:
        """Tell which problems of a connector are new, and which are gone."""
        events = []
        now = {(name, problem.rule): problem for problem in problems}
        for key, problem in now.items():
            if key not in self._told:
                events.append(
                    self._event(name, Kind.PROBLEM, problem.rule, problem.severity, problem.text, problem.way_out)
                )
        for key in [key for key in self._told if key[0] == name and key not in now]:
            gone = self._told.pop(key)
            events.append(self._event(name, Kind.SOLVED, gone.rule, Severity.WARNING, f"no more: {gone.text}"))
        self._told |= now
        return events

    def _keep(self, *, now: bool = False) -> None:
        """Write what must outlive this process: losses at once, progress every few seconds."""
        assert self._known is not None  # noqa: S101
        urgent = any(
            (value.lost, value.stopped) != (kept.lost, kept.stopped)
            for name, value in self._known.items()
            if (kept := self._kept.get(name, Remembered())) is not value
        )
        if not (now or urgent or time.monotonic() - self._kept_s > REMEMBER_EVERY_S):
            return
        changed = {name: value for name, value in self._known.items() if self._kept.get(name) != value}
        if changed:
            memory.remember(self.settings, changed)
        self._kept, self._kept_s = dict(self._known), time.monotonic()

    def _event(self, name: str, kind: Kind, rule: str, severity: str, text: str, way_out: str = "") -> Event:
        return Event(time.time(), name, kind, rule, severity, text, way_out)


def learned(health: Health, past: Remembered) -> Remembered:
    """Return what to remember after a look. Of a source that changed the old marks are kept until somebody accepts it."""
    look = health.look
    lost = past.lost | {problem.rule: problem.text for problem in health.problems if problem.severity is Severity.LOSS}
    now = replace(past, lost=lost)
    source = look.source
    if source is not None and not STOPS & set(lost):
        now = replace(now, system=source.system, timeline=source.timeline)
    if source is not None and source.slot is not None:
        now = replace(now, transactions=source.slot.transactions, counted_since=source.slot.counted_since)
    if look.offset is not None and not look.offset.snapshot:
        now = replace(now, streamed_lsn=look.offset.lsn)
    return now


def accept(settings: Settings, names: Sequence[str]) -> dict[str, Remembered]:
    """Forget what was found of connectors, and everything they are compared with; return what was known.

    Raises:
        ServerAway: Kafka is away.
    """
    known = memory.recall(settings)
    found = {name: known[name] for name in names if name in known}
    if found:
        memory.remember(settings, dict.fromkeys(found))
    return found


def _away(rule: str, error: DownriverError) -> Problem:
    return Problem(rule, Severity.STALLED, str(error), "nothing is guarded until it answers")
