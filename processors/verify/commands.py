"""The command `downriver verify`."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import asdict
from typing import Annotated, Any

import typer

from downriver import settings as settings_module
from downriver.exits import BadInput, Exit
from downriver.output import Format, OutputOption, print_json, report, say
from processors.verify.cache import Pages
from processors.verify.compare import SINKS, compare
from processors.verify.model import Comparison


def verify(
    sinks: Annotated[list[str] | None, typer.Argument(help=f"Which sinks: {', '.join(SINKS)}. Default: all.")] = None,
    settle: Annotated[float, typer.Option(help="Seconds a difference may last before it counts.", min=0)] = 30.0,
    pages: Annotated[
        str, typer.Option(help="Module that says what cache entries must hold (`parse` and `load`).")
    ] = "shop.pages",
    output: OutputOption = Format.TABLE,
) -> None:
    """Values are compared, not counts; nothing is changed. What a pipeline under load has not delivered yet is looked at
    again until it has arrived, or `--settle` is over. Ends with 1 if anything differs for good.
    """
    wanted = sinks or list(SINKS)
    result = asyncio.run(
        compare(
            settings_module.load(),
            wanted,
            pages=_pages(pages) if "cache" in wanted else None,
            settle_s=settle,
            on_progress=lambda what: say(f"comparing {what}"),
        )
    )
    show(result, output)
    raise typer.Exit(Exit.OK if result.ok else Exit.FAILED)


def show(result: Comparison, output: Format) -> None:
    """Print a comparison."""
    if output is Format.JSON:
        print_json(asdict(result) | {"ok": result.ok})
        return
    report(
        output,
        [
            {
                "sink": sink,
                "equal": "yes" if equal else "no",
                "compared": result.compared[sink],
                "differing": result.differing[sink],
                "moving": result.moving[sink],
            }
            for sink, equal in result.equal.items()
        ],
    )
    if result.differences:
        report(output, [asdict(each) for each in result.differences])


def _pages(name: str) -> Pages:
    """Import the application's module: processors know no application."""
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        msg = f"--pages {name}: there is no module {error.name}"
        raise BadInput(msg) from None
    missing = [attribute for attribute in ("parse", "load") if not hasattr(found, attribute)]
    if missing:
        msg = f"--pages {name}: it has no function {' and no '.join(missing)}, see processors.verify.cache.Pages"
        raise BadInput(msg)
    pages: Pages = found
    return pages
