"""`downriver worker`: starts a stream worker and turns its end into an exit code."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import faust
import structlog
import typer

from downriver.exits import BadInput, Exit
from downriver.settings import load
from processors.engine.app import build
from processors.sinks import SINKS
from processors.tables.base import Lane


def worker(
    sink: Annotated[str, typer.Argument(help=f"What it writes to: {', '.join(SINKS)}.", show_default=False)],
    lane: Annotated[
        list[Lane] | None, typer.Option("--lane", "-l", help="Only this lane (may be repeated); default: all.")
    ] = None,
) -> None:
    """Run it as often as you like: workers of one sink share the partitions. Ctrl-C or SIGTERM stops it in order.

    Joined documents need all lanes in one worker, so `search` takes no --lane. Logs go to stderr, one JSON object a line.
    Exit codes: 0 stopped, 1 failed, 2 bad settings, 3 a server was away longer than worker.max_wait_s, 4 stalled.
    """
    settings = load()
    if lane and sink == "search":
        msg = "--lane can't be used with search: it joins products, inventory and reviews, one worker needs all lanes"
        raise BadInput(msg)
    configure_logging(settings.worker.log_format)
    app = build(sink, settings, tuple(lane) if lane else tuple(Lane))
    watchdog = app.worker.watchdog
    process = faust.Worker(app, loglevel="WARNING", override_logging=False, redirect_stdouts=False, quiet=True)
    process.spinner = None  # it writes terminal escapes to stdout, quiet or not
    try:
        process.execute_from_commandline()
    except SystemExit as error:
        code = watchdog.exit_code if watchdog.exit_code is not None else error.code
        sys.exit(code)
    sys.exit(watchdog.exit_code or Exit.OK)


def configure_logging(form: str) -> None:
    """Send all logs, ours and the libraries', to stderr: one JSON object a line, or for the console."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if form == "console" else structlog.processors.JSONRenderer(default=str)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("faust", "mode", "aiokafka", "elastic_transport", "httpx2", "httpcore2", "urllib3", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # a topic that its connector has not made yet is said once, at the start; these would say it every few seconds
    for repeating in ("aiokafka.cluster", "faust.assignor", "faust.assignor.partition_assignor"):
        logging.getLogger(repeating).setLevel(logging.CRITICAL)
