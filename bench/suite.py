"""The measurements, one function each: makes its work, has it done by every contender, holds the result against the model.

Each adds to the findings and never removes: what bears the benchmark's name goes when the run ends (bench.names).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench import analytics, cache, peers, search, topic, transport
from bench.names import of_run
from bench.records import Load
from bench.results import OURS, Findings, Measured, grows
from bench.worker import Run, replay
from downriver.exits import DownriverError
from downriver.output import say
from downriver.settings import Settings

HOT = 1_000
SHORT = 100_000
"""Records of the short runs."""
UPDATED = 100_000
"""Products that the records of the memory runs are about."""
PEER_SEARCH = 100_000
"""Records that a peer writes to Elasticsearch at most: rates count, and it is the slowest of all."""


@dataclass(slots=True)
class Suite:
    """One run of the benchmarks under names of its own.

    Attributes:
        own: the settings that `bench.names.own_names` gave.
        load: of the main topic, already filled.
        values: its records' values, once `limits` has read them.
    """

    own: Settings
    load: Load
    findings: Findings
    values: Sequence[bytes] = ()

    def transport(self) -> None:
        """Our transport, and stock Faust's, on the main topic; and how fast the bare client reads it."""
        say("transport: the bare client …")
        seconds, self.values = topic.consume(of_run(self.own, "raw"), self.load)
        self._add("transport", "confluent-kafka, consume only", self.load.records, seconds)
        size = None
        for kind, who in (("stock", "stock Faust"), ("ours", OURS)):
            say(f"transport: {who} …")
            got = transport.run(kind, self.load.topic, self.load.records, f"{self.own.source}_{kind}")
            if got["records"] != self.load.records or size not in {None, got["bytes"]}:
                self.findings.wrong.append(
                    f"transport: {who} counted {got}, not {self.load.records} records, {size} bytes"
                )
            size = got["bytes"]
            self._add("transport", who, self.load.records, got["seconds"], f"{size / 2**20:.0f} MiB")

    def cache(self) -> None:
        """Invalidate every product's key."""
        settings = of_run(self.own, "cache")
        self._ours("cache", settings, self.load, lambda: cache.prepare(settings, self.load))
        self._held("cache", OURS, cache.unequal(settings))
        cache.prepare(settings, self.load)
        about = {"redis": settings.redis.url}
        if self._peer("cache", "cache", self.load, self.load.records, about):
            self._held("cache", peers.QUIX, cache.unequal(settings))
        cache.prepare(settings, self.load)
        say("cache: raw DEL …")
        seconds = cache.limit(settings, self.load)
        self._add("cache", "raw DEL, 1,000 keys a command", self.load.distinct, seconds, "keys, not records")

    def search(self, work: str, load: Load, run: str) -> None:
        """Index the load's products: all of them distinct, or a few hot ones."""
        settings = of_run(self.own, run, load.source.removeprefix(self.own.source))
        self._ours(work, settings, load)
        self._held(work, OURS, search.unequal(settings, load))
        count = min(load.records, PEER_SEARCH)
        index = f"{self.own.source}_{run}_quix"
        about = {
            "elasticsearch": settings.elasticsearch.url,
            "index": index,
            "mapping": search.peer_mapping(),
        }
        if self._peer(work, "search", load, count, about) and count == load.records:
            self._held(work, peers.QUIX, search.peer_unequal(settings, index, load))
        say(f"{work}: raw _bulk …")
        seconds = search.limit(of_run(self.own, f"{run}_raw"), load, load.records)
        self._add(work, "raw _bulk, 1,000 documents a request, 2 in flight", load.records, seconds)

    def analytics(self) -> None:
        """Insert every record into history and current state."""
        settings = of_run(self.own, "analytics")
        self._ours("analytics", settings, self.load)
        self._held("analytics", OURS, analytics.unequal(settings, self.load))
        values = self.values or topic.consume(of_run(self.own, "raw"), self.load)[1]
        say("analytics: rows built in Python …")
        seconds = analytics.rows_in_python(of_run(self.own, "rows"), self.load, values)
        self._add("analytics", "rows built in Python", len(values), seconds, "decode and insert, no Kafka")
        built = of_run(self.own, "quix")
        with analytics.prepared(built):
            about = {
                "clickhouse": {"host": built.clickhouse.host, "port": built.clickhouse.port},
                "database": built.clickhouse.database,
                "columns": list(analytics.NAMES),
                "checkpoint": 50_000,
            }
            self._peer("analytics", "analytics", self.load, self.load.records, about)
        say("analytics: ClickHouse itself …")
        seconds = analytics.one_insert(of_run(self.own, "single"), self.load, values)
        self._add("analytics", "one INSERT of all records", len(values), seconds)
        seconds = analytics.parse(settings, self.load, values)
        self._add("analytics", "ClickHouse parsing a file", len(values), seconds, "nothing is written")

    def partitions(self, records: int) -> None:
        """One cache worker, on a topic that holds its records in 1, 2, 4 or 8 of its partitions."""
        for used in (1, 2, 4, 8):
            load = Load(f"{self.own.source}_p{used}", records, records, used)
            self._shared(load, 1, f"p{used}", f"cache, 1 worker, {used} partition{'s' * (used > 1)}")

    def workers(self, records: int) -> None:
        """1, 2 and 4 cache workers on the same amount of work, which appears once they share the partitions."""
        for count in (1, 2, 4):
            load = Load(f"{self.own.source}_w{count}", records, records)
            self._shared(load, count, f"w{count}", f"cache, {count} worker{'s' * (count > 1)}, 8 partitions")

    def memory(self, records: int) -> None:
        """One worker of each sink replaying so many records: what it takes, sampled five times a second."""
        load = Load(f"{self.own.source}_m", records, min(records, UPDATED))
        say(f"memory: filling a topic of {records:,} records …")
        topic.fill(of_run(self.own, "m", "_m"), load)
        for kind in ("cache", "search", "analytics"):
            work, settings = f"memory, {kind}", of_run(self.own, f"m{kind}", "_m")
            if kind == "cache":
                cache.prepare(settings, load)
            run = self._ours(work, settings, load, measured=False)
            self.findings.memory.append(
                {"sink": kind, "records": records, "seconds": round(run.seconds, 2)} | _rss(run)
            )
            self._held(work, OURS, _unequal(kind, settings, load))

    def _shared(self, load: Load, count: int, run: str, work: str) -> None:
        settings = of_run(self.own, run, f"_{run}")
        cache.prepare(settings, load)
        with topic.held(settings, load) as release:
            done = self._ours(work, settings, load, count=count, release=release, measured=False)
        self._add("scaling", work, done.records, done.seconds)
        self._held(work, OURS, cache.unequal(settings))

    def _ours(
        self,
        work: str,
        settings: Settings,
        load: Load,
        prepare: Callable[[], None] | None = None,
        *,
        count: int = 1,
        release: Callable[[], None] | None = None,
        measured: bool = True,
    ) -> Run:
        if prepare is not None:
            prepare()
        say(f"{work}: {OURS} …")
        kind = work.removeprefix("memory, ").partition(",")[0]
        run = replay(kind, settings, load.records, count, release)
        if measured:
            self._add(work, OURS, run.records, run.seconds, f"readers see all after {run.shown_s:.1f} s")
        return run

    def _peer(self, work: str, mode: str, load: Load, count: int, about: dict[str, Any]) -> bool:
        """Have Quix Streams do the work; tell whether it did."""
        say(f"{work}: {peers.QUIX} …")
        own = self.own
        shared = {"kafka": own.kafka.bootstrap, "registry": own.registry.url, "topic": load.topic}
        try:
            records, seconds = peers.quix(
                mode, count, about | shared | {"group": f"{own.source}_quix_{mode}_{load.distinct}"}
            )
        except peers.Missing as error:
            self.findings.missing.append(f"{work}, {peers.QUIX}: {error}")
            self._add(work, "Quix Streams", count, None, "missing")
            return False
        self._add(work, "Quix Streams", records, seconds)
        return True

    def _add(self, work: str, who: str, records: int, seconds: float | None, note: str = "") -> None:
        measured = Measured(work, who, records, seconds, note)
        self.findings.measured.append(measured)
        if measured.rate:
            say(f"  {work}, {who}: {measured.rate:,.0f} a second")

    def _held(self, work: str, who: str, wrong: list[str]) -> None:
        """Note what is not equal. Ours fails the run; a peer's is told beside its figure."""
        if not wrong:
            return
        told = f"{work}, {who}: {'; '.join(wrong)}"
        if who == OURS:
            self.findings.wrong.append(told)
        else:
            self.findings.missing.append(told)


