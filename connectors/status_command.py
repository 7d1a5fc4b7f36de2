"""`downriver connectors status`, `get` and `describe`: how connectors are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import orjson
import typer
from rich.console import Group, RenderableType
from rich.live import Live as Screen
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from connectors import live, lsn, memory, observe
from connectors.deploying import ContextOption
from connectors.files import Connector
from connectors.health import Health, Look, Remembered, Severity
from connectors.source import Slot
from downriver.exits import DownriverError, Exit, ServerAway
from downriver.output import Format, OutputOption, print_json, report, say, stdout, table
from downriver.settings import Settings

PATIENCE_S = 5.0
STYLES = {Severity.LOSS: "bold red", Severity.FAILED: "red", Severity.STALLED: "red", Severity.HALTED: "yellow"}
COLUMNS = ["CONNECTOR", "STATE", "TOPICS", "AGE", "BEAT", "SLOT", "HELD", "LEFT"]

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Connectors; default: those of the connector files.")
]


def status(
    names: Names = None,
    *,
    all_: Annotated[bool, typer.Option("--all", help="Every connector that Kafka Connect has.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=1, max=3600, help="Seconds between two looks of --watch.")] = 3.0,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show connectors, tasks, stored positions and slots, and every problem with its cause and the way out.

    STATE counts the tasks that run, TOPICS what the connector writes to. AGE is how long ago the newest change was
    committed that Kafka has, BEAT how long ago the connector wrote its heartbeat; each is about a second while changes flow.
    SLOT is PostgreSQL's wal_status, "idle" where nobody reads it. HELD is the WAL that the source keeps for the slot, LEFT
    what it may still write before the slot is lost. `-o json` has all of it.

    Ends with 1 if anything is failed, stalled, halted or lost, also where Connect says RUNNING and nothing moves; with 3 if
    Kafka Connect is away.
    """
    settings = live.in_use(context)
    wanted = {} if all_ or names else live.wanted(settings)

    def seen(before: Mapping[str, Look] | None) -> list[Health]:
        with live.client(settings, PATIENCE_S, say) as client:
            known = {} if all_ or not names else _files(settings)
            return observe.healths(settings, client, names or (), wanted | known, before, _recalled(settings))

    healths = _watch(seen, interval, output) if watch else seen(None)
    if not watch:
        if output is Format.JSON:
            print_json([document(health) for health in healths])
        else:
            _print(healths)
    if not all(health.ok for health in healths):
        raise typer.Exit(Exit.FAILED)


