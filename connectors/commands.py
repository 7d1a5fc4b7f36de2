"""`downriver connectors`: deploy the connectors as code, and see how they are. Assembles the groups; does nothing itself."""

from __future__ import annotations

import stamina
import typer

from connectors import deploying
from connectors.apply import status as connectors_status
from connectors.deploying import FilesArgument, tell_results
from downriver.output import Format, OutputOption
from downriver.settings import load

app = typer.Typer()
app.add_typer(deploying.app)


@app.callback()
def quiet() -> None:
    """Deploy the Debezium connectors and see whether they run."""
    stamina.instrumentation.set_on_retry_hooks([])  # what is waited for is told in sentences, once


@app.command()
def status(files: FilesArgument = None, output: OutputOption = Format.TABLE) -> None:
    """Show the connectors' states. Exit code 1 unless every task runs."""
    tell_results(connectors_status(load(), files), output, running=True)
