"""Bring the connectors of the files onto Kafka Connect, and wait until changes flow.

Applying twice changes nothing. Everything is judged before anything is touched: the source, the plan's consequences, what
each connector's own code says of its settings. A connector whose settings differ is stopped before it gets the new ones, so
that every state seen afterwards belongs to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from connectors import lsn
from connectors.connect import ConnectClient, Refused, Status
from connectors.files import Connector, State, load
from connectors.plan import Item, Plan, Step, make
from connectors.preflight import require
from connectors.topics import ensure
from downriver.exits import BadInput, DownriverError
from downriver.settings import Settings

POLL_S = 0.5
STOP_S = 60.0
"""Connect ends tasks within its task.shutdown.graceful.timeout.ms, 5 s by default; a rebalance comes on top."""
TRACE_LINES = 8
Progress = Callable[[str], None]


class Action(StrEnum):
    """What applying did to a connector."""

    CREATED = "created"
    UPDATED = "updated"
    STARTED = "started"
    """Its settings were right already, but it was stopped, paused or failed: it was started again."""
    PAUSED = "paused"
    STOPPED = "stopped"
    """Its settings were right already, and its file wants it to rest."""
    DELETED = "deleted"
    """It was ours and had no file."""
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    """Connect or the connector's own code did not take the settings; a running connector keeps its old ones."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one connector.

    Attributes:
        state: of its tasks, or of itself where that explains more: RUNNING, FAILED, STOPPED, ABSENT, ….
        lsn: the streamed position that Connect has stored; None where none was, or nobody waited.
        error: why it does not run, with the first lines of the task's trace; empty if it does.
    """

    connector: str
    action: Action
    state: str
    lsn: int | None = None
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing went wrong, as far as was waited for."""
        return not self.error


def apply(
    settings: Settings,
    files: Sequence[Path | Connector] | None = None,
    wait_s: float = 120.0,
    on_progress: Progress = lambda _: None,
    *,
    allow: Collection[str] = (),
    prune: bool = False,
) -> list[Result]:
    """Make the topics, create or update the connectors, then wait until every task runs and has stored a streamed position.

    A stored position without a snapshot marker is the moment from which a restart loses nothing (decision 4).

    Args:
        settings: where Connect and the source are.
        files: paths, or connectors already loaded (and perhaps renamed); default: the files of this folder.
        wait_s: seconds for all of it; 0: apply and don't wait.
        on_progress: hears each step in a sentence.
        allow: the consequences, by name, that may lose or re-read data.
        prune: delete what is ours by its name and has no file; only right when `files` are all there are.

    Raises:
        BadInput: mistakes in the files, a source that is not ready, topics of another shape, a plugin that Connect lacks, a
            consequence that blocks, or that is not allowed.
        ServerAway: PostgreSQL, Kafka or Connect is away (Connect: for longer than `wait_s`).
    """
    connectors = _loaded(files)
    deadline = time.monotonic() + wait_s
    with ConnectClient(settings.connect, wait_s, on_progress) as client:
        plan, refused = judge(settings, client, connectors, allow=allow, prune=prune)
        if refused:  # all or nothing
            return [
                refused.get(item.connector, Result(item.connector, Action.UNCHANGED, item.live_state or "ABSENT"))
                for item in plan.items[: len(connectors)]
            ]
        if made := ensure(settings.kafka, connectors):
            on_progress(f"{len(made)} topic(s) made")
        results = []
        for connector, item in zip(connectors, plan.items, strict=False):
            result = _put(client, connector, item)
            if result.ok and result.action is not Action.UNCHANGED:
                result = replace(result, lsn=_streamed(client, connector))
            on_progress(f"{connector.name}: {result.action}")
            results.append(result)
        deleted = [_deleted(client, item, on_progress) for item in plan.items if item.step is Step.DELETE]
        waited = _wait(client, connectors, results, deadline, on_progress) if wait_s else results
        return [*waited, *deleted]


