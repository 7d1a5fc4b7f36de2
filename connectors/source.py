"""What the source says of a connector: its slot, its heartbeat, its role, who holds it up. Reads catalogs, changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from connectors import lsn
from connectors.files import HEARTBEAT_TABLE, REFERENCE, Connector
from downriver.exits import ServerAway
from downriver.settings import Settings

Connection = psycopg.Connection[DictRow]
STATEMENT_TIMEOUT_MS = 10_000
LOCK_TIMEOUT_MS = 1_000
"""Whoever holds up the connector must not hold up those who want to know why."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot. Bytes are of WAL; LSNs are numbers.

    Attributes:
        retained_bytes: what the server keeps for it.
        safe_bytes: how much may still be written before it is lost; None: no limit is set (max_slot_wal_keep_size).
        inactive_s: since when nobody reads it; None: somebody does, or the server is older than PostgreSQL 17.
        invalidation: why it was lost, in PostgreSQL's word; empty: it was not, or the server does not tell.
        transactions: decoded since the slot was made: a smaller number than before says that it was made again.
        counted_since: changes when the server's statistics begin anew, as after a crash; the number then says nothing.
    """

    plugin: str
    database: str
    active: bool
    wal_status: str
    retained_bytes: int
    safe_bytes: int | None
    confirmed_lsn: int | None
    inactive_s: float | None = None
    invalidation: str = ""
    transactions: int | None = None
    counted_since: str = ""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A session of the connector's that waits for a lock: its query, and who holds it up since when."""

    query: str
    by_pid: int
    by_application: str
    since_s: float


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What PostgreSQL says at one moment; times by its own clock.

    Attributes:
        now_s: seconds since the epoch.
        wal_lsn: where it writes.
        timeline: raised by each promotion and each restore to a point in time.
        beat_age_s: since the heartbeat row was written; None: there is no such row.
        role_problem: why the connector's role can't log in or replicate; empty: nothing is known against it.
        publication_problem: what the publication lacks; empty: nothing.
        sessions: of the connector's role in this database.
    """

    now_s: float
    system: str
    timeline: int
    wal_lsn: int
    slot: Slot | None
    beat_age_s: float | None
    role_problem: str = ""
    publication_problem: str = ""
    sessions: int = 0
    blocked: Blocked | None = None


def database(settings: Settings, connector: Connector) -> str:
    """Return the connector's database; a `${…}` stands for the setting of the same meaning."""
    return _filled(connector, "database.dbname", settings.postgres.database)


def role(settings: Settings, connector: Connector) -> str:
    """Return what the connector logs in as."""
    return _filled(connector, "database.user", settings.postgres.capture_user)


def where(settings: Settings, connector: Connector) -> str:
    """Return host:port/database for messages."""
    host = _filled(connector, "database.hostname", settings.postgres.host)
    port = _filled(connector, "database.port", str(settings.postgres.port))
    return f"{host}:{port}/{database(settings, connector)}"


@contextmanager
def connected(settings: Settings, connector: Connector, *, application: str = "downriver") -> Iterator[Connection]:
    """Connect to the connector's database, as the settings' own user; autocommit.

    Raises:
        ServerAway: it does not answer, refuses the login, or ends the connection.
    """
    dsn = settings.postgres.dsn(
        host=_filled(connector, "database.hostname", settings.postgres.host),
        port=_filled(connector, "database.port", str(settings.postgres.port)),
        dbname=database(settings, connector),
        application_name=application,
    )
    try:
        with psycopg.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            options=f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS} -c timezone=UTC",
        ) as connection:
            yield connection
    except psycopg.OperationalError as error:
        msg = f"PostgreSQL at {where(settings, connector)} can't be asked: {str(error).strip()}"
        raise ServerAway(msg) from None


SERVER = """
SELECT extract(epoch FROM clock_timestamp())::float8 AS now_s,
       (SELECT system_identifier::text FROM pg_control_system()) AS system,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text AS wal_lsn,
       CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int END AS timeline
"""

SLOT = """
SELECT to_jsonb(s) AS slot,
       coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), s.restart_lsn), 0)::bigint AS retained,
       extract(epoch FROM clock_timestamp() - (to_jsonb(s)->>'inactive_since')::timestamptz)::float8 AS inactive_s,
       t.total_txns AS transactions, concat_ws('/', (SELECT stats_reset FROM pg_stat_wal), t.stats_reset) AS counted_since
FROM pg_replication_slots s LEFT JOIN pg_stat_replication_slots t USING (slot_name) WHERE slot_name = %s
"""

ROLE = """
SELECT rolcanlogin AS login, rolreplication OR rolsuper AS replication, rolconnlimit,
       rolvaliduntil < now() AS expired, has_database_privilege(oid, current_database(), 'CONNECT') AS connect
FROM pg_roles WHERE rolname = %s
"""

SESSIONS = """
SELECT a.query, b.pid AS by_pid, coalesce(nullif(b.application_name, ''), b.usename, '?') AS by_application,
       extract(epoch FROM clock_timestamp() - coalesce(b.xact_start, b.backend_start))::float8 AS since_s
FROM pg_stat_activity a LEFT JOIN pg_stat_activity b ON b.pid = (pg_blocking_pids(a.pid))[1]
WHERE a.usename = %s AND a.datname = current_database()
"""

