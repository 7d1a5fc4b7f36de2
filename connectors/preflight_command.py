"""`downriver connectors preflight`: is the source ready?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from connectors import live, preflight
from connectors.advice import advise
from connectors.deploying import ContextOption, FilesArgument, OverlayOption
from connectors.files import load
from connectors.overlays import meant
from downriver.exits import Exit
from downriver.output import Format, OutputOption, print_json, say, stdout

CHECKED = (
    "version 15 or newer, a direct connection, wal_level, free slots and senders, the role's rights (enough, and not more), "
    "publications against the files, keys, replica identities, generated columns, the refusal of TRUNCATE, the way to repair, "
    "replicas and slots in time, slots that outlive a failover"
)


def command(
    files: FilesArgument = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Advice counts, too.")] = False,
    overlay: OverlayOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check the source alone: what would make a connector fail or lose changes, and what else is not as it should be.

    Reads catalogs, changes nothing, needs no Kafka. Run it for all connectors of a role together: what none of them captures
    the role need not read.

    Exit codes: 0 ready, 1 something would fail or lose changes (`--strict`: or there is advice), 2 the files can't be used, 3
    PostgreSQL is away.
    """
    settings = live.in_use(context)
    connectors = load(files, meant(settings, files, overlay))
    found = [*preflight.check(settings, connectors), *advise(settings, connectors)]
    if output is Format.JSON:
        print_json([asdict(finding) for finding in found])
    for finding in found if output is Format.TABLE else ():
        word, style = ("error", "red") if finding.serious else ("advice", "yellow")
        stdout.print(Text(f"{word}: {finding.thing}: {finding.value}", style=style), soft_wrap=True)
        stdout.print(Text(f"  way out: {finding.way_out}"), soft_wrap=True)
    serious = sum(finding.serious for finding in found)
    if output is Format.TABLE:
        say(f"{len(connectors)} connector(s): {serious} error(s), {len(found) - serious} advice; checked: {CHECKED}")
    if serious or (strict and found):
        raise typer.Exit(Exit.FAILED)