def get(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: a list of all.")] = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the connectors that Kafka Connect has, or show the settings of some; secrets are masked.

    `-o json` of named connectors is what a connector file holds: {"name", "config"}.
    """
    settings = live.in_use(context)
    with live.client(settings, PATIENCE_S, say) as client:
        if names:
            found = {each.name: live.shown(each.config) for each in live.named(client, names)}
            if output is Format.JSON:
                documents = [{"name": name, "config": config} for name, config in found.items()]
                print_json(documents if len(documents) > 1 else documents[0])
                return
            for name, config in found.items():
                stdout.print(_settings(config, name))
            return
        report(
            output,
            [
                {
                    "connector": each.name,
                    "class": each.config.get("connector.class", "-").rpartition(".")[2],
                    "state": each.status.state if each.status else "-",
                    "tasks": _tasks(each.status.tasks if each.status else ()),
                    "worker": ", ".join(sorted({task.worker for task in each.status.tasks})) if each.status else "-",
                }
                for each in client.connectors().values()
            ],
            ["connector", "class", "state", "tasks", "worker"],
        )


def describe(
    name: Annotated[str, typer.Argument(help="A connector.")],
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show everything of one connector: settings, tasks with whole traces, topics, stored position, slot, problems."""
    settings = live.in_use(context)
    with live.client(settings, PATIENCE_S, say) as client:
        (there,) = live.named(client, [name])
        (health,) = observe.healths(settings, client, [name], {}, None, _recalled(settings))
        shown = document(health) | {
            "config": live.shown(there.config),
            "offsets": client.positions(name),
        }
    if output is Format.JSON:
        print_json(shown)
        return
    _print([health])
    report(output, [{"topic": topic} for topic in health.look.topics], ["topic"])
    for position in shown["offsets"] if isinstance(shown["offsets"], list) else ():
        at, offset = (orjson.dumps(position.get(key)).decode() for key in ("partition", "offset"))
        stdout.print(f"\nstored at {at}: {offset}", soft_wrap=True, highlight=False, markup=False)
    stdout.print()
    stdout.print(_settings(live.shown(there.config)))
    for task in there.status.tasks if there.status else ():
        if task.trace:
            stdout.print(f"\ntask {task.id} on {task.worker}: {escape(task.trace)}")


def document(health: Health) -> dict[str, object]:
    """Return the verdict for programs: names as in `status -o json`; bytes, seconds and LSNs as PostgreSQL writes them."""
    look = health.look
    slot = look.source.slot if look.source else None
    connect = look.live.status if look.live else None
    return {
        "connector": health.look.name,
        "ok": health.ok,
        "state": health.state,
        "connect_state": connect.state if connect else None,
        "tasks": [
            {"id": task.id, "state": task.state, "worker": task.worker, "trace": task.trace}
            for task in (connect.tasks if connect else ())
        ],
        "topics": list(look.topics),
        "offset": {
            "lsn": lsn.told(look.offset.lsn),
            "age_s": look.offset_age_s,
            "snapshot": look.offset.snapshot,
        }
        if look.offset
        else None,
        "heartbeat_age_s": look.source.beat_age_s if look.source else None,
        "slot": {
            "name": look.connector.slot,
            "active": slot.active,
            "wal_status": slot.wal_status,
            "retained_bytes": slot.retained_bytes,
            "safe_bytes": slot.safe_bytes,
            "confirmed_lsn": lsn.told(slot.confirmed_lsn) if slot.confirmed_lsn is not None else None,
            "inactive_s": slot.inactive_s,
        }
        if slot
        else None,
        "problems": [
            {
                "rule": problem.rule,
                "severity": problem.severity,
                "text": problem.text,
                "way_out": problem.way_out,
            }
            for problem in health.problems
        ],
    }


def page(healths: Sequence[Health]) -> Group:
    """Return the table for people, and every problem below it."""
    rows = [_row(health) for health in healths]
    grid = table(COLUMNS, rows)
    parts: list[RenderableType] = [grid]
    for health in healths:
        for problem in health.problems:
            style = STYLES.get(problem.severity, "yellow")
            parts += [Text(), Text(f"{health.look.name}: {problem.text}", style=style)]
            if problem.way_out:
                parts.append(Text(f"  way out: {problem.way_out}"))
    return Group(*parts)


def _print(healths: Sequence[Health]) -> None:
    """Print it once: a way out on one line, so that its commands can be copied."""
    for part in page(healths).renderables:
        stdout.print(part, soft_wrap=isinstance(part, Text))


def _settings(config: Mapping[str, str], title: str | None = None) -> Table:
    made = table(["SETTING", "VALUE"], [[key, escape(value)] for key, value in config.items()], title)
    made.columns[0].no_wrap = True
    return made


def _row(health: Health) -> list[str]:
    look, source = health.look, health.look.source
    slot = source.slot if source else None
    style = STYLES.get(health.problems[0].severity, "yellow") if not health.ok else "green"
    return [
        look.name,
        f"[{style}]{health.state}[/] {_tasks(look.live.status.tasks if look.live and look.live.status else ())}",
        str(len(look.topics)),
        _seconds(look.offset_age_s),
        _seconds(source.beat_age_s if source else None),
        _slot(slot) if slot else "none" if source else "-",
        lsn.size(slot.retained_bytes) if slot else "-",
        lsn.size(slot.safe_bytes) if slot and slot.safe_bytes is not None else "-",
    ]


def _slot(slot: Slot) -> str:
    return "idle" if slot.wal_status == "reserved" and not slot.active else slot.wal_status


def _tasks(tasks: Sequence[object]) -> str:
    running = sum(getattr(task, "state", "") == "RUNNING" for task in tasks)
    return f"{running}/{len(tasks)}"


def _seconds(age_s: float | None) -> str:
    if age_s is None:
        return "-"
    return f"{age_s:.1f}s" if age_s < 120 else f"{age_s / 60:.0f}min"


def _recalled(settings: Settings) -> dict[str, Remembered]:
    """Return what the guard remembers; nothing where Kafka is away, which is told where it matters."""
    try:
        return memory.recall(settings)
    except ServerAway:
        return {}
    except DownriverError as error:
        say(f"[yellow]warning:[/] losses that were found before are not told: {escape(str(error))}")
        return {}


def _files(settings: Settings) -> dict[str, Connector]:
    """Return the connectors of the files, or none where those can't be read: a name may be Connect's alone."""
    try:
        return live.wanted(settings)
    except DownriverError:
        return {}


def _watch(
    seen: Callable[[Mapping[str, Look] | None], list[Health]], interval_s: float, output: Format
) -> list[Health]:
    """Look until interrupted; JSON: one document a look. A Connect that is away is told, and asked again."""
    screen = Screen(console=stdout, auto_refresh=False, screen=False)
    before: Mapping[str, Look] | None = None
    if output is Format.TABLE:
        screen.start()
    try:
        while True:
            try:
                healths = seen(before)
                before = {health.look.name: health.look for health in healths}
                shown: RenderableType = page(healths)
                if output is Format.JSON:
                    print_json([document(health) for health in healths])
            except ServerAway as error:
                shown = Text(str(error), style="red")
                if output is Format.JSON:
                    print_json([{"problem": str(error)}])
            screen.update(shown, refresh=output is Format.TABLE)
            time.sleep(interval_s)
    finally:
        screen.stop()