def _unequal(kind: str, settings: Settings, load: Load) -> list[str]:
    match kind:
        case "cache":
            return cache.unequal(settings)
        case "search":
            return search.unequal(settings, load)
        case _:
            return analytics.unequal(settings, load)


def _rss(run: Run) -> dict[str, Any]:
    """Return the memory of the run's worker in MiB: at its first record, at most, in the end, and about 100 samples."""
    rss = [round(sample.rss_mib, 1) for sample in run.samples]
    return {
        "start_mib": rss[0],
        "max_mib": max(rss),
        "end_mib": rss[-1],
        "grows": grows(rss),
        "mib": rss[:: max(1, len(rss) // 100)],
    }


def main_load(own: Settings, records: int) -> Load:
    """Return the load of the main topic: every record about a product of its own."""
    return Load(own.source, records, records)


def hot_load(own: Settings, records: int) -> Load:
    """Return the load of the hot topic: the same number of records about HOT products."""
    return Load(f"{own.source}_hot", records, min(HOT, records))


def steps(suite: Suite, wanted: Sequence[str], records: int, memory: int) -> None:
    """Run the wanted parts in order. A part that fails ends the run: figures without equality are none.

    Raises:
        DownriverError: a worker ended, or nothing moved.
    """
    if "transport" in wanted:
        suite.transport()
    if "cache" in wanted:
        suite.cache()
    if "search" in wanted:
        suite.search("search, distinct documents", suite.load, "distinct")
        hot = hot_load(suite.own, records)
        say("filling the topic of hot documents …")
        topic.fill(of_run(suite.own, "hot", "_hot"), hot)
        suite.search("search, 1,000 hot documents", hot, "hot")
    if "analytics" in wanted:
        suite.analytics()
    if "scaling" in wanted:
        suite.partitions(min(records, SHORT))
        suite.workers(min(records, SHORT))
    if memory:
        suite.memory(memory)
    if suite.findings.wrong:
        say("[red]not equal:[/] " + "; ".join(suite.findings.wrong))


def fail_if_wrong(findings: Findings) -> None:
    """Raise DownriverError (exit code 1) if anything was not equal."""
    if findings.wrong:
        msg = "a benchmark's result is not what it must be: " + "; ".join(findings.wrong)
        raise DownriverError(msg)
