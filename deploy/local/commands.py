"""`downriver stack`: the real servers on this machine, without Docker."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from typing import Annotated

import typer
from rich.console import Console

from deploy.local.progress import Shown
from deploy.local.stack import Record, Stack, capture_of
from downriver.exits import Exit
from downriver.output import Format, OutputOption, print_json, say, stdout, table
from downriver.settings import load

COLUMNS = ["name", "version", "address", "pid", "health", "rss_mb"]
WIDTH = 120
"""Letters a table of the servers needs; on a narrower terminal its lines wrap."""

app = typer.Typer(
    help="Run the real servers on this machine, without Docker: PostgreSQL, Kafka, Kafka Connect, schema registry, "
    "Redis, Elasticsearch, ClickHouse. Data and logs live in one folder (DOWNRIVER_STACK__FOLDER, .downriver); "
    "ports follow DOWNRIVER_STACK__PORT_BASE; everything listens on loopback."
)


def _stack() -> Stack:
    settings = load()
    return Stack(settings.stack, capture_of(settings))


def _show(output: Format, records: list[Record]) -> None:
    """Print the records; as a table with addresses whole, since people copy them."""
    if output is Format.JSON:
        print_json(records)
        return
    rows = [[record[name] for name in COLUMNS] for record in records]  # type: ignore[literal-required]
    Console(width=max(stdout.width, WIDTH)).print(table([name.upper() for name in COLUMNS], rows))


@app.command()
def up(output: OutputOption = Format.TABLE) -> None:
    """Start what does not run yet; return when every server answers. Twice changes nothing.

    The first start downloads about 350 MB. The servers stay when this command has ended: `downriver stack down`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill leaves nothing behind, as Ctrl-C does
    begun = time.monotonic()
    stack = _stack()
    with Shown() as progress:
        for note in stack.home.notes:
            say(note)
        noted = len(stack.home.notes)
        records = stack.up(progress)
    for note in stack.home.notes[noted:]:
        say(note)
    say(f"All {len(records)} servers are up after {time.monotonic() - begun:.1f} s, in {stack.home.folder}.")
    _show(output, records)


@app.command()
def down() -> None:
    """Stop every server of the folder, also after a start that broke halfway. Data stays."""
    _stack().down()
    say("Nothing of the stack runs any more.")


@app.command()
def status(output: OutputOption = Format.TABLE) -> None:
    """List every server with version, address, process id, health and memory. Exit code 1 unless all are healthy."""
    records = _stack().status()
    _show(output, records)
    if any(record["health"] != "healthy" for record in records):
        raise typer.Exit(Exit.FAILED)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="A server, as `downriver stack status` names it.")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing what is added; Ctrl-C ends it.")
    ] = False,
) -> None:
    """Print the end of a server's log."""
    stack = _stack()
    stack.server(name)
    path = stack.home.log(name)
    if not path.exists():
        say(f"{name} has no log in {path.parent}: it was never started here.")
        raise typer.Exit(Exit.FAILED)
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(path)]
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(command, check=True)


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False) -> None:
    """Stop everything and delete all data, logs and secrets of the folder. Asks first."""
    stack = _stack()
    if not yes:
        typer.confirm(f"Delete all data of the stack in {stack.home.folder}?", abort=True, err=True)
    stack.reset()
    say(f"{stack.home.folder} is empty; downloaded artifacts were kept.")
