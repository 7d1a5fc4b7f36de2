"""What `downriver sla status` tells, as values: every rule at every sink, capture by lane, dead letters, what could not be asked.

Pure: judges figures that others gathered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from processors.propagation.capture import LaneCapture
from processors.propagation.figures import Figures
from processors.tables.base import Lane


class Health(StrEnum):
    """How a rule stands at a sink."""

    OK = "ok"
    LATE = "late"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """One rule at one sink.

    Attributes:
        oldest_s: age of the oldest change that readers don't see yet; 0: they see all. None: unknown.
        why: what makes it late or unknown, in words; empty for ok.
    """

    figures: Figures
    oldest_s: float | None
    state: Health
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the object for programs; times in seconds, None without changes."""
        figures = self.figures
        return {
            "count": figures.count,
            "p50_s": _rounded(figures.quantile_s(0.50)),
            "p95_s": _rounded(figures.quantile_s(0.95)),
            "p99_s": _rounded(figures.quantile_s(0.99)),
            "max_s": _rounded(figures.max_s) if figures.count else None,
            "late": figures.late,
            "negative": figures.negative,
            "oldest_s": _rounded(self.oldest_s),
            "state": self.state.value,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at one moment.

    Attributes:
        at_s: when, in seconds since the epoch.
        limits: rule → limit in seconds, None for `other`.
        standings: (rule, sink) → how it stands.
        dead_letters: sink → records it never took.
        problems: who could not be asked, and why.
    """

    at_s: float
    limits: Mapping[str, float | None]
    standings: Mapping[tuple[str, str], Standing]
    capture: Mapping[Lane, LaneCapture] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every rule is known to be kept at every sink. Dead letters have their own count."""
        return not self.problems and all(standing.state is Health.OK for standing in self.standings.values())

    def as_json(self) -> dict[str, Any]:
        """Return the object for programs."""
        rules: dict[str, Any] = {name: {"limit_s": limit, "sinks": {}} for name, limit in self.limits.items()}
        for (rule, sink), standing in self.standings.items():
            rules[rule]["sinks"][sink] = standing.as_json()
        return {
            "rules": rules,
            "capture": {
                lane.value: {
                    "age_s": _rounded(capture.age_s),
                    "retained_bytes": capture.retained_bytes,
                    "problem": capture.problem,
                }
                for lane, capture in self.capture.items()
            },
            "dead_letters": dict(self.dead_letters),
            "problems": list(self.problems),
            "ok": self.ok,
        }


def judge(
    figures: Figures,
    limit_s: float | None,
    oldest_s: float | None,
    unread: int,
    capture: Mapping[Lane, LaneCapture],
    problems: tuple[str, ...],
) -> Standing:
    """Judge one rule at one sink: late beats unknown beats ok, and nothing that stands still is ok.

    Args:
        oldest_s: age of the oldest unseen change found; None: none was found.
        unread: records that may hold an older one.
        capture: of the lanes that carry what the rule counts.
        problems: sentences that tell who could not be asked and why; each starts with "<server> at ".
    """
    known_s = oldest_s if oldest_s is not None else (None if unread or problems else 0.0)
    if limit_s is not None:
        late = []
        if figures.late:
            late.append(f"{figures.late} late")
        if oldest_s is not None and oldest_s > limit_s:
            late.append(f"a change has been unseen for {oldest_s:.0f} s")
        late += [
            f"capture of {lane} is {lane_capture.age_s:.0f} s behind"
            for lane, lane_capture in capture.items()
            if lane_capture.age_s is not None and lane_capture.age_s > limit_s
        ]
        if late:
            return Standing(figures, known_s, Health.LATE, "; ".join(late))
    unknown = [problem.partition(" at ")[0] + " is away" for problem in problems]
    if unread:
        unknown.append(f"{unread} records not looked at yet")
    for lane, lane_capture in capture.items():
        if lane_capture.problem:
            unknown.append(lane_capture.problem)
        elif lane_capture.age_s is None and not problems:
            unknown.append(f"no heartbeat of {lane} was ever captured")
    if unknown:
        return Standing(figures, known_s, Health.UNKNOWN, "; ".join(unknown))
    return Standing(figures, known_s, Health.OK)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
