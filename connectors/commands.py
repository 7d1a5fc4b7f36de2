"""`downriver connectors`: put the connector files onto Kafka Connect, and see how they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import stamina
import typer

from connectors import offsets_command, state_command, status_command
from connectors.apply import Result
from connectors.apply import apply as apply_connectors
from downriver.exits import Exit
from downriver.output import Format, OutputOption, report, say
from downriver.settings import load

app = typer.Typer()

Files = Annotated[list[Path] | None, typer.Argument(help="Connector files; default: connectors/downriver_*.json.")]


@app.callback()
def quiet() -> None:
    """Deploy the Debezium connectors and see whether they run."""
    stamina.instrumentation.set_on_retry_hooks([])  # what is waited for is told in sentences, once


@app.command()
def apply(
    files: Files = None,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait; 0: don't.")] = 120.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check the source, create or update the connectors, wait until changes flow.

    Done when every task runs and has stored a position that it streamed to: from then on a restart loses nothing.
    Applying again changes nothing, but starts what was stopped or failed.

    Exit codes: 1 a task failed or did not get there in time, 2 the files or the source are not ready, 3 Kafka Connect or
    PostgreSQL is away.
    """
    _tell(apply_connectors(load(), files, wait, say), output)


app.command()(status_command.status)
app.command()(status_command.get)
app.command()(status_command.describe)
for verb in (
    state_command.pause,
    state_command.resume,
    state_command.stop,
    state_command.restart,
    state_command.delete,
):
    app.command()(verb)
app.add_typer(offsets_command.app, name="offsets", no_args_is_help=True)


def _tell(results: Sequence[Result], output: Format) -> None:
    columns = ["connector", "action", "state", "lsn", "error"]
    records = [{name: getattr(result, name) for name in columns} for result in results]
    if output is Format.TABLE:
        records = [record | {"error": str(record["error"]).partition("\n")[0]} for record in records]
    report(output, [{name: record[name] for name in columns} for record in records])
    for result in results:
        if result.error and output is Format.TABLE and "\n" in result.error:
            say(f"\n{result.connector}\n{result.error}")
    if not all(result.ok for result in results):
        raise typer.Exit(Exit.FAILED)
