"""The Prometheus side of a recorder: what this process measured since its start, counted in bulk.

A collector of its own, because prometheus_client's Histogram takes one observation at a time, which costs more than
everything else a change costs here. Knows nothing of Kafka or of stored figures.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

BOUNDS_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900)
"""Upper bounds of the histogram; every rule's limit is added, so that the share within it is exact."""


@dataclass(slots=True)
class _Measured:
    counts: list[int]
    sum_s: float = 0.0
    late: int = 0
    negative: int = 0


@dataclass(slots=True, eq=False)
class PropagationMetrics(Collector):
    """The metrics of one sink. Written on the event loop, collected in the web server's thread: plain numbers only.

    Attributes:
        limits: rule name → limit in seconds.
    """

    sink: str
    limits: Mapping[str, float]
    _bounds: list[float] = field(init=False)
    _rules: dict[str, _Measured] = field(default_factory=dict)
    _visible: dict[tuple[str, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._bounds = sorted({float(bound) for bound in (*BOUNDS_S, *self.limits.values())})

    def observe(self, rule: str, latency_s: float, times: int) -> None:
        """Count `times` changes that took that long, with its sign."""
        measured = self._rules.get(rule)
        if measured is None:
            measured = self._rules[rule] = _Measured([0] * (len(self._bounds) + 1))
        measured.counts[bisect_left(self._bounds, latency_s)] += times
        measured.sum_s += latency_s * times
        if latency_s < 0:
            measured.negative += times
        limit_s = self.limits.get(rule)
        if limit_s is not None and latency_s > limit_s:
            measured.late += times

    def visible(self, topic: str, partition: int, position: int) -> None:
        """Set how far readers see a partition."""
        self._visible[topic, partition] = position

    def forget(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Drop the gauges of partitions that are another worker's now."""
        for topic, partition in partitions:
            self._visible.pop((topic, partition), None)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families; prometheus_client calls it for every scrape."""
        labels = ["rule", "sink"]
        seconds = HistogramMetricFamily(
            "downriver_propagation_seconds", "From the commit until readers of the sink see the change.", labels=labels
        )
        changes = CounterMetricFamily(
            "downriver_propagation_changes",
            "Changes that readers see; late: over the limit.",
            labels=[*labels, "outcome"],
        )
        skew = CounterMetricFamily(
            "downriver_clock_skew", "Changes seen before their commit: the clocks differ.", labels=labels
        )
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        for rule, measured in self._rules.copy().items():
            whose = [rule, self.sink]
            counts = list(accumulate(measured.counts))
            seconds.add_metric(whose, list(zip(names, map(float, counts), strict=True)), measured.sum_s)
            changes.add_metric([*whose, "good"], counts[-1] - measured.late)
            changes.add_metric([*whose, "late"], measured.late)
            skew.add_metric(whose, measured.negative)
        offsets = GaugeMetricFamily(
            "downriver_visible_offset",
            "Readers of the sink see everything below this offset.",
            labels=["sink", "topic", "partition"],
        )
        for (topic, partition), position in self._visible.copy().items():
            offsets.add_metric([self.sink, topic, str(partition)], position)
        yield from (seconds, changes, skew, offsets)
