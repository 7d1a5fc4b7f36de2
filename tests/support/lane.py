"""One lane of a test's own on the shared stack: a migrated shop, a role and a connector under names of its own.

The role is nobody else's, so a test may take its rights away; nothing is left behind, whatever state the test ends in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any

import httpx2
import psycopg
from confluent_kafka.admin import AdminClient
from psycopg import sql
from pydantic import SecretStr

from connectors.apply import apply
from connectors.connect import ConnectClient, Refused
from connectors.files import Connector, load, renamed
from downriver.kafka import confluent_config
from downriver.settings import Settings
from shop.migrate import migrate
from shop.names import CaptureNames

WAIT_S = 90.0
POLL_S = 0.1


def until(condition: Callable[[], bool], what: object, within_s: float = 60.0) -> None:
    """Wait until the condition holds; fail with what was waited for."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class OwnLane:
    """A lane that nobody else uses.

    Attributes:
        settings: name its database, its role (`postgres.capture_user`) and its source.
        connector: of the lane that was asked for; by default the catalog: products and reviews.
    """

    settings: Settings
    connector: Connector

    @property
    def name(self) -> str:
        """The connector's name, which is its slot's and its publication's too."""
        return self.connector.name

    @property
    def role(self) -> str:
        """What the connector logs in as."""
        return self.settings.postgres.capture_user

    def execute(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Commit one statement; return its rows."""
        with psycopg.connect(self.settings.postgres.dsn(), autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def products(self, count: int, first: int = 0) -> None:
        """Insert products; their ids tell their numbers."""
        self.execute(
            "INSERT INTO products (id, sku, name, category, price)"
            " SELECT lpad(to_hex(n), 32, '0')::uuid, 's' || n, 'Product ' || n, 'audio', 1"
            " FROM generate_series(%s::int, %s::int) n",
            first,
            first + count - 1,
        )

    def client(self, patience_s: float = 30.0) -> ConnectClient:
        """Return a client of the stack's Connect."""
        return ConnectClient(self.settings.connect, patience_s)

    def start(self) -> None:
        """Create the connector and wait until it streams."""
        (result,) = apply(self.settings, [self.connector], WAIT_S)
        assert (result.state, result.error) == ("RUNNING", ""), result

    def cut(self) -> None:
        """Take the connector's way into the database: it may log in no more, and what is open is ended."""
        self.execute(f'ALTER ROLE "{self.role}" NOLOGIN')
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", self.role)

    def mend(self) -> None:
        """Undo `cut`."""
        self.execute(f'ALTER ROLE "{self.role}" LOGIN')

    def drop_slot(self) -> None:
        """Drop the slot by hand, from under the connector: end its reader, be faster than its next try."""

        def dropped() -> bool:
            with suppress(psycopg.errors.ObjectInUse):
                self.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", self.name
                )
                self.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                    self.name,
                )
                return True
            return False

        until(dropped, f"slot {self.name} dropped")

    def slot(self) -> bool:
        """Tell whether the slot exists."""
        return bool(self.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", self.name))

    def state(self) -> set[str]:
        """Return the states of connector and tasks that Connect tells."""
        with self.client() as client:
            now = client.status(self.name)
        return {"ABSENT"} if now is None else {now.state, *(task.state for task in now.tasks)}


@contextmanager
def own_lane(settings: Settings, lane: str = "catalog") -> Iterator[OwnLane]:
    """Make the shop and its role; the connector is described, and not created yet."""
    source = f"o{token_hex(4)}"
    postgres = settings.postgres.model_copy(update={"database": source, "capture_user": source})
    own = settings.model_copy(update={"postgres": postgres, "source": source, "group_prefix": f"{source}_own"})
    (connector,) = [renamed(each, source, source) for each in load() if each.name.endswith(f"_{lane}")]
    connector = replace(connector, config=dict(connector.config) | {"database.user": source})
    made = OwnLane(own, connector)
    try:
        migrate(own, SecretStr(""), names=CaptureNames(role=source, publication_prefix=source))
        yield made
    finally:
        _remove(made)


def _remove(lane: OwnLane) -> None:
    """Take everything away that the lane or its test made."""
    name, source = lane.name, lane.settings.source
    with lane.client() as client:
        if client.config(name) is not None:
            client.stop(name)

            def reset() -> bool:
                try:
                    client.reset_offsets(name)
                except Refused:  # its task has not ended yet
                    return False
                return True

            until(reset, f"{name} stops")
            client.delete(name)
    with psycopg.connect(lane.settings.postgres.dsn(dbname="postgres"), autocommit=True) as connection:
        database, role = sql.Identifier(source), sql.Identifier(source)

        def gone() -> bool:
            with suppress(psycopg.errors.ObjectInUse):
                connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s AND active",
                    [source],
                )
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [source]
                )
                return True
            return False

        until(gone, f"slots of {source} dropped")
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
        connection.execute(
            "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname LIKE %s", [f"%{source}%"]
        )
    admin = AdminClient(confluent_config(lane.settings.kafka))
    if topics := [topic for topic in admin.list_topics(timeout=10).topics if source in topic]:
        for done in admin.delete_topics(topics).values():
            done.result(30)
    for subject in httpx2.get(f"{lane.settings.registry.url}/subjects", timeout=30).json():
        if source in subject:
            httpx2.delete(f"{lane.settings.registry.url}/subjects/{subject}", timeout=30).raise_for_status()
