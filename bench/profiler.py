"""Where a worker's time goes: py-spy beside one worker at full replay, and its samples added up by function."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import cache, topic
from bench.names import of_run
from bench.peers import home
from bench.records import Load
from bench.report import markdown
from bench.suite import HOT
from bench.worker import FOLDER, wait_assigned, watch, workers
from downriver.exits import DownriverError
from downriver.output import say
from downriver.settings import Settings

SAMPLES_PER_S = 200
TOP = 12
WAITING = ("select (selectors.py", "_worker (concurrent/futures/thread.py", "wait (threading.py", "accept (socket.py")
"""Innermost functions whose threads wait: py-spy takes some of them for running."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The samples of one worker's threads that were running, not waiting.

    Attributes:
        own: function → samples in which it was what ran.
        within: function → samples in which it, or something that it called, ran.
        raw: the file with all stacks, as flame graph viewers read it.
    """

    sink: str
    records: int
    hot: bool
    total: int
    own: Counter[str]
    within: Counter[str]
    raw: Path

    def rows(self) -> list[dict[str, object]]:
        """Return the functions that cost most by themselves, and ours that cost most with what they call."""
        rows: list[dict[str, object]] = []
        for kind, counted in (("by itself", self.own), ("with what it calls", self._ours())):
            for name, samples in counted.most_common(TOP):
                rows.append({"time": kind, "share": f"{samples / self.total:.1%}", "function": name})
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return the object for programs."""
        return {
            "sink": self.sink,
            "records": self.records,
            "hot": self.hot,
            "samples": self.total,
            "raw": str(self.raw),
            "functions": self.rows(),
        }

    def markdown(self) -> str:
        """Return its part of docs/benchmarks.md."""
        about = f"{self.records:,} records{' about 1,000 products' if self.hot else ''}, {self.total:,} samples"
        rows = [(row["time"], row["share"], f"`{row['function']}`") for row in self.rows()]
        return f"### Where the time goes: {self.sink}\n\n{about}.\n\n" + markdown(("time", "share", "function"), rows)

    def _ours(self) -> Counter[str]:
        return Counter({name: count for name, count in self.within.items() if "(processors/" in name})


def profile(own: Settings, sink: str, records: int, *, hot: bool) -> Profile:
    """Replay the records in one worker of the sink and sample it from the first to the last.

    Raises:
        Missing: py-spy can't be had.
        DownriverError: it may not look into the worker (as a plain user, Linux must allow it: kernel.yama.ptrace_scope=0).
    """
    load = Load(f"{own.source}_profile", records, HOT if hot else records)
    settings = of_run(own, "profile", "_profile")
    raw = FOLDER.absolute() / f"profile-{sink}.raw"
    spy = str(home() / "bin" / "py-spy")
    if sink == "cache":
        cache.prepare(settings, load)
    say(f"filling a topic of {records:,} records …")
    with topic.held(settings, load) as release, workers(sink, settings) as running:
        wait_assigned(running)
        command = [spy, "record", "--format", "raw", "--function", "--rate", str(SAMPLES_PER_S), "--output", str(raw)]
        spying = subprocess.Popen(
            [*command, "--pid", str(running[0].process.pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            release()
            watch(running, records)
        finally:
            if spying.poll() is None:
                spying.send_signal(signal.SIGINT)  # it then writes its file
            said, _ = spying.communicate(timeout=60)
    if not raw.exists() or spying.returncode:
        msg = f"py-spy could not look into the worker: {said.strip()[-300:]}"
        raise DownriverError(msg)
    return Profile(sink, records, hot, *add_up(raw.read_text().splitlines()), raw)


def add_up(lines: Iterable[str]) -> tuple[int, Counter[str], Counter[str]]:
    """Add up py-spy's raw lines (`outer;inner;innermost count`): all samples, own ones and those within, by function.

    Threads that wait don't count.
    """
    total, own, within = 0, Counter[str](), Counter[str]()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if any(waiting in frames[-1] for waiting in WAITING):
            continue
        total += int(count)
        own[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
    return total, own, within
