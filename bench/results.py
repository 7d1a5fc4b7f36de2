"""What a run found, as values: measurements, targets, the machine. Pure but for asking the machine about itself."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import psutil

BUSY_LOAD = 0.5
"""Load average per core above which a machine counts as busy."""
SMALL_CORES, SMALL_GIB = 2, 8
OURS = "Downriver"


@dataclass(frozen=True, slots=True)
class Measured:
    """One way to do one piece of work.

    Attributes:
        work: what was done, such as `cache`.
        who: who did it: OURS, a peer, a limit.
        seconds: None: not measured; `note` says why.
    """

    work: str
    who: str
    records: int
    seconds: float | None
    note: str = ""

    @property
    def rate(self) -> float | None:
        """Records per second."""
        return self.records / self.seconds if self.seconds else None


@dataclass(frozen=True, slots=True)
class Target:
    """What the issue wants of a measurement: a ratio against another, or a figure of its own."""

    work: str
    against: str
    at_least: float


TARGETS = (
    Target("transport", "stock Faust", 20.0),
    Target("cache", "Quix Streams", 3.0),
    Target("search, distinct documents", "Quix Streams", 2.0),
    Target("search, 1,000 hot documents", "Quix Streams", 3.0),
    Target("analytics", "rows built in Python", 2.0),
)
RATE_TARGETS = {"analytics": 100_000.0}
MEMORY_TARGET_MIB = 400.0


@dataclass(slots=True)
class Findings:
    """All of a run.

    Attributes:
        wrong: what was not equal or was lost: any of it fails the run.
        missing: peers that could not be measured.
        latency: rate → sink → quantiles.
    """

    machine: Mapping[str, Any]
    measured: list[Measured] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    latency: list[dict[str, Any]] = field(default_factory=list)

    def rate(self, work: str, who: str) -> float | None:
        """Return the records per second of a measurement, None if there is none."""
        return next((each.rate for each in self.measured if (each.work, each.who) == (work, who)), None)

    def ratio(self, work: str, against: str) -> float | None:
        """Return how many times as fast ours was."""
        ours, theirs = self.rate(work, OURS), self.rate(work, against)
        return ours / theirs if ours and theirs else None

    def targets(self) -> list[dict[str, Any]]:
        """Return every target of which something was measured, and whether it was met."""
        rows: list[dict[str, Any]] = []
        for target in TARGETS:
            if self.rate(target.work, OURS) is not None:
                ratio = self.ratio(target.work, target.against)
                met = None if ratio is None else ratio >= target.at_least
                rows.append(_target(target.work, f"{target.at_least:g}x {target.against}", _times(ratio), met))
        for work, wanted in RATE_TARGETS.items():
            if (rate := self.rate(work, OURS)) is not None:
                rows.append(_target(work, f"{wanted:,.0f} rows/s", f"{rate:,.0f} rows/s", rate >= wanted))
        for each in self.memory:
            wanted_memory = f"under {MEMORY_TARGET_MIB:.0f} MiB, not growing"
            met = each["max_mib"] < MEMORY_TARGET_MIB and not each["grows"]
            found = f"{each['max_mib']:.0f} MiB, {'growing' if each['grows'] else 'not growing'}"
            rows.append(_target(f"memory, {each['sink']}", wanted_memory, found, met))
        for each in self.latency:
            limit = 1.0 if each["sink"] == "cache" else 2.0
            what = f"{each['sink']} at {each['rate']:,.0f} changes/s"
            rows.append(_target(what, f"p99 under {limit:g} s", f"{each['p99_s']:.2f} s", each["p99_s"] < limit))
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return the object for programs."""
        return {
            "machine": dict(self.machine),
            "equal": not self.wrong,
            "wrong": self.wrong,
            "missing": self.missing,
            "measured": [asdict(each) | {"records_per_s": each.rate and round(each.rate)} for each in self.measured],
            "ratios": [
                {"work": t.work, "against": t.against, "ratio": ratio and round(ratio, 2)}
                for t in TARGETS
                if (ratio := self.ratio(t.work, t.against)) or self.rate(t.work, OURS)
            ],
            "memory": self.memory,
            "latency": self.latency,
            "targets": self.targets(),
        }


def _target(what: str, wanted: str, found: str, met: bool | None) -> dict[str, Any]:
    return {"what": what, "wanted": wanted, "found": found, "met": met}


def _times(ratio: float | None) -> str:
    return "not measured" if ratio is None else f"{ratio:.1f}x"


def grows(rss_mib: Sequence[float]) -> bool:
    """Tell whether memory still rises in the second half: its last quarter lies over its third by more than 5 %."""
    quarter = len(rss_mib) // 4
    if not quarter:
        return False
    third, last = rss_mib[-2 * quarter : -quarter], rss_mib[-quarter:]
    return sum(last) / quarter > 1.05 * sum(third) / quarter


def machine() -> dict[str, Any]:
    """Return what the figures depend on, and in `remarks` why they should be read with care."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    memory_gib = psutil.virtual_memory().total / 2**30
    remarks = []
    if load > BUSY_LOAD * cores:
        remarks.append(f"the machine is busy (load average {load:.1f} on {cores} cores)")
    if cores <= SMALL_CORES:
        remarks.append(f"the machine is small ({cores} cores, which the servers under test share)")
    if memory_gib < SMALL_GIB:
        remarks.append(f"the machine is small ({memory_gib:.0f} GiB of memory)")
    return {
        "cores": cores,
        "memory_gib": round(memory_gib, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": round(load, 1),
        "versions": {name: version(name) for name in ("faust-streaming", "aiokafka", "fastavro", "redis", "chdb")},
        "remarks": remarks,
    }
