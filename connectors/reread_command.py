"""`downriver connectors reread`: rows that exist come again, in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer
from rich.markup import escape

from connectors import live, lsn, observe, repair, reread, source
from connectors.connect import ConnectClient
from connectors.connector import HEARTBEAT_TABLE, Connector
from connectors.deploying import ContextOption
from connectors.health import Offset
from connectors.reread import Pace, Progress
from downriver.exits import BadInput, Exit
from downriver.output import Format, OutputOption, report, say
from downriver.settings import Settings

DEFAULTS = Pace()
TELL_EVERY_S = 5.0
RateOption = Annotated[float, typer.Option("--rate", min=0, help="Rows a second at most; 0: no limit.")]
BytesOption = Annotated[float, typer.Option("--mib", min=0, help="MiB of rows a second at most; 0: no limit.")]
WaitOption = Annotated[
    float,
    typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait until Kafka has all of it; 0: don't."),
]


def command(
    table: Annotated[str | None, typer.Argument(help="schema.table, captured by a connector.")] = None,
    *,
    where: Annotated[str, typer.Option(help="Only rows that meet this SQL condition; the table is `t` in it.")] = "",
    connector: Annotated[str, typer.Option(help="The connector, where several capture a table of that name.")] = "",
    rate: RateOption = DEFAULTS.rows_per_s,
    mib: BytesOption = DEFAULTS.bytes_per_s / 2**20,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in one transaction.")] = DEFAULTS.batch,
    max_lag: Annotated[
        int, typer.Option(min=0, help="MiB; wait while the slot is further behind; 0: never.")
    ] = DEFAULTS.lag_bytes // 2**20,
    wait: WaitOption = 120.0,
    pause: Annotated[bool, typer.Option("--pause", help="Ask the one that runs to stop after its batch.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget how far an earlier one got.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show how far re-reads are, and do nothing.")] = False,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Send the rows of a table down again, as updates that change nothing: each gets its place in the order.

    For rows that sinks lack or hold wrongly: after a lost slot, a repair, a new table. Triggers don't fire, and the
    application's locks are never waited for; what is locked is tried again at the end. Progress is kept in the source
    (public.downriver_reread): the same command goes on after --pause, Ctrl-C or a crash, and begins anew once it was done.

    Ends with 1 if it was paused, or rows stayed locked, or Kafka has not all of it in time.
    """
    settings = live.in_use(context)
    with live.client(settings, live.PATIENCE_S, say) as client:
        if status:
            _status(settings, client, connector, output)
            return
        if table is None:
            raise typer.BadParameter("which table? schema.table; --status shows those that are under way")
        found = capturing(settings, client, table, connector)
        if pause:
            with source.connected(settings, found) as connection:
                asked = reread.ask_for_pause(connection, table) if reread.progress(connection, settings) else 0
            say(f"{table}: {'it pauses after its batch' if asked else 'no re-read runs'}")
            raise typer.Exit(Exit.OK if asked else Exit.FAILED)
        pace = Pace(rate, mib * 2**20, batch, max_lag * 2**20)
        done = emit(settings, found, table, where, pace, restart=restart)
        captured = None if done.lsn is None or not wait else reached(client, found, done.lsn, wait)
    tell(done, captured, output)


def capturing(settings: Settings, client: ConnectClient, table: str, name: str = "") -> Connector:
    """Return the running connector that captures a table.

    Raises:
        BadInput: none does, several do, or it is not running.
    """
    if name:
        live.named(client, [name])
    there = [each for each in client.connectors().values() if not name or each.name == name]
    capture = [
        found
        for each in there
        if live.captures(found := live.described(each)) and table in found.tables and table != HEARTBEAT_TABLE
    ]
    if not capture:
        known = sorted({table for each in there for table in live.described(each).tables} - {HEARTBEAT_TABLE})
        msg = f"no connector captures {table!r}; captured are: {', '.join(known) or 'none'}"
        raise BadInput(msg)
    if len(capture) > 1:
        msg = f"{table} is captured by {', '.join(each.name for each in capture)}: say which, --connector NAME"
        raise BadInput(msg)
    (found,) = capture
    if table in found.outboxes:
        msg = (
            f"{table} is an outbox: a re-read is an update, which sends no event. To send again what is still in it, stop"
            f" {found.name}, `downriver connectors offsets reset {found.name} --drop-slot`, and resume it"
        )
        raise BadInput(msg)
    (health,) = observe.healths(settings, client, [found.name], {})
    if not health.look.running:
        msg = f"connector {found.name} is {health.state}: what is re-read now would wait in its slot; let it run first"
        raise BadInput(msg)
    return found


