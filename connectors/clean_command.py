"""`downriver connectors clean-outbox`: removes events that were sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from connectors import live
from connectors.clean import clean
from connectors.cleaner import Metrics, Round, rounds
from connectors.connector import Connector
from connectors.deploying import ContextOption
from connectors.serving import serve
from downriver.exits import BadInput
from downriver.output import Format, OutputOption, print_json_line, report, say, stdout
from downriver.settings import Settings

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
    every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Stay, and clean so often; 0: clean once.")
    ] = 0.0,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="With --every: serve metrics there, on worker.host; 0: don't.")
    ] = 0,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Remove the rows of the outbox that Kafka has and that are older than --keep. Run it once by a timer, or --every 600.

    The publication of the events carries no deletes: nothing of this is seen downstream. Rows are removed only once the
    connector's slot has confirmed what was there when the command began. A second one may run beside it.

    With --every it tells a line each round (`-o json`: a document each). A source that is away and a slot that is behind or
    gone are told, and the next round tries again.

    Exit codes: 0 done, 1 the slot is gone, or behind for longer than --wait, and nothing was removed, 2 no such connector, no
    outbox, or no right to delete, 3 PostgreSQL is away.
    """
    settings = live.in_use(context)
    wanted = live.wanted(settings)
    if name and name not in wanted:
        msg = f"no file describes a connector {name!r}; there are: {', '.join(wanted) or 'none'}"
        raise BadInput(msg)
    if metrics_port and not every:
        raise BadInput("--metrics-port is of a cleaner that stays: give --every, too")
    meant = [wanted[name]] if name else [connector for connector in wanted.values() if connector.outboxes]
    if not meant:
        msg = f"no connector of the files captures an outbox (no EventRouter); there are: {', '.join(wanted) or 'none'}"
        raise BadInput(msg)
    if every:
        _stay(settings, meant, keep, wait, every, metrics_port, output)
        return
    done = [each for connector in meant for each in clean(settings, connector, keep, wait, say)]
    report(output, [asdict(each) for each in done])


def _stay(
    settings: Settings,
    meant: Sequence[Connector],
    keep_s: float,
    wait_s: float,
    every_s: float,
    port: int,
    output: Format,
) -> None:
    """Clean until somebody ends it."""
    metrics = Metrics()
    if port:
        serve(metrics.registry, settings.worker.host, port)
    for each in rounds(settings, meant, keep_s, wait_s, every_s, metrics):
        _tell(each, output)


def _tell(each: Round, output: Format) -> None:
    if output is Format.JSON:
        print_json_line(asdict(each))
        return
    moment = datetime.fromtimestamp(each.at_s, UTC).strftime("%H:%M:%S")
    lines = [each.problem] if each.problem else [f"{one.table}: {one.removed:,} row(s) removed" for one in each.cleaned]
    for line in lines:
        stdout.print(f"{moment} {each.connector} {line}", markup=False, highlight=False, soft_wrap=True)
