"""From one state of a connector to another: asked for, waited for, told. Used by the verbs, by add-table and by guard."""

from __future__ import annotations

import time
from collections.abc import Callable

from connectors.connect import ConnectClient, Status
from downriver.exits import BadInput, DownriverError

POLL_S = 0.25
WAIT_S = 60.0
"""Connect ends tasks within its task.shutdown.graceful.timeout.ms, 5 s by default; a rebalance comes on top."""


def states(status: Status) -> set[str]:
    """Return the states of the connector and its tasks."""
    return {status.state, *(task.state for task in status.tasks)}


def stopped(status: Status) -> bool:
    """Whether no task is left."""
    return status.state == "STOPPED" and not status.tasks


def paused(status: Status) -> bool:
    """Whether connector and tasks are paused; a task that failed can't be, and stays failed."""
    return status.state == "PAUSED" and states(status) <= {"PAUSED", "FAILED"}


def running(status: Status) -> bool:
    """Whether connector and every task run; one task at least."""
    return bool(status.tasks) and states(status) == {"RUNNING"}


def until(
    client: ConnectClient, name: str, reached: Callable[[Status], bool], what: str, wait_s: float = WAIT_S
) -> Status:
    """Wait until the connector's state is as wanted, and return it.

    Raises:
        DownriverError: time is over, or the connector is gone.
    """
    give_up_at = time.monotonic() + wait_s
    while True:
        now = client.status(name)
        if now is not None and reached(now):
            return now
        if time.monotonic() >= give_up_at:
            if now is None and client.config(name) is None:
                msg = f"connector {name} is gone: somebody deleted it meanwhile"
            else:
                seen = ", ".join(sorted(states(now))) if now else "not told"
                msg = f"connector {name} is not {what} within {wait_s:g} s, its state is {seen}; ask again"
            raise DownriverError(msg)
        time.sleep(POLL_S)


BEGIN_S = 10.0
"""Within it a task that failed is on its way again; one that is FAILED still did not get that far."""


def flowing(client: ConnectClient, name: str, before: object, wait_s: float = WAIT_S, *, moves: bool = True) -> Status:
    """Wait until the connector runs and its stored position moved, or it failed again; return its state.

    A task says RUNNING before it has logged in to the source: only a position that moves shows that changes flow.

    Args:
        before: what `positions` returned when it was started.
        moves: whether a heartbeat moves its position; if not, RUNNING must do.

    Raises:
        DownriverError: time is over.
    """
    begun = time.monotonic()
    away = False
    while True:
        now = client.status(name)
        if now is not None:
            failed = "FAILED" in states(now)
            away = away or not failed
            if failed and (away or time.monotonic() - begun > BEGIN_S):
                return now
            if running(now) and (not moves or client.positions(name) != before):
                return now
        if time.monotonic() - begun >= wait_s:
            seen = ", ".join(sorted(states(now))) if now else "not told"
            msg = (
                f"connector {name} is {seen} and stores no new position within {wait_s:g} s: "
                "`downriver connectors status` says why"
            )
            raise DownriverError(msg)
        time.sleep(POLL_S)


def stop(client: ConnectClient, name: str, wait_s: float = WAIT_S) -> None:
    """Stop a connector and wait until no task is left."""
    client.stop(name)
    until(client, name, stopped, "stopped", wait_s)


def require_stopped(client: ConnectClient, name: str, to: str) -> None:
    """Refuse what Connect allows only of a stopped connector.

    Raises:
        BadInput: it is not stopped; the command that stops it is told.
    """
    now = client.status(name)
    if now is None or not stopped(now):
        seen = now.state if now else "not told"
        msg = (
            f"connector {name} is {seen}: its offsets can be {to} only while it is STOPPED, or its task would write its own "
            f"over them. First `downriver connectors stop {name}`"
        )
        raise BadInput(msg)
