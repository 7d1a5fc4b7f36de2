"""`make bench`: measures on the local stack, prints a table or one JSON object, writes docs/benchmarks.md.

What it made on the servers is gone when it ends, however it ends.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from bench import latency, profiler, report, topic
from bench.names import of_run, own_names, stoppable
from bench.results import Findings, machine
from bench.suite import Suite, fail_if_wrong, main_load, steps
from downriver.exits import BadInput, DownriverError, Exit
from downriver.output import Format, OutputOption, print_json, say
from downriver.output import report as print_rows
from downriver.settings import load
from processors.sinks import SINKS

PARTS = ("transport", "cache", "search", "analytics", "scaling")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    records: Annotated[int, typer.Option(min=10_000, max=5_000_000, help="Envelopes in the topic.")] = 300_000,
    part: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(PARTS)}. Default: all.")] = None,
    memory: Annotated[int, typer.Option(min=0, help="Records that one worker of each sink replays; 0: none.")] = 0,
    seconds: Annotated[int, typer.Option(min=0, help="Length of each latency run; 0: none.")] = 0,
    document: Annotated[bool, typer.Option(help="Write docs/benchmarks.md.")] = True,
    output: OutputOption = Format.TABLE,
) -> None:
    """Downriver beside its peers and the raw limits, on the same work. Needs `downriver stack up`.

    `--memory 1000000 --seconds 30` adds the memory and latency runs. Exit code 1: a result was not equal to what it must be.
    """
    if context.invoked_subcommand:
        return
    wanted = tuple(part) if part is not None else PARTS
    if unknown := set(wanted) - {*PARTS, "none"}:
        msg = f"--part {', '.join(sorted(unknown))} is none of {', '.join(PARTS)} (or none, for --memory and --seconds alone)"
        raise BadInput(msg)
    at, settings, findings = datetime.now(UTC), load(), Findings(machine())
    for remark in findings.machine["remarks"]:
        say(f"[yellow]careful:[/] {remark}: read the ratios, not the rates")
    if memory or {*wanted} - {"none"}:
        with stoppable(), own_names(settings) as own:
            work = main_load(own, records)
            if {*wanted} & {"transport", "cache", "search", "analytics"}:
                say(f"filling a topic of {records:,} records …")
                topic.fill(of_run(own, "fill"), work)
            steps(Suite(own, work, findings), wanted, records, memory)
    if seconds:
        with stoppable():
            findings.latency.extend(asyncio.run(latency.measure(settings, seconds, findings.wrong)))
    say(f"results: {report.save(findings, at)}")
    if document and not findings.wrong:
        report.write(findings, at, shlex.join(["python", "-m", "bench", *sys.argv[1:]]))
    if output is Format.JSON:
        print_json(findings.as_json())
    else:
        print_rows(
            output,
            [
                {
                    "work": each.work,
                    "who": each.who,
                    "records_per_s": "missing" if each.rate is None else f"{each.rate:,.0f}",
                    "remark": each.note,
                }
                for each in findings.measured
            ],
        )
        print_rows(output, findings.targets())
    fail_if_wrong(findings)


@app.command()
def profile(
    sink: Annotated[str, typer.Argument(help=f"One of {', '.join(SINKS)}.", show_default=False)],
    records: Annotated[int, typer.Option(min=10_000, max=5_000_000, help="Envelopes to replay.")] = 300_000,
    hot: Annotated[bool, typer.Option(help="About 1,000 products instead of as many as records.")] = False,
    document: Annotated[bool, typer.Option(help="Write its part of docs/benchmarks.md.")] = True,
    output: OutputOption = Format.TABLE,
) -> None:
    """Where one worker's time goes at full replay, by py-spy: the functions that cost most, and a raw file for viewers."""
    if sink not in SINKS:
        msg = f"there is no sink {sink!r}; there are: {', '.join(SINKS)}"
        raise BadInput(msg)
    with stoppable(), own_names(load()) as own:
        found = profiler.profile(own, sink, records, hot=hot)
    if document:
        report.replace_part(f"profile of {sink}", found.markdown())
    if output is Format.JSON:
        print_json(found.as_json())
    else:
        print_rows(output, found.rows())


def main() -> None:
    """Run the command line; turn errors into a message and an exit code."""
    try:
        app()
    except DownriverError as error:
        say(f"[red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
