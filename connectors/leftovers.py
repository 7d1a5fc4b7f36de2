"""What a connector leaves at the source: its slot and its publication. Tells what they cost, and drops them when asked."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connectors import lsn, source
from connectors.files import Connector
from downriver.exits import DownriverError
from downriver.settings import Settings

RELEASE_S = 30.0
"""A slot is free when PostgreSQL noticed that its reader went away."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is at the source; None: no such thing."""

    slot: source.Slot | None
    publication: str | None


def find(settings: Settings, connector: Connector) -> Leftovers:
    """Return what the source holds for the connector.

    Raises:
        ServerAway: PostgreSQL can't be asked.
    """
    with source.connected(settings, connector) as connection:
        published = connection.execute(
            "SELECT true AS found FROM pg_publication WHERE pubname = %s", [connector.publication]
        )
        return Leftovers(
            source.slot_of(connection, connector.slot), connector.publication if published.fetchone() else None
        )


def sentences(connector: Connector, left: Leftovers) -> list[str]:
    """Say what stays and what it costs."""
    told = []
    if left.slot is not None:
        told.append(holds(connector, left.slot))
    if left.publication is not None:
        told.append(f"publication {left.publication} stays")
    return told


def holds(connector: Connector, slot: source.Slot) -> str:
    """Say what a slot that stays costs."""
    lost_after = "" if slot.safe_bytes is None else f", lost after {lsn.size(slot.safe_bytes)} more"
    held = lsn.size(slot.retained_bytes)
    return f"slot {connector.slot} stays and holds {held} of WAL, more with each write{lost_after}"


def drop_slot(settings: Settings, connector: Connector) -> bool:
    """Drop the connector's slot as soon as nobody reads it; return whether there was one.

    Raises:
        DownriverError: somebody still reads it, or PostgreSQL refuses.
        ServerAway: PostgreSQL can't be asked.
    """
    give_up_at = time.monotonic() + RELEASE_S
    with source.connected(settings, connector) as connection:
        while True:
            slot = source.slot_of(connection, connector.slot)
            if slot is None:
                return False
            if slot.database != source.database(settings, connector):
                msg = f"slot {connector.slot} belongs to database {slot.database}: not dropped"
                raise DownriverError(msg)
            try:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [connector.slot])
            except psycopg.errors.ObjectInUse as error:
                if time.monotonic() < give_up_at:
                    time.sleep(0.25)
                    continue
                msg = f"slot {connector.slot} is not dropped: {str(error).strip()}; end its reader and ask again"
                raise DownriverError(msg) from None
            except psycopg.Error as error:
                msg = f"slot {connector.slot} is not dropped: {str(error).strip()}"
                raise DownriverError(msg) from None
            return True


def drop_publication(settings: Settings, connector: Connector) -> bool:
    """Drop the connector's publication; return whether there was one.

    Raises:
        DownriverError: PostgreSQL refuses.
        ServerAway: PostgreSQL can't be asked.
    """
    with source.connected(settings, connector) as connection:
        if not connection.execute(
            "SELECT true AS found FROM pg_publication WHERE pubname = %s", [connector.publication]
        ).fetchone():
            return False
        try:
            connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(connector.publication)))
        except psycopg.Error as error:
            msg = f"publication {connector.publication} is not dropped: {str(error).strip()}; its owner can"
            raise DownriverError(msg) from None
        return True