def judge(
    settings: Settings,
    client: ConnectClient,
    connectors: Sequence[Connector],
    *,
    allow: Collection[str] = (),
    prune: bool = False,
) -> tuple[Plan, Mapping[str, Result]]:
    """Return the plan, and the connectors whose own code refuses their settings, with why; nothing is changed.

    Raises:
        BadInput, ServerAway: as `apply`.
    """
    require(settings, connectors)
    _require_plugins(settings, client, connectors)
    plan = make(settings, client, connectors, whole=prune, prune=prune)
    _permit(plan, allow)
    refused: dict[str, Result] = {}
    for connector, item in zip(connectors, plan.items, strict=False):
        if item.step not in {Step.CREATE, Step.UPDATE}:
            continue
        try:
            mistakes = client.mistakes({"name": connector.name, **connector.config})
        except Refused as error:
            mistakes = [str(error)]
        if mistakes:
            refused[connector.name] = Result(connector.name, Action.REFUSED, "-", error="\n".join(mistakes))
    return plan, refused


def _permit(plan: Plan, allow: Collection[str]) -> None:
    """Refuse a plan that can't go well, or that loses or re-reads data without leave."""
    if blocked := plan.blocked():
        lines = "".join(f"\n  {each}" for each in blocked)
        msg = f"the plan can't go well, nothing was changed:{lines}"
        raise BadInput(msg)
    needed = plan.needed()
    if missing := {name: who for name, who in needed.items() if name not in allow}:
        lines = "".join(
            f"\n  {item.connector}: {each.text} [{each.name}]"
            for item in plan.items
            for each in item.consequences
            if each.name in missing
        )
        options = " ".join(f"--allow {name}" for name in missing)
        msg = f"this would lose or re-read data, nothing was changed:{lines}\nif it is meant: {options}"
        raise BadInput(msg)


def _loaded(files: Sequence[Path | Connector] | None) -> list[Connector]:
    if files is None:
        return load()
    paths = [file for file in files if isinstance(file, Path)]
    return [file for file in files if isinstance(file, Connector)] + (load(paths) if paths else [])


def _require_plugins(settings: Settings, client: ConnectClient, connectors: Iterable[Connector]) -> None:
    """Refuse classes that Connect lacks: it would answer 500 to them, as it does while it starts."""
    wanted = {
        (value, connector.origin)
        for connector in connectors
        for key, value in connector.config.items()
        if key == "connector.class" or (key.endswith((".converter", ".type")) and value.count(".") > 1)
    }
    installed = client.plugins()
    if missing := sorted(f"{name} (wanted by {origin})" for name, origin in wanted if name not in installed):
        msg = f"Kafka Connect at {settings.connect.url} lacks plugins, see its plugin.path: {', '.join(missing)}"
        raise BadInput(msg)


def _put(client: ConnectClient, connector: Connector, item: Item) -> Result:
    """Give Connect the connector's settings, where they differ, and let it do what its file wants."""
    try:
        match item.step:
            case Step.CREATE if connector.state is State.RUNNING:
                client.put(connector.name, connector.config)
                return Result(connector.name, Action.CREATED, "STARTING")
            case Step.CREATE:
                client.create(connector.name, connector.config, connector.state)
                return Result(connector.name, Action.CREATED, "STARTING")
            case Step.UPDATE:
                _updated(client, connector)
                return Result(connector.name, Action.UPDATED, "STARTING")
            case Step.STATE:
                return Result(connector.name, _moved(client, connector), "STARTING")
            case _:
                return Result(connector.name, Action.UNCHANGED, item.live_state)
    except Refused as error:
        return Result(connector.name, Action.REFUSED, "-", error=str(error))


def _updated(client: ConnectClient, connector: Connector) -> None:
    client.stop(connector.name)
    _until_stopped(client, connector)
    try:
        client.put(connector.name, connector.config)
    finally:
        _rest(client, connector)


def _moved(client: ConnectClient, connector: Connector) -> Action:
    """Start, pause or stop a connector whose settings are right."""
    now = client.status(connector.name)
    if connector.state is State.RUNNING and now is not None and now.state not in {"STOPPED", "PAUSED"}:
        client.stop(connector.name)  # what failed is started anew
        _until_stopped(client, connector)
    _rest(client, connector)
    return {State.RUNNING: Action.STARTED, State.PAUSED: Action.PAUSED, State.STOPPED: Action.STOPPED}[connector.state]


def _rest(client: ConnectClient, connector: Connector) -> None:
    """Ask for the state that the file wants."""
    match connector.state:
        case State.RUNNING:
            client.resume(connector.name)
        case State.PAUSED:
            client.pause(connector.name)
        case State.STOPPED:
            client.stop(connector.name)


