"""`downriver connectors`: deploy the connectors as code, and operate them. Assembles the groups; does nothing itself."""

from __future__ import annotations

import stamina
import typer

from connectors import (
    add_table_command,
    clean_command,
    deploying,
    guard_command,
    offsets_command,
    preflight_command,
    reread_command,
    state_command,
    status_command,
)

app = typer.Typer()
app.add_typer(deploying.app)


@app.callback()
def quiet() -> None:
    """Deploy the Debezium connectors, see how they are, and operate them."""
    stamina.instrumentation.set_on_retry_hooks([])  # what is waited for is told in sentences, once


for command in (
    status_command.status,
    status_command.get,
    status_command.describe,
    state_command.pause,
    state_command.resume,
    state_command.stop,
    state_command.restart,
    state_command.delete,
    guard_command.guard,
):
    app.command()(command)
app.command(name="preflight")(preflight_command.command)
app.command(name="reread")(reread_command.command)
app.command(name="add-table")(add_table_command.command)
app.command(name="clean-outbox")(clean_command.command)
app.add_typer(offsets_command.app, name="offsets", no_args_is_help=True)