def emit(
    settings: Settings,
    connector: Connector,
    table: str,
    where: str,
    pace: Pace,
    *,
    restart: bool = False,
) -> Progress:
    """Run a re-read and tell its progress; Ctrl-C and SIGTERM pause it after the batch.

    Raises:
        BadInput, DownriverError, ServerAway: as `reread.session` and `reread.Run`.
    """
    with _paused_by_signal() as asked, repair.session(settings, connector) as connection:
        target = repair.target(connection, table)
        if restart:
            reread.forget(connection, table)
        return reread.Run(connection, settings, connector, target, where).run(pace, _teller(), asked)


def reached(client: ConnectClient, connector: Connector, position: int, wait_s: float) -> bool:
    """Wait until the connector has stored a position at or past this one."""
    give_up_at = time.monotonic() + wait_s
    while True:
        stored = [found for each in client.offsets(connector.name) if (found := Offset.read(each))]
        if any(offset.lsn >= position for offset in stored):
            return True
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(0.5)


def tell(done: Progress, captured: bool | None, output: Format) -> None:
    """Report how it ended; exit 1 unless all of it is done, and in Kafka."""
    record = _record(done) | {
        "lsn": lsn.told(done.lsn) if done.lsn is not None else None,
        "captured": {None: "not awaited", True: "yes", False: "not yet"}[captured],
        "left_locked": done.locked,
    }
    report(output, [record], ["table", "state", "rows", "bytes", "lsn", "captured"])
    if done.state == "paused":
        say(f"paused; go on with: downriver connectors reread {done.table}{_option(done.where)}")
    if done.locked:
        say(f"{done.locked} row(s) stayed locked by the application and were left out: repeat it later")
    if done.state != "done" or captured is False or done.locked:
        raise typer.Exit(Exit.FAILED)


def _status(settings: Settings, client: ConnectClient, name: str, output: Format) -> None:
    connectors = live.named(client, [name]) if name else list(client.connectors().values())
    databases = {
        source.where(settings, found): found for each in connectors if live.captures(found := live.described(each))
    }
    records = []
    for connector in databases.values():
        with source.connected(settings, connector) as connection:
            records += [
                {"database": source.database(settings, connector)} | _record(each)
                for each in reread.progress(connection, settings)
            ]
    report(output, records, ["database", "table", "where", "state", "rows", "of_about", "bytes", "put_off"])


def _record(done: Progress) -> dict[str, object]:
    return {
        "table": done.table,
        "where": done.where or "-",
        "state": done.state,
        "rows": done.done,
        "of_about": done.expected,
        "bytes": done.bytes,
        "put_off": len(done.skipped),
    }


def _option(where: str) -> str:
    quoted = where.replace("'", "'\\''")
    return f" --where '{quoted}'" if where else ""


def _teller() -> Callable[[Progress], None]:
    """Tell the first progress, then now and then."""
    last = [float("-inf")]

    def told(now: Progress) -> None:
        if time.monotonic() - last[0] > TELL_EVERY_S:
            if last[0] == float("-inf") and now.done:
                say(f"{now.table}: goes on after {now.done:,} rows")
            else:
                say(f"{escape(now.table)}: {now.done:,} of about {now.expected:,} rows, {lsn.size(now.bytes)}")
            last[0] = time.monotonic()

    return told


@contextmanager
def _paused_by_signal() -> Iterator[Callable[[], bool]]:
    """Within the block SIGINT and SIGTERM are heard, not obeyed; a second one is. Yields whether one was heard."""
    heard = threading.Event()

    def hear(number: int, _: FrameType | None) -> None:
        if heard.is_set():
            raise KeyboardInterrupt
        heard.set()
        say("pausing after this batch; once more ends it at once")

    if threading.current_thread() is not threading.main_thread():
        yield heard.is_set
        return
    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
