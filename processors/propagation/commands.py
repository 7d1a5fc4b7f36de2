"""`downriver sla`: how every propagation rule stands at every sink, and which rules there are."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table as Grid
from rich.text import Text

from downriver.exits import Exit
from downriver.output import Format, OutputOption, print_json, report, stdout, table
from downriver.settings import Settings, load
from processors.propagation.monitor import Monitor, feeding, snapshot
from processors.propagation.rules import load_rules
from processors.propagation.status import Health, Status
from processors.sinks import SINKS

app = typer.Typer(help="Watch the propagation rules: from the commit in PostgreSQL until a reader of a sink sees it.")

STYLES = {Health.OK: "green", Health.LATE: "bold red", Health.UNKNOWN: "yellow"}


@app.command()
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds between two looks of --watch.")] = 2.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show every rule at every sink: what arrived and how fast, and how old the oldest change is that nobody sees yet.

    P50, P95, P99 and MAX are seconds from the commit until readers saw the change; LATE were over the limit. OLDEST is
    the age of the oldest change that readers don't see yet, known even when no worker lives. A rule is late, too, when
    capture itself is behind for longer than its limit.

    Ends with 1 if anything is late, or unknown because a server is away.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what is away is told in the table
    settings = load()
    shown = asyncio.run(_watch(settings, interval, output) if watch else snapshot(settings))
    if not watch:
        _print(shown, output)
    if not shown.ok:
        raise typer.Exit(Exit.FAILED)


@app.command()
def rules(output: OutputOption = Format.TABLE) -> None:
    """List the rules: what each counts, its limit, its objective, and the sinks that it holds for."""
    records: list[dict[str, object]] = []
    for rule in load_rules():
        counted = {each.table for each in rule.counts}
        records.append(
            {
                "rule": rule.name,
                "counts": "; ".join(
                    f"{each.table}: any change"
                    if not each.columns
                    else f"{each.table}: updates of {', '.join(each.columns)}"
                    for each in rule.counts
                ),
                "limit_s": rule.limit_s,
                "objective": f"{rule.objective_percent:g} % over {rule.window_days} days",
                "sinks": ", ".join(rule.sinks)
                or ", ".join(sink for sink in SINKS if counted & {str(each.id) for each in feeding(sink)}),
            }
        )
    report(output, records)


async def _watch(settings: Settings, interval_s: float, output: Format) -> Status:
    """Look until interrupted; JSON: one document a look."""
    async with Monitor(settings) as monitor:
        live = Live(console=stdout, auto_refresh=False, screen=False)
        if output is Format.TABLE:
            live.start()
        try:
            while True:
                shown = await monitor.look(interval_s)
                if output is Format.JSON:
                    print_json(shown.as_json())
                else:
                    live.update(page(shown), refresh=True)
                await asyncio.sleep(interval_s)
        finally:
            live.stop()


def _print(shown: Status, output: Format) -> None:
    if output is Format.JSON:
        print_json(shown.as_json())
        return
    stdout.print(page(shown))


def page(shown: Status) -> Group:
    """Return the tables for people."""
    parts: list[RenderableType] = [
        _rules_table(shown),
        _reasons(shown),
        _capture_table(shown),
        Text(),
        _dead_letters(shown),
    ]
    return Group(*parts, *(Text(problem, style="yellow") for problem in shown.problems))


def _rules_table(shown: Status) -> Grid:
    columns = ["RULE", "SINK", "LIMIT", "COUNT", "P50", "P95", "P99", "MAX", "LATE", "OLDEST", "STATE"]
    grid = table(columns, [])
    for (rule, sink), standing in shown.standings.items():
        figures = standing.as_json()
        limit_s = shown.limits[rule]
        cells = [rule, sink, "-" if limit_s is None else f"{limit_s:g} s", f"{figures['count']:,}"]
        cells += [_seconds(figures[name]) for name in ("p50_s", "p95_s", "p99_s", "max_s")]
        cells += [f"{figures['late']:,}", _seconds(standing.oldest_s, unknown="?")]
        grid.add_row(*cells, Text(standing.state.value, style=STYLES[standing.state]))
    return grid


def _reasons(shown: Status) -> Text:
    """Say why rules are late or unknown, each reason once."""
    who: dict[tuple[Health, str], list[str]] = {}
    for (rule, sink), standing in shown.standings.items():
        if standing.why:
            who.setdefault((standing.state, standing.why), []).append(f"{rule} at {sink}")
    lines = Text("\n")
    for (state, why), places in who.items():
        named = "everything" if len(places) == len(shown.standings) else ", ".join(places)
        lines.append(f"{state.value}: {named}: {why}\n", style=STYLES[state])
    return lines


def _capture_table(shown: Status) -> Grid:
    rows = [
        [
            lane.value,
            _seconds(capture.age_s, unknown="?"),
            "?" if capture.retained_bytes is None else f"{capture.retained_bytes / 2**20:,.1f} MiB",
            capture.problem,
        ]
        for lane, capture in shown.capture.items()
    ]
    return table(["CAPTURE", "BEHIND", "WAL KEPT", ""], rows)


def _dead_letters(shown: Status) -> Text:
    told = ", ".join(f"{sink} {number:,}" for sink, number in shown.dead_letters.items())
    return Text(f"Dead letters: {told}", style="bold red" if any(shown.dead_letters.values()) else "")


def _seconds(seconds: float | None, unknown: str = "-") -> str:
    if seconds is None:
        return unknown
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:,.1f} s"
