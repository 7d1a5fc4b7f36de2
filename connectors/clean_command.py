"""`downriver connectors clean-outbox`: removes events that were sent."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from connectors import live
from connectors.clean import clean
from connectors.deploying import ContextOption
from downriver.exits import BadInput
from downriver.output import Format, OutputOption, report, say

DAY_S = 86_400.0


def command(
    name: Annotated[
        str, typer.Argument(help="The connector; default: each of the files that captures an outbox.")
    ] = "",
    *,
    keep: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Leave younger rows: a new snapshot sends them again if need be."),
    ] = DAY_S,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait until Kafka has what is there now.")
    ] = 60.0,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Remove the rows of the outbox that Kafka has and that are older than --keep. Run it by a timer, each hour or so.

    The publication of the events carries no deletes: nothing of this is seen downstream. Rows are removed only once the
    connector's slot has confirmed what was there when the command began. A second one may run beside it.

    Exit codes: 0 done, 1 the slot is gone, or behind for longer than --wait, and nothing was removed, 2 no such connector or no
    outbox, 3 PostgreSQL is away.
    """
    settings = live.in_use(context)
    wanted = live.wanted(settings)
    if name and name not in wanted:
        msg = f"no file describes a connector {name!r}; there are: {', '.join(wanted) or 'none'}"
        raise BadInput(msg)
    meant = [wanted[name]] if name else [connector for connector in wanted.values() if connector.outboxes]
    if not meant:
        msg = f"no connector of the files captures an outbox (no EventRouter); there are: {', '.join(wanted) or 'none'}"
        raise BadInput(msg)
    done = [each for connector in meant for each in clean(settings, connector, keep, wait, say)]
    report(output, [asdict(each) for each in done])
