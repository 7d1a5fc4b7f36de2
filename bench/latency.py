"""From the commit to a reader, on a pipeline of its own: shop, connectors, three workers, the shop's workload at two rates."""

from __future__ import annotations

from typing import Any

from bench.worker import FOLDER
from deploy.local.stack import Stack, capture_of
from downriver.output import say
from downriver.settings import Settings
from processors.propagation.figures import Figures
from processors.propagation.status import Status
from processors.verify.compare import SINKS
from shop.sample.fill import fill
from shop.sample.rows import Plan
from shop.workload import run as workload
from tests.support.captured import captured_shop
from tests.support.pipeline import pipeline_on
from tests.support.stack import RunningStack

RATES = (200, 1_000)
PRODUCTS = 10_000
WARM_UP_S = 15
"""The first seconds of a JVM, of an index and of a worker are slow; they are in the demo's figures, not in these."""


async def measure(settings: Settings, seconds: int, wrong: list[str]) -> list[dict[str, Any]]:
    """Run the workload at each rate for so many seconds; return the quantiles of every sink at each.

    Args:
        wrong: gets a sentence where shop and sinks differ in the end.
    """
    found: list[dict[str, Any]] = []
    stack = RunningStack(Stack(settings.stack, capture_of(settings)), settings, {})
    say("latency: a shop and its connectors …")
    with captured_shop(settings, lambda own: fill(own, Plan(PRODUCTS, 1))) as shop:
        async with pipeline_on(stack, shop.settings, FOLDER) as pipeline:
            say(f"latency: {WARM_UP_S} s of changes that don't count, while workers and servers warm up …")
            await workload.run(pipeline.settings, RATES[0], WARM_UP_S, len(RATES))
            await pipeline.arrived()
            for seed, rate in enumerate(RATES):
                say(f"latency: {rate} changes a second for {seconds} s …")
                async with pipeline.monitor() as monitor:
                    before = await monitor.look(10.0)
                    account = await workload.run(pipeline.settings, rate, seconds, seed)
                    await pipeline.arrived()
                    after = await monitor.look(10.0, before)
                reached = account.changes / account.seconds
                found += [of_sink(after, sink) | {"rate": rate, "reached": round(reached, 1)} for sink in SINKS]
            compared = await pipeline.compared()
    if not compared.ok:
        wrong.append(f"latency: shop and sinks differ: {[str(each) for each in compared.differences[:3]]}")
    return [each for each in found if each["count"]]


def of_sink(status: Status, sink: str) -> dict[str, Any]:
    """Return the figures of a sink over all rules, those without a limit too; times in seconds."""
    figures = Figures()
    for (_, where), standing in status.standings.items():
        if where == sink:
            figures.merge(standing.figures)
    return {
        "sink": sink,
        "count": figures.count,
        "p50_s": _rounded(figures.quantile_s(0.5)),
        "p99_s": _rounded(figures.quantile_s(0.99)),
        "max_s": _rounded(figures.max_s if figures.count else None),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
