"""`downriver connectors guard`: the supervisor as a process."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, Counter, Gauge
from rich.text import Text

from connectors import guard as guarding
from connectors import live
from connectors.deploying import ContextOption
from connectors.guard import Event, Guard, Kind, Limits
from connectors.health import Health
from connectors.serving import serve
from downriver.exits import Exit
from downriver.output import Format, OutputOption, print_json, print_json_line, report, say, stdout
from downriver.settings import Settings

DEFAULTS = Limits()
STYLES = {"loss": "bold red", "failed": "red", "stalled": "red", "halted": "yellow"}


class Metrics:
    """What the guard serves to Prometheus: the alert rule is `downriver_connector_problem > 0`."""

    def __init__(self) -> None:
        """Make the metrics in a registry of their own."""
        self.registry = CollectorRegistry()
        self._well = Gauge("downriver_connector_ok", "1: changes flow.", ["connector"], registry=self.registry)
        self._problem = Gauge(
            "downriver_connector_problem",
            "1: there is this problem.",
            ["connector", "rule", "severity"],
            registry=self.registry,
        )
        self._age = Gauge(
            "downriver_connector_offset_age_seconds",
            "How long ago the newest change in Kafka was committed.",
            ["connector"],
            registry=self.registry,
        )
        self._restarts = Counter(
            "downriver_connector_restarts", "Restarts of failed tasks.", ["connector"], registry=self.registry
        )

    def take(self, healths: list[Health], events: list[Event]) -> None:
        """Show the newest look."""
        self._problem.clear()
        for health in healths:
            name = health.look.name
            self._well.labels(name).set(health.ok)
            for problem in health.problems:
                self._problem.labels(name, problem.rule, problem.severity).set(1)
            if health.look.offset_age_s is not None:
                self._age.labels(name).set(health.look.offset_age_s)
        for event in events:
            if event.kind is Kind.RESTARTED:
                self._restarts.labels(event.connector).inc()


def guard(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Connectors; default: those of the files.")
    ] = None,
    *,
    accept: Annotated[
        bool, typer.Option("--accept", help="Forget what was found of NAME: it was verified, and put right.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Look once; exit 1 if anything is wrong.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, max=600, help="Seconds between two looks.")] = 3.0,
    restarts: Annotated[int, typer.Option(min=0, max=100, help="Restarts in a row; 0: none.")] = DEFAULTS.restarts,
    pause: Annotated[
        float, typer.Option(min=0, help="Seconds before the second restart; doubled before each further one.")
    ] = DEFAULTS.pause_s,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Serve metrics for Prometheus there, on worker.host; 0: don't.")
    ] = 0,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Watch connectors, restart failed tasks a bounded number of times, and tell what a restart can't heal.

    It tells what begins and what ends, a line each (`-o json`: a document each): a lost slot, a slot ahead of the stored
    position, a slot that was made again, a second snapshot, a source that was restored or promoted, WAL that ran out, a
    registry that refuses. A loss stays told, here and by `status`, until `guard --accept NAME`, also after the connector
    went on. A connector whose source was restored, replaced or promoted is stopped.

    A task that lost its access to the source is restarted once Connect gets in again. Run one guard a Connect cluster.
    """
    settings = live.in_use(context)
    if accept:
        _accept(settings, names or [], output)
        return
    watched = Guard(settings, names or (), live.wanted(settings) if not names else {}, Limits(restarts, pause))
    metrics = Metrics()
    if metrics_port:
        serve(metrics.registry, settings.worker.host, metrics_port)
    try:
        while True:
            events = watched.look()
            metrics.take(watched.healths, events)
            for event in events:
                _tell(event, output)
            if once:
                break
            time.sleep(interval)
    finally:
        watched.close()
    wrong = any(event.rule.endswith("-away") for event in events)
    if wrong or not all(health.ok for health in watched.healths):
        raise typer.Exit(Exit.FAILED)


def _accept(settings: Settings, names: list[str], output: Format) -> None:
    if not names:
        raise typer.BadParameter("--accept needs the NAME of each connector")
    found = guarding.accept(settings, names)
    if output is Format.JSON:
        print_json({name: asdict(value) for name, value in found.items()})
        return
    report(
        output,
        [
            {
                "connector": name,
                "accepted": "; ".join(found[name].lost) or "nothing" if name in found else "nothing known",
            }
            for name in names
        ],
    )


def _tell(event: Event, output: Format) -> None:
    if output is Format.JSON:
        print_json_line(asdict(event))
        return
    moment = datetime.fromtimestamp(event.at_s, UTC).strftime("%H:%M:%S")
    style = "green" if event.kind is Kind.SOLVED else STYLES.get(event.severity, "yellow")
    stdout.print(Text(f"{moment} {event.connector} {event.kind}: {event.text}", style=style), soft_wrap=True)
    if event.way_out:
        say(f"  way out: {event.way_out}")
