"""Real workers under measurement: `downriver worker KIND` as processes, watched from outside as an operator would.

What they did is read from their Prometheus pages, what they use from the system. Knows no store.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from bench.names import environment, uninterrupted
from deploy.local.processes import MARK
from downriver.exits import DownriverError
from downriver.settings import Settings
from processors.tables.base import PARTITIONS

POLL_S = 0.2
"""A look costs the worker a few milliseconds: its page is made in Python."""
STOP_S = 20.0
START_S = 90.0
STUCK_S = 120.0
"""A run without any progress for so long has failed."""
FOLDER = Path(".downriver-bench")


@dataclass(frozen=True, slots=True)
class Page:
    """What the benchmark reads of a worker's Prometheus page. Records count once delivered, visible once readers see them."""

    records: int = 0
    visible: int = 0
    buffered: int = 0
    assigned: int = 0
    dead_letters: int = 0

    @classmethod
    def parse(cls, text: str) -> Page:
        """Read the page; metrics that were never set are missing on it, and 0 here."""
        names = {
            "downriver_records_total": "records",
            "downriver_visible_offset": "visible",
            "downriver_buffered_bytes": "buffered",
            "downriver_assigned_partitions": "assigned",
            "downriver_dead_letters_total": "dead_letters",
        }
        sums = dict.fromkeys(names.values(), 0)
        for line in text.splitlines():
            if line.startswith("downriver_"):
                name = names.get(line.partition("{")[0])
                if name is not None:
                    sums[name] += int(float(line.rpartition(" ")[2]))
        return cls(**sums)

    def plus(self, other: Page) -> Page:
        """Add another worker's page."""
        return Page(
            self.records + other.records,
            self.visible + other.visible,
            self.buffered + other.buffered,
            self.assigned + other.assigned,
            self.dead_letters + other.dead_letters,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """The sum over the workers at one moment.

    Attributes:
        at_s: of the monotonic clock.
        rss_mib: of the largest worker.
    """

    at_s: float
    page: Page
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Run:
    """One replay: the records that were delivered while it was watched, and how long that took.

    Attributes:
        records: delivered in `seconds`: all but those that the first look at which any were delivered saw already; so
            the opening of the sink and the first fetch don't count.
        shown_s: until readers saw the last one.
        samples: from the first fetched record on.
    """

    records: int
    seconds: float
    shown_s: float
    samples: Sequence[Sample]


def measured(samples: Sequence[Sample], records: int) -> Run:
    """Return the run that the samples saw, up to `records` delivered and shown.

    What happens between two looks is taken to happen in the middle. A run of which the first look saw half or more is
    measured from the first record fetched, so with the opening of the sink.

    Raises:
        ValueError: the samples don't reach so far.
    """

    def place_of(enough: Sequence[bool]) -> int:
        return enough.index(True)

    def middle(place: int) -> float:
        return (samples[max(place - 1, 0)].at_s + samples[place].at_s) / 2

    fetched = place_of([sample.page.buffered > 0 or sample.page.records > 0 for sample in samples])
    first = place_of([sample.page.records > 0 for sample in samples])
    done = middle(place_of([sample.page.records >= records for sample in samples]))
    shown = middle(place_of([sample.page.visible >= records for sample in samples]))
    began, before = samples[first].at_s, samples[first].page.records
    if 2 * before >= records:
        began, before = middle(fetched), 0
    return Run(records - before, done - began, shown - began, samples[fetched:])


@dataclass(slots=True)
class Worker:
    """One worker process."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    client: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=10))

    def page(self) -> Page:
        """Return its page; an empty one while it starts.

        Raises:
            DownriverError: it ended, with the last lines of its log.
        """
        if (code := self.process.poll()) is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
            msg = f"a worker under measurement ended with {code}:\n{tail}"
            raise DownriverError(msg)
        try:
            return Page.parse(self.client.get(f"{self.url}/metrics").text)
        except httpx2.TransportError:
            return Page()

    def rss_mib(self) -> float:
        """Return its resident memory in MiB."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


@contextlib.contextmanager
def workers(kind: str, settings: Settings, count: int = 1) -> Iterator[list[Worker]]:
    """Start `count` workers of the kind as a user would; stop them at the end, politely first."""
    FOLDER.mkdir(exist_ok=True)
    started: list[Worker] = []
    try:
        for number in range(count):
            port = _free_port()
            log = FOLDER / f"worker-{kind}-{number}.log"
            own = {
                **environment(settings),
                "DOWNRIVER_WORKER__PORT": str(port),
                MARK: str(settings.stack.folder),  # `downriver stack down` finds it, should we be killed
            }
            with log.open("wb") as output, uninterrupted():
                process = subprocess.Popen(
                    [sys.executable, "-m", "downriver.cli", "worker", kind],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=os.environ | own,
                    start_new_session=True,  # Ctrl-C is for the benchmark, which stops its workers in order
                )
                started.append(Worker(process, f"http://127.0.0.1:{port}", log))
        yield started
    finally:
        with uninterrupted():
            for worker in started:
                worker.process.terminate()
            for worker in started:
                try:
                    worker.process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    worker.process.send_signal(signal.SIGKILL)
                    worker.process.wait()
                worker.client.close()


def replay(
    kind: str, settings: Settings, records: int, count: int = 1, release: Callable[[], None] | None = None
) -> Run:
    """Have `count` workers of the kind read a source's `records` records, and measure it.

    Args:
        release: shows the records; called once every worker owns some of the partitions.

    Raises:
        DownriverError: a worker ended, a record became a dead letter, or nothing moved for STUCK_S.
    """
    with workers(kind, settings, count) as running:
        if release is not None:
            wait_assigned(running)
            release()
        samples = watch(running, records)
    return measured(samples, records)


def watch(running: Sequence[Worker], records: int) -> list[Sample]:
    """Look at the workers until readers see all records; see `replay` for errors."""
    samples: list[Sample] = []
    moved_at, patience_s = time.monotonic(), START_S
    while not samples or samples[-1].page.visible < records:
        page = Page()
        for worker in running:
            page = page.plus(worker.page())
        now = time.monotonic()
        samples.append(Sample(now, page, max(worker.rss_mib() for worker in running)))
        if page.dead_letters:
            msg = f"{page.dead_letters} records became dead letters: see {running[0].log}"
            raise DownriverError(msg)
        if len(samples) > 1 and page != samples[-2].page:
            moved_at, patience_s = now, STUCK_S
        if now - moved_at > patience_s:
            msg = f"no progress for {patience_s:.0f} s at {page}: see {running[0].log}"
            raise DownriverError(msg)
        time.sleep(POLL_S)
    return samples


def wait_assigned(running: Sequence[Worker]) -> None:
    """Wait until each worker owns partitions, and together they own all of the one topic that is there."""
    give_up_at = time.monotonic() + START_S
    while True:
        assigned = [worker.page().assigned for worker in running]
        if all(assigned) and sum(assigned) == PARTITIONS:
            return
        if time.monotonic() > give_up_at:
            msg = f"{len(running)} workers share {assigned} partitions after {START_S:.0f} s"
            raise DownriverError(msg)
        time.sleep(POLL_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
