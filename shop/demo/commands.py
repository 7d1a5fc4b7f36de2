"""`downriver demo`."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from downriver.exits import Exit
from downriver.output import Format, OutputOption, print_json, report, say, stdout, table
from downriver.settings import Settings, load
from shop.commands import Size
from shop.demo.result import Result
from shop.demo.run import Demo, Wish, only_one


def demo(
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long the shop is changed.")] = 60.0,
    rate: Annotated[float, typer.Option(min=1, max=20_000, help="Row changes a second, over all tables.")] = 200.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="The same seed makes the same choices.")] = 1,
    size: Annotated[Size, typer.Option(help="Products in a shop that is filled anew.")] = Size.TEN_THOUSAND,
    readers: Annotated[int, typer.Option(min=1, max=64, help="Readers of the cache, all the while.")] = 4,
    keep: Annotated[bool, typer.Option("--keep", help="Leave servers and workers running.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Brings the servers up, fills the shop, applies the connectors, starts the workers and what cleans the outbox, changes the
    shop at a steady rate, waits until everything has arrived, and compares the shop with the cache, the search index and the
    analytics store by value. A worker that dies is started again: kill one and see. Exit code 0 only if all is equal and
    nothing was late.
    """
    settings = load()
    wish = Wish(seconds, rate, seed, size, readers, keep)
    with only_one(settings.stack.folder):
        result = asyncio.run(_run(settings, wish))
    show(result, output)
    if keep:
        say("Everything still runs: `downriver sla status --watch`, `downriver workload --rate 200 --seconds 60`,")
        say("`downriver verify`, `downriver stack status`; `downriver stack down` stops all of it.")
    raise typer.Exit(Exit.OK if result.ok else Exit.FAILED)


async def _run(settings: Settings, wish: Wish) -> Result:
    """Run the demo so that Ctrl-C and SIGTERM end it in order."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  # we are in one
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            say("Interrupted: stopping what was started …")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    try:
        return await Demo(settings, wish).run()
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


def show(result: Result, output: Format) -> None:
    """Print the result: rules by sinks, what differs, the verdict."""
    if output is Format.JSON:
        print_json(result.as_json())
        return
    rows = []
    for (rule, sink), standing in result.status.standings.items():
        limit = result.status.limits[rule]
        figures = standing.as_json()
        latency = [
            f"{figures[name]:.2f} s" if figures[name] is not None else "-" for name in ("p50_s", "p99_s", "max_s")
        ]
        rows.append([rule, sink, f"{limit:g} s" if limit else "-", f"{figures['count']:,}", *latency, figures["late"]])
    stdout.print(table(["RULE", "SINK", "LIMIT", "CHANGES", "P50", "P99", "MAX", "LATE"], rows))
    stdout.print()
    compared = result.comparison.compared
    rows = [[sink, "yes" if equal else "NO", f"{compared[sink]:,}"] for sink, equal in result.comparison.equal.items()]
    stdout.print(table(["SINK", "EQUAL TO THE SHOP", "COMPARED"], rows))
    if result.differences:
        stdout.print()
        report(output, result.differences)
    verdict = "All equal, nothing late." if result.ok else "NOT all equal and in time: see above."
    dead = f" {result.dead_letters} dead letters." if result.dead_letters else ""
    stdout.print(f"\n{verdict}{dead} {result.reads:,} cache reads, {result.hit_rate:.1%} hits.")
