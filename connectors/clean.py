"""Removes rows of an outbox that Kafka has, and only those.

The rows are what a lost slot or offset is healed from: a new snapshot sends again what is still there. So nothing is removed on
the strength of its age alone. What is visible at one moment was committed before the position that the source writes at then;
once the connector's slot has confirmed that position, Kafka has all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from connectors import lsn
from connectors.connector import Connector
from connectors.source import connected, slot_of, wal_lsn, where
from downriver.exits import BadInput, DownriverError, ServerAway
from downriver.settings import Settings

BATCH = 5_000
POLL_S = 0.2
COLUMNS = ("id", "created_at")
"""Of an outbox: what names a row, and what its age is told by."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of one outbox: how many rows were removed."""

    connector: str
    table: str
    removed: int


def clean(
    settings: Settings,
    connector: Connector,
    keep_s: float,
    wait_s: float,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Cleaned]:
    """Remove the rows of the connector's outboxes that are captured and older than `keep_s` seconds.

    Rows are removed in transactions of some thousands. Whatever ends it, what is removed was captured. Several may run at once.

    Args:
        wait_s: how long to wait until the slot has confirmed what is there now.

    Raises:
        BadInput: it captures no outbox, or the table lacks the columns of one.
        DownriverError: the slot is gone or lost, or did not confirm in time. Nothing was removed.
        ServerAway: PostgreSQL is away.
    """
    if not connector.outboxes:
        msg = f"{connector.name} captures no outbox: no EventRouter meets a table of {', '.join(connector.tables)}"
        raise BadInput(msg)
    try:
        with connected(settings, connector) as reader, connected(settings, connector) as writer, reader.transaction():
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            position = wal_lsn(reader)  # asked under the snapshot, which is older: what it shows was committed before
            _until_confirmed(writer, connector, position, wait_s, on_progress)
            return [
                Cleaned(connector.name, table, _remove(reader, writer, table, keep_s))
                for table in sorted(connector.outboxes)
            ]
    except psycopg.OperationalError as error:
        msg = f"PostgreSQL at {where(settings, connector)} went away: {str(error).strip()}; start it again, it goes on"
        raise ServerAway(msg) from None
    except psycopg.Error as error:
        msg = f"PostgreSQL at {where(settings, connector)} refused: {str(error).strip()}"
        raise BadInput(msg) from None


def _until_confirmed(
    connection: psycopg.Connection[DictRow],
    connector: Connector,
    position: int,
    wait_s: float,
    on_progress: Callable[[str], None],
) -> None:
    give_up_at = time.monotonic() + wait_s
    told = False
    while True:
        slot = slot_of(connection, connector.slot)
        if slot is None or slot.wal_status == "lost":
            state = "does not exist" if slot is None else "is lost"
            msg = (
                f"slot {connector.slot} {state}: which events Kafka has can't be told, and the rows are what a new snapshot sends"
                f" them from. Nothing was removed; `downriver connectors status {connector.name}` says what to do"
            )
            raise DownriverError(msg)
        if slot.confirmed_lsn is not None and slot.confirmed_lsn >= position:
            return
        confirmed = "nothing" if slot.confirmed_lsn is None else lsn.told(slot.confirmed_lsn)
        if time.monotonic() >= give_up_at:
            msg = (
                f"slot {connector.slot} has confirmed {confirmed}, and {lsn.told(position)} is wanted, after {wait_s:g} s:"
                " nothing was removed, for Kafka may lack it;"
                f" `downriver connectors status {connector.name}` says why"
            )
            raise DownriverError(msg)
        if not told:
            on_progress(f"waiting until Kafka has what {connector.name} captures up to {lsn.told(position)}")
            told = True
        time.sleep(POLL_S)


def _remove(reader: psycopg.Connection[DictRow], writer: psycopg.Connection[DictRow], table: str, keep_s: float) -> int:
    """Delete the old rows that the reader's snapshot shows; return how many."""
    removed = 0
    named = sql.Identifier(*table.split("."))
    key, created = map(sql.Identifier, COLUMNS)
    old = sql.SQL("SELECT {} AS id FROM {} WHERE {} < now() - make_interval(secs => %s)").format(key, named, created)
    delete = sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(named, key)
    with reader.cursor(name="downriver_clean") as cursor:
        cursor.execute(old, [keep_s])
        while rows := cursor.fetchmany(BATCH):
            removed += writer.execute(delete, [[row["id"] for row in rows]]).rowcount
    return removed
