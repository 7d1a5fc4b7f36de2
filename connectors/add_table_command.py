"""`downriver connectors add-table`: a table joins a running lane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from connectors import add_table, live, reread_command, transition
from connectors.deploying import ContextOption
from connectors.reread import Pace
from downriver.exits import BadInput
from downriver.output import Format, OutputOption, report, say

DEFAULTS = Pace()


def command(
    table: Annotated[str, typer.Argument(help="schema.table")],
    name: Annotated[str, typer.Argument(metavar="CONNECTOR", help="The running connector that it joins.")],
    *,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="COLUMN", help="A column that never leaves the source.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    rows: Annotated[bool, typer.Option("--rows/--no-rows", help="Whether to re-read the rows that are there.")] = True,
    rate: reread_command.RateOption = DEFAULTS.rows_per_s,
    mib: reread_command.BytesOption = DEFAULTS.bytes_per_s / 2**20,
    wait: reread_command.WaitOption = 120.0,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let a table join a running lane: its topic, the publication, the connector's settings, then its rows.

    The connector's file is brought up to date; what it says of the table already (columns left out, routing, keys) is taken
    from there. The other tables are not read again, and nothing is lost meanwhile: the connector goes on from its stored
    position, and the rows come as updates after whatever changed them. Repeating it goes on where it stopped.

    Write `processors/tables/<name>.py` first: a column that nobody classified is Restricted, and must be left out.
    """
    settings = live.in_use(context)
    with live.client(settings, live.PATIENCE_S + wait, say) as client:
        (there,) = live.named(client, [name])
        if there.status is None or not transition.running(there.status):
            state = there.status.state if there.status else "not told"
            msg = f"connector {name} is {state}: a table joins a lane that runs; `downriver connectors resume {name}` first"
            raise BadInput(msg)
        file = live.wanted(settings).get(name)
        if file is None:
            msg = (
                f"no connector file says {name}: `downriver connectors import {name} --out connectors` writes one; "
                "a table joins file and lane"
            )
            raise BadInput(msg)
        joining = add_table.plan(settings, live.described(there), file, table, tuple(exclude or ()))
        steps = [f"{key}: {before or '-'} → {after or '-'}" for key, (before, after) in joining.changed.items()]
        if joining.to_publish:
            steps.insert(0, f"publication {joining.wanted.publication}: ADD TABLE {table}")
        for step in steps:
            say(f"  {step}")
        for column in joining.untrue:
            say(
                f"  [yellow]warning[/]: {table}.{column} may be NULL and has a default: its NULLs arrive as the default"
            )
        if dry_run:
            report(output, [{"connector": name, "table": table, "step": step} for step in steps])
            return
        if add_table.write(Path(file.origin), file, joining.wanted):
            say(f"{file.origin} written")
        add_table.join(settings, client, joining, say, wait or live.PATIENCE_S)
        if not rows:
            report(output, [{"connector": name, "table": table, "state": "captured from now on", "rows": 0}])
            return
        done = reread_command.emit(settings, joining.wanted, table, "", Pace(rate, mib * 2**20))
        captured = (
            None if done.lsn is None or not wait else reread_command.reached(client, joining.wanted, done.lsn, wait)
        )
    reread_command.tell(done, captured, output)
