"""The latency of a sink is that of all its rules together."""

from __future__ import annotations

from bench.latency import of_sink
from processors.propagation.figures import Figures
from processors.propagation.status import Health, Standing, Status


def figures(*latencies_s: float) -> Figures:
    made = Figures()
    for latency_s in latencies_s:
        made.add(latency_s, None)
    return made


def test_rules_are_merged_and_other_sinks_left_out() -> None:
    standings = {
        ("inventory", "cache"): Standing(figures(*[0.1] * 98), 0.0, Health.OK),
        ("other", "cache"): Standing(figures(0.5, 0.9), 0.0, Health.OK),
        ("other", "search"): Standing(figures(30.0), 0.0, Health.OK),
    }
    found = of_sink(Status(0.0, {}, standings), "cache")
    assert (found["sink"], found["count"], found["max_s"]) == ("cache", 100, 0.9)
    assert abs(found["p50_s"] - 0.1) < 0.002
    assert abs(found["p99_s"] - 0.5) < 0.006


def test_a_sink_without_changes_has_no_figures() -> None:
    found = of_sink(Status(0.0, {}, {}), "search")
    assert found == {"sink": "search", "count": 0, "p50_s": None, "p99_s": None, "max_s": None}
