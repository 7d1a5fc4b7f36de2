"""`downriver workload`: the workload from the command line."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer
from rich.live import Live

from downriver.exits import Exit
from downriver.output import Format, OutputOption, print_json, report, say, stderr, table
from downriver.settings import Settings, load
from shop.workload.run import Committed, run


def workload(
    rate: Annotated[float, typer.Option(help="Row changes per second to aim at.", min=0.1, max=100_000)] = 200,
    seconds: Annotated[float, typer.Option(help="How long.", min=0.1)] = 60,
    seed: Annotated[int, typer.Option(help="The same seed on the same shop makes the same choices.")] = 1,
    output: OutputOption = Format.TABLE,
) -> None:
    """Says at the end exactly what it committed. Ctrl-C finishes open transactions first; a second one doesn't wait."""
    account, interrupted = asyncio.run(_run(load(), rate, seconds, seed))
    if output is Format.JSON:
        print_json(account.as_dict())
    else:
        rows = [{"table": name, "changes": count} for name, count in sorted(account.committed.items())]
        report(output, [*rows, {"table": "all", "changes": account.changes}])
        say(
            f"{account.transactions} transactions in {account.seconds:.1f} s, {account.changes / account.seconds:.0f} changes/s; "
            f"{account.rolled_back} rolled back ({account.retried} of them tried again)"
        )
        if account.unknown:
            say(f"COMMIT sent, answer lost; these may be there or not: {dict(account.unknown)}")
    if account.failure:
        raise account.failure
    if interrupted:
        raise typer.Exit(Exit.INTERRUPTED)


async def _run(settings: Settings, rate: float, seconds: float, seed: int) -> tuple[Committed, bool]:
    """Run with a live table on stderr; return the account and whether Ctrl-C (or SIGTERM) ended it."""
    stop, interrupted, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    def ask_to_stop(number: signal.Signals) -> None:
        interrupted.set()
        stop.set()
        loop.remove_signal_handler(number)  # the next one ends the process at once

    handled = (signal.SIGINT, signal.SIGTERM)
    for number in handled:
        loop.add_signal_handler(number, ask_to_stop, number)
    try:
        with Live(console=stderr, transient=True, auto_refresh=False) as live:

            def show(account: Committed) -> None:
                rows = [[name, f"{count:,}"] for name, count in sorted(account.committed.items())]
                title = f"{account.seconds:.0f} of {seconds:.0f} s, {account.changes / max(account.seconds, 0.001):.0f} changes/s"
                live.update(table(["TABLE", "CHANGES"], rows, title), refresh=True)

            account = await run(settings, rate, seconds, seed, show if stderr.is_terminal else None, stop)
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
    return account, interrupted.is_set()
