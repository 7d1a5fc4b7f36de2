"""Every metric of the engine, once. Prometheus names, base units, low-cardinality labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_BUCKETS = (1, 5, 10, 50, 100, 500, 1_000, 2_500, 5_000, 10_000, 50_000)


class Metrics:
    """The engine's metrics in `registry`, all labelled with the sink's name."""

    def __init__(self, registry: CollectorRegistry, sink: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ["sink", *labels], registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, ["sink", *labels], registry=registry)

        self.sink = sink
        self.records = counter("downriver_records_total", "Records dealt with, by topic.", "topic")
        self.commands = counter("downriver_commands_total", "Commands decided by the sink, by outcome.", "outcome")
        self.skipped = counter("downriver_skipped_records_total", "Tombstones and heartbeats.")
        self.coalesced = counter(
            "downriver_coalesced_records_total", "Not written: the same batch held a newer change of their key."
        )
        self.dead_letters = counter("downriver_dead_letters_total", "Records written to a dead-letter topic.", "topic")
        self.retried = counter("downriver_retried_writes_total", "Writes that came after a first attempt.")
        self.write_seconds = Histogram(
            "downriver_write_seconds",
            "From claiming a batch to its last verdict, retries included.",
            ["sink", "lane"],
            buckets=WRITE_BUCKETS,
            registry=registry,
        )
        self.batch_records = Histogram(
            "downriver_write_records", "Records in one claim.", ["sink"], buckets=BATCH_BUCKETS, registry=registry
        )
        self.removed = counter(
            "downriver_removed_unread_offsets_total", "Offsets that the broker removed before they were read.", "topic"
        )
        self.held_bytes = gauge("downriver_buffered_bytes", "Fetched and not yet written.")
        self.lag = gauge("downriver_consumer_lag_records", "End offset minus delivered offset.", "topic", "partition")
        self.waiting = gauge("downriver_waiting_seconds", "How long the longest present wait for a server has lasted.")
        self.stopped = gauge(
            "downriver_stopped_partitions", "Partitions of a table that waits for a decision.", "topic"
        )
        self.assigned = gauge("downriver_assigned_partitions", "Partitions this worker owns.")