def _deleted(client: ConnectClient, item: Item, on_progress: Progress) -> Result:
    """Delete an orphan; its slot, publication and offsets stay."""
    try:
        client.delete(item.connector)
    except Refused as error:
        return Result(item.connector, Action.REFUSED, item.live_state, error=str(error))
    on_progress(f"{item.connector}: {Action.DELETED}")
    return Result(item.connector, Action.DELETED, "ABSENT")


def _until_stopped(client: ConnectClient, connector: Connector) -> None:
    """Wait until no task is left, so that no later state is one of theirs."""
    give_up_at = time.monotonic() + STOP_S
    while (now := client.status(connector.name)) is not None and (now.state != "STOPPED" or now.tasks):
        if time.monotonic() > give_up_at:
            msg = f"connector {connector.name} did not stop within {STOP_S:g} s, it is {_state(now)}; apply again"
            raise DownriverError(msg)
        time.sleep(POLL_S)


def _wait(
    client: ConnectClient,
    connectors: Sequence[Connector],
    results: Sequence[Result],
    deadline: float,
    on_progress: Progress,
) -> list[Result]:
    """Follow all connectors until each runs with a streamed position, failed, or the deadline is over.

    Of a connector that was started here the position must have moved past the one of `results`: the task reports RUNNING
    before it streams, and may still fail. The heartbeat moves it every second.
    """
    final = list(results)
    open_ = {index for index, result in enumerate(results) if result.ok}
    while open_:
        for index in sorted(open_):
            before = final[index]
            now = _seen(client, connectors[index], before.action)
            started_at = results[index].lsn or 0
            flows = now.state == "RUNNING" and now.lsn is not None and now.lsn > started_at
            if connectors[index].state is not State.RUNNING:
                flows = now.state == connectors[index].state
            if now.ok and not flows and time.monotonic() >= deadline:
                now = replace(now, error=_late(connectors[index], now))
            if flows or now.error:
                open_.discard(index)
            if now != before:
                on_progress(_sentence(now))
            final[index] = now
        if open_:
            time.sleep(POLL_S)
    return final


def _late(connector: Connector, now: Result) -> str:
    if connector.state is not State.RUNNING:
        return f"time is over: it is {now.state}, not {connector.state}"
    position = "no streamed position is stored" if now.lsn is None else f"its position stays at {lsn.told(now.lsn)}"
    return f"time is over: it is {now.state}, {position}"


def _seen(client: ConnectClient, connector: Connector, action: Action) -> Result:
    """Ask Connect for the connector's state and stored position."""
    now = client.status(connector.name)
    if now is None:
        return Result(connector.name, action, "ABSENT")
    error = "\n".join(_errors(now))
    position = None if error else _streamed(client, connector)
    return Result(connector.name, action, _state(now), position, error)


def _state(now: Status) -> str:
    """Return the worst state: the connector's own unless it runs, else that of the first task that does not."""
    states = [now.state, *(task.state for task in now.tasks)] if now.tasks else [now.state, "UNASSIGNED"]
    if "FAILED" in states:
        return "FAILED"
    return next((state for state in states if state != "RUNNING"), "RUNNING")


def _errors(now: Status) -> Iterable[str]:
    for who, state, trace in (
        ("connector", now.state, now.trace),
        *((f"task {task.id}", task.state, task.trace) for task in now.tasks),
    ):
        if state == "FAILED":
            lines = [line for line in trace.splitlines() if not line.lstrip().startswith("at ")]
            yield "\n".join([f"{who} failed: {lines[0] if lines else 'without a trace'}", *lines[1:TRACE_LINES]])


def _streamed(client: ConnectClient, connector: Connector) -> int | None:
    """Return the LSN of the stored offset if streaming wrote it; a snapshot's carries the marker `snapshot`."""
    for offset in client.offsets(connector.name):
        if not offset.get("snapshot") and offset.get("lsn") is not None:
            return int(offset["lsn"])
    return None


def _sentence(result: Result) -> str:
    if result.error:
        return f"{result.connector}: {result.error.splitlines()[0]}"
    position = "no streamed position yet" if result.lsn is None else f"streaming from LSN {lsn.told(result.lsn)}"
    return f"{result.connector}: {result.state}, {position}"
