"""`downriver connectors pause`, `resume`, `stop`, `restart` and `delete`: what a connector does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from connectors import leftovers, live, transition
from connectors.connect import ConnectClient, Live, Status
from connectors.deploying import ContextOption
from connectors.files import Connector
from connectors.health import beats
from downriver.exits import BadInput, DownriverError, Exit
from downriver.output import Format, OutputOption, report, say
from downriver.settings import Settings

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Connectors.")]
WaitOption = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for it; 0: don't.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def pause(
    names: Names,
    wait: WaitOption = transition.WAIT_S,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let the tasks stay, and capture nothing. Their slots hold WAL meanwhile."""
    _change(names, ConnectClient.pause, transition.paused, "paused", wait, context, output)


def stop(
    names: Names,
    wait: WaitOption = transition.WAIT_S,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """End the tasks; settings and stored positions stay. Their slots hold WAL meanwhile."""
    _change(names, ConnectClient.stop, transition.stopped, "stopped", wait, context, output)


def resume(
    names: Names,
    wait: WaitOption = transition.WAIT_S,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let paused or stopped connectors go on from where they were, and wait until changes flow.

    Ends with 1 if a task fails on the way, or no new position is stored in time.
    """
    settings = live.in_use(context)
    with live.client(settings, live.PATIENCE_S + wait, say) as client:
        found = [(each, client.positions(each.name)) for each in live.named(client, names)]
        for each, _ in found:
            client.resume(each.name)
        rows = [
            _row(each.name, "running", _flowing(client, each, before, wait))
            if wait
            else _row(each.name, "asked to be running", each.status)
            for each, before in found
        ]
    _tell(rows, output)


def restart(
    names: Names,
    *,
    all_: Annotated[bool, typer.Option("--all", help="What runs, too. Default: only what failed.")] = False,
    task: Annotated[int | None, typer.Option(min=0, help="This task alone, whatever its state.")] = None,
    wait: WaitOption = transition.WAIT_S,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Restart what failed, the connector and each of its tasks, and wait until changes flow.

    Nothing that runs is touched without --all.

    Ends with 1 if a task fails again on the way; `downriver connectors status` says why, and what a restart can't heal.
    """
    settings = live.in_use(context)
    rows = []
    with live.client(settings, live.PATIENCE_S + wait, say) as client:
        for each in live.named(client, names):
            before = each.status or Status("UNASSIGNED", "", ())
            stored = client.positions(each.name)
            failed = "FAILED" in transition.states(before)
            if task is not None:
                if task not in {known.id for known in before.tasks}:
                    known_ids = ", ".join(str(known.id) for known in before.tasks) or "none"
                    msg = f"connector {each.name} has no task {task}; there are: {known_ids}"
                    raise BadInput(msg)
                client.restart_task(each.name, task)
            elif all_ or failed:
                client.restart(each.name, only_failed=not all_)
            else:
                rows.append(_row(each.name, "nothing failed", before))
                continue
            after = _flowing(client, each, stored, wait) if wait else before
            rows.append(_row(each.name, "restarted" if wait else "asked to restart", after))
    _tell(rows, output)


def delete(
    names: Names,
    *,
    drop_slot: Annotated[
        bool, typer.Option("--drop-slot", help="And its slot, its publication and its stored position: history ends.")
    ] = False,
    yes: YesOption = False,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Delete connectors, and say which slot and publication stay behind at the source.

    Without --drop-slot the stored position stays too: a connector of the same name goes on where this one stopped, as long
    as the slot is kept. With it, the next one begins with a snapshot. Topics stay either way.
    """
    settings = live.in_use(context)
    rows: list[dict[str, object]] = []
    with live.client(settings, live.PATIENCE_S, say) as client:
        for connector, there in _to_delete(settings, client, names, drop_slot=drop_slot):
            _agree(settings, connector, there, drop_slot=drop_slot, yes=yes)
            rows.append(_deleted(settings, client, connector, there, drop_slot=drop_slot))
    report(output, rows, ["connector", "deleted"])


def _change(
    names: list[str],
    ask: Callable[[ConnectClient, str], None],
    reached: Callable[[Status], bool],
    what: str,
    wait_s: float,
    context: str | None,
    output: Format,
) -> None:
    """Ask for a state of each, all at once, then wait for each."""
    settings = live.in_use(context)
    with live.client(settings, live.PATIENCE_S + wait_s, say) as client:
        found = live.named(client, names)
        for each in found:
            ask(client, each.name)
        rows = []
        for each in found:
            now = transition.until(client, each.name, reached, what, wait_s) if wait_s else each.status
            rows.append(_row(each.name, what if wait_s else f"asked to be {what}", now))
        for each in found:
            _told_what_stays(settings, each)
    _tell(rows, output)


def _flowing(client: ConnectClient, there: Live, before: object, wait_s: float) -> Status:
    connector = live.described(there)
    return transition.flowing(client, there.name, before, wait_s, moves=live.captures(connector) and beats(connector))


def _row(name: str, done: str, now: Status | None) -> dict[str, object]:
    tasks = [task.state for task in now.tasks] if now else []
    if done in {"running", "restarted"} and "FAILED" in (*tasks, now.state if now else ""):
        done = "failed again"
    return {"connector": name, "done": done, "state": now.state if now else "-", "tasks": ", ".join(tasks) or "none"}


def _tell(rows: list[dict[str, object]], output: Format) -> None:
    report(output, rows)
    if failed := [row["connector"] for row in rows if row["done"] == "failed again"]:
        msg = f"{', '.join(map(str, failed))} failed again: `downriver connectors status {failed[0]}` says why"
        raise DownriverError(msg)


def _told_what_stays(settings: Settings, there: Live) -> None:
    """Say what the slot of a halted connector holds; where the source does not tell, that is no error of this command."""
    connector = live.described(there)
    if not live.captures(connector):
        return
    try:
        slot = leftovers.find(settings, connector).slot
    except DownriverError as error:
        say(f"{there.name}: what its slot holds is not known: {error}")
        return
    if slot is not None:
        say(f"{there.name}: {leftovers.holds(connector, slot)}")


def _to_delete(
    settings: Settings, client: ConnectClient, names: list[str], *, drop_slot: bool
) -> list[tuple[Connector, Live | None]]:
    """Return what to delete; one that Connect lacks only to drop what it left, told from its file."""
    there = client.connectors()
    known: Mapping[str, Connector] = {}
    if drop_slot and not set(names) <= set(there):
        known = live.wanted(settings)
    if missing := [name for name in names if name not in there and name not in known]:
        raise BadInput("\n".join(live.unknown(name, {*there, *known}) for name in missing))
    return [(live.described(there[name]), there[name]) if name in there else (known[name], None) for name in names]


def _agree(settings: Settings, connector: Connector, there: Live | None, *, drop_slot: bool, yes: bool) -> None:
    """Say what will happen, and ask, unless told not to.

    Raises:
        BadInput: nobody can answer.
    """
    if drop_slot and live.captures(connector):
        left = leftovers.find(
            settings, connector
        )  # also the proof that the source can be asked, before anything is done
        if left.slot is not None:
            say(
                f"{connector.name}: dropping slot {connector.slot} ends its history; the next connector of that name "
                "begins with a snapshot, and deletes in between are found by `downriver verify` alone"
            )
    what = f"delete connector {connector.name}" if there else f"drop what connector {connector.name} left"
    agree(what, yes=yes)


def agree(what: str, *, yes: bool) -> None:
    """Ask a person.

    Raises:
        BadInput: nobody is there to answer, or the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        msg = f"nobody can be asked whether to {what}: repeat it with --yes"
        raise BadInput(msg)
    if not typer.confirm(f"{what}?", err=True):
        raise typer.Exit(Exit.FAILED)


def _deleted(
    settings: Settings, client: ConnectClient, connector: Connector, there: Live | None, *, drop_slot: bool
) -> dict[str, object]:
    """Delete in the order that leaves nothing half done which asking again would not finish."""
    name = connector.name
    if there is not None:
        if drop_slot:  # a stored position without its slot would be a gap that nobody sees
            transition.stop(client, name)
            client.reset_offsets(name)
        client.delete(name)
    row: dict[str, object] = {"connector": name, "deleted": "yes" if there else "was not there"}
    if not live.captures(connector):
        return row
    if drop_slot:
        slot = leftovers.drop_slot(settings, connector)
        publication = leftovers.drop_publication(settings, connector)
        for there_was, what in (
            (slot, f"slot {connector.slot}"),
            (publication, f"publication {connector.publication}"),
        ):
            say(f"{name}: {what} {'dropped' if there_was else 'was not there'}")
        return row | {
            "slot": f"{connector.slot} {'dropped' if slot else 'was not there'}",
            "publication": f"{connector.publication} {'dropped' if publication else 'was not there'}",
            "stays": "its topics and their schemas",
        }
    try:
        left = leftovers.find(settings, connector)
    except DownriverError as error:
        say(f"{name}: what stays at the source is not known: {error}")
        return row | {"slot": connector.slot, "publication": connector.publication, "stays": "not known"}
    for sentence in leftovers.sentences(connector, left):
        say(f"{name}: {sentence}")
    if left.slot is not None:
        say(
            f"{name}: `downriver connectors delete {name} --drop-slot` drops slot and publication, where a file names them;"
        )
        say(f"  or: SELECT pg_drop_replication_slot('{connector.slot}'); DROP PUBLICATION {connector.publication};")
    return row | {
        "slot": f"{connector.slot} {'stays' if left.slot else 'was not there'}",
        "publication": f"{connector.publication} {'stays' if left.publication else 'was not there'}",
        "stays": "its stored position, its topics and their schemas",
    }