PUBLISHED = """
SELECT n.nspname || '.' || c.relname AS name
FROM pg_publication p, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.pubname = %(name)s AND c.relkind IN ('r', 'p') AND (
    p.puballtables
    OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid)
    OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace))
"""
"""From the catalogs: pg_publication_tables takes a lock on every table, and would wait for who holds one."""


def look(connection: Connection, settings: Settings, connector: Connector) -> SourceFacts:
    """Ask the source for everything about one connector.

    Raises:
        psycopg.Error: it does not let itself be asked.
    """
    slot = slot_of(connection, connector.slot)
    (server,) = connection.execute(SERVER).fetchall()
    sessions = connection.execute(SESSIONS, [role(settings, connector)]).fetchall()
    waiting = next((row for row in sessions if row["by_pid"] is not None), None)
    return SourceFacts(
        server["now_s"],
        server["system"],
        server["timeline"],
        lsn.parse(server["wal_lsn"]),
        slot,
        _beat_age_s(connection, connector),
        _role_problem(connection, role(settings, connector)),
        _publication_problem(connection, connector),
        len(sessions),
        Blocked(waiting["query"], waiting["by_pid"], waiting["by_application"], waiting["since_s"])
        if waiting
        else None,
    )


def wal_lsn(connection: Connection) -> int:
    """Return where the server writes now."""
    (row,) = connection.execute(SERVER).fetchall()
    return lsn.parse(row["wal_lsn"])


def slot_of(connection: Connection, name: str) -> Slot | None:
    """Return the slot of that name, None if there is none."""
    row = _one(connection, SLOT, [name])
    if row is None:
        return None
    slot = row["slot"]
    confirmed = slot["confirmed_flush_lsn"]
    return Slot(
        slot["plugin"],
        slot["database"],
        slot["active"],
        slot["wal_status"] or "lost",
        row["retained"],
        slot["safe_wal_size"],
        lsn.parse(confirmed) if confirmed else None,
        None if slot["active"] else row["inactive_s"],
        slot.get("invalidation_reason") or "",
        row["transactions"],
        row["counted_since"],
    )


def beats(connector: Connector) -> tuple[str, str] | None:
    """Return the table and the lane that the connector's heartbeat query writes, None if it has none of ours."""
    query = connector.config.get("heartbeat.action.query", "")
    lane = re.search(r"'([^']+)'", query)
    return (HEARTBEAT_TABLE, lane[1]) if lane and HEARTBEAT_TABLE in query else None


def _beat_age_s(connection: Connection, connector: Connector) -> float | None:
    found = beats(connector)
    if found is None or not _one(
        connection, "SELECT true AS found WHERE to_regclass(%s) IS NOT NULL", [HEARTBEAT_TABLE]
    ):
        return None
    query = """SELECT extract(epoch FROM clock_timestamp() - beat_at)::float8 AS age_s
               FROM public.downriver_heartbeat WHERE lane = %s"""
    try:
        row = _one(connection, query, [found[1]])
    except psycopg.errors.LockNotAvailable:
        return None
    return row["age_s"] if row else None


def _role_problem(connection: Connection, name: str) -> str:
    row = _one(connection, ROLE, [name])
    if row is None:
        return f"role {name} does not exist"
    for wrong, told in (
        (not row["login"], f"role {name} may not log in; ALTER ROLE {name} LOGIN"),
        (row["expired"], f"the password of role {name} has expired; ALTER ROLE {name} VALID UNTIL 'infinity'"),
        (not row["replication"], f"role {name} may not replicate; ALTER ROLE {name} REPLICATION"),
        (not row["connect"], f"role {name} may not connect to this database; GRANT CONNECT ON DATABASE … TO {name}"),
        (row["rolconnlimit"] == 0, f"role {name} may open no connection; ALTER ROLE {name} CONNECTION LIMIT -1"),
    ):
        if wrong:
            return told
    return ""


def _publication_problem(connection: Connection, connector: Connector) -> str:
    name = connector.publication
    if not _one(connection, "SELECT true AS found FROM pg_publication WHERE pubname = %s", [name]):
        return f"publication {name} does not exist; `downriver connectors preflight` tells how to make it"
    published = {row["name"] for row in connection.execute(PUBLISHED, {"name": name})}
    plain = {table for table in connector.tables if re.fullmatch(r"\w+\.\w+", table)}
    if lacking := sorted(plain - published):
        tables = ", ".join(lacking)
        return (
            f"publication {name} lacks {tables}, whose changes don't come; ALTER PUBLICATION {name} ADD TABLE {tables}"
        )
    return ""


def _one(connection: Connection, query: Any, parameters: Any = None) -> DictRow | None:
    return connection.execute(query, parameters).fetchone()


def _filled(connector: Connector, key: str, setting: str) -> str:
    value = connector.config.get(key) or setting
    return setting if REFERENCE.fullmatch(value) else value
