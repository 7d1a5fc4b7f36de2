"""Is the source ready for the connectors? Reads PostgreSQL's catalogs only, changes nothing, and tells every finding.

What is found here would otherwise fail a task later, or, worse, leave changes out without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from connectors.connector import homes
from connectors.files import HEARTBEAT_TABLE, REFERENCE, Connector
from downriver.exits import BadInput, ServerAway
from downriver.settings import Settings

Connection = psycopg.Connection[DictRow]

TABLES = """
SELECT n.nspname || '.' || c.relname AS name,
       c.relreplident = 'f' AS full_identity,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_key,
       has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_table_privilege(r.oid, c.oid, 'SELECT') AS readable,
       has_table_privilege(r.oid, c.oid, 'INSERT') AND has_table_privilege(r.oid, c.oid, 'UPDATE') AS writable,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attgenerated = 's' AND NOT a.attisdropped ORDER BY a.attnum) AS generated,
       -- tgtype: 1 for each row, 2 before, 32 truncate; tgenabled: O ordinary, A always
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 35 = 34 AND t.tgenabled IN ('O', 'A'))
           AS refuses_truncate
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_roles r ON r.rolname = %(role)s
WHERE n.nspname || '.' || c.relname = ANY(%(tables)s) AND c.relkind IN ('r', 'p')
"""

PUBLISHED = """
SELECT t.schemaname || '.' || t.tablename AS name, t.rowfilter AS filter,
       EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
               WHERE p.pubname = t.pubname AND r.prattrs IS NOT NULL
                 AND r.prrelid = format('%%I.%%I', t.schemaname, t.tablename)::regclass) AS some_columns
FROM pg_publication_tables t WHERE t.pubname = %s
"""


OLDEST_VERSION = 150_000
"""PostgreSQL 15: row filters and what the heartbeats need of them; `server_version_num`."""


MIGRATE = "migrate the source first (the sample shop: `downriver shop migrate`)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason why capture would fail or lose changes: the thing, what it is now, what to do.

    Attributes:
        serious: capture would fail or lose changes; if not, it is advice.
    """

    thing: str
    value: str
    way_out: str
    serious: bool = True

    def __str__(self) -> str:
        return f"{self.thing}: {self.value}; {self.way_out}"


def require(settings: Settings, connectors: Sequence[Connector]) -> None:
    """Refuse a source that is not ready.

    Raises:
        BadInput: naming every finding.
        ServerAway: PostgreSQL does not answer, or refuses the login.
    """
    if findings := check(settings, connectors):
        lines = "".join(f"\n  {finding}" for finding in findings)
        msg = f"the source is not ready for the connectors, {len(findings)} finding(s):{lines}"
        raise BadInput(msg)


def check(settings: Settings, connectors: Sequence[Connector], others: Sequence[Connector] = ()) -> list[Finding]:
    """Return what is wrong with the source, server first, then table by table; empty if it is ready.

    A `${…}` for the database or the role stands for the setting of the same meaning; the worker is taken to agree.

    Args:
        others: connectors that are not checked, and may be who captures a table from now on.

    Raises:
        ServerAway: PostgreSQL does not answer, or refuses the login.
    """
    at_home = homes([*others, *connectors])
    findings: list[Finding] = []
    by_database = sorted(connectors, key=lambda connector: _database(settings, connector))
    for database, group in groupby(by_database, key=lambda connector: _database(settings, connector)):
        here = list(group)
        try:
            with psycopg.connect(settings.postgres.dsn(dbname=database), row_factory=dict_row) as connection:
                connection.read_only = True
                findings += _server(connection, database, here)
                for connector in here:
                    role = _filled(connector.config["database.user"], settings.postgres.capture_user)
                    findings += _role(connection, role)
                    findings += _publication(connection, connector, at_home)
                    findings += _tables(connection, connector, role)
        except psycopg.OperationalError as error:
            where = f"{settings.postgres.host}:{settings.postgres.port}"
            msg = f"PostgreSQL at {where}, database {database}, can't be asked: {str(error).strip()}"
            raise ServerAway(msg) from None
    return list(dict.fromkeys(findings))


def _filled(value: str, setting: str) -> str:
    return setting if REFERENCE.fullmatch(value) else value


def _database(settings: Settings, connector: Connector) -> str:
    return _filled(connector.config["database.dbname"], settings.postgres.database)


def _rows(connection: Connection, query: str, parameters: Any = None) -> list[DictRow]:
    return connection.execute(query, parameters).fetchall()


def _server(connection: Connection, database: str, connectors: Sequence[Connector]) -> Iterable[Finding]:
    """Check version, WAL level, a direct way, and that every connector has its slot or can make it."""
    (server,) = _rows(
        connection,
        "SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS standby,"
        " pg_backend_pid() AS pid, current_setting('wal_level') AS wal_level,"
        " current_setting('max_replication_slots')::int AS slots,"
        " current_setting('max_wal_senders')::int AS senders,"
        " (SELECT count(*) FROM pg_stat_replication) AS senders_used",
    )
    if server["version"] < OLDEST_VERSION:
        yield Finding("PostgreSQL", f"is version {server['version'] // 10_000}", "15 or newer is needed")
    if server["standby"]:
        yield Finding("PostgreSQL", "is a standby", "connect to the primary: heartbeats are written there")
    if server["pid"] != connection.info.backend_pid:
        yield Finding(
            "connection",
            "leads through a pooler such as PgBouncer",
            "name the server itself: replication, and sessions with an origin, don't pass through one",
        )
    if server["wal_level"] != "logical":
        yield Finding("wal_level", server["wal_level"], "set it to logical and restart PostgreSQL")
    slots = {
        row["slot_name"]: row
        for row in _rows(connection, "SELECT slot_name, plugin, database, wal_status FROM pg_replication_slots")
    }
    for connector in connectors:
        slot = slots.get(connector.slot)
        if slot is None:
            continue
        if (slot["plugin"], slot["database"]) != ("pgoutput", database):
            yield Finding(
                f"slot {connector.slot}",
                f"belongs to plugin {slot['plugin']} in database {slot['database']}",
                f"it must be pgoutput in {database}: drop it or take another slot.name",
            )
        elif slot["wal_status"] == "lost":
            yield Finding(
                f"slot {connector.slot}",
                "is lost, PostgreSQL removed WAL that it still needed",
                "drop it, delete the connector's offsets, apply again for a new snapshot, then verify every sink",
            )
    missing = [connector.slot for connector in connectors if connector.slot not in slots]
    for setting, limit, used in (
        ("max_replication_slots", server["slots"], len(slots)),
        ("max_wal_senders", server["senders"], server["senders_used"]),
    ):
        if used + len(missing) > limit:
            yield Finding(
                setting,
                f"is {limit}, {used} are in use and {len(missing)} more are needed for {', '.join(missing)}",
                "raise it and restart PostgreSQL, or drop a slot that nobody reads (pg_drop_replication_slot)",
            )


def _role(connection: Connection, role: str) -> Iterable[Finding]:
    """Check that the capture role can log in and replicate."""
    rows = _rows(
        connection,
        "SELECT rolcanlogin AS login, rolreplication OR rolsuper AS replication,"
        " has_database_privilege(oid, current_database(), 'CONNECT') AS connect FROM pg_roles WHERE rolname = %s",
        [role],
    )
    if not rows:
        yield Finding(f"role {role}", "does not exist", f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD '…'")
        return
    for right, lacks, way_out in (
        ("login", "can't log in", f"ALTER ROLE {role} LOGIN"),
        ("replication", "can't replicate", f"ALTER ROLE {role} REPLICATION"),
        ("connect", "can't connect to this database", f"GRANT CONNECT ON DATABASE … TO {role}"),
    ):
        if not rows[0][right]:
            yield Finding(f"role {role}", lacks, way_out)


def _publication(connection: Connection, connector: Connector, at_home: Mapping[str, str]) -> Iterable[Finding]:
    """Check that the publication carries inserts, updates and deletes of exactly the captured tables, whole.

    Where only an outbox is captured, no deletes: its rows are removed once they are captured, which is nobody's event.
    """
    name, thing = connector.publication, f"publication {connector.publication}"
    wanted = ["insert", "update", "delete"]
    if connector.outboxes and connector.outboxes >= set(connector.tables) - {HEARTBEAT_TABLE}:
        wanted = ["insert", "update"]
    rows = _rows(connection, "SELECT * FROM pg_publication WHERE pubname = %s", [name])
    if not rows:
        listed = ", ".join(connector.tables)
        way_out = f"CREATE PUBLICATION {name} FOR TABLE {listed} WITH (publish = '{', '.join(wanted)}')"
        yield Finding(thing, "does not exist", f"{MIGRATE}, or {way_out}" if connector.outboxes else way_out)
        return
    (publication,) = rows
    carried = [kind for kind in ("insert", "update", "delete", "truncate") if publication[f"pub{kind}"]]
    if carried != wanted:
        way_out = f"ALTER PUBLICATION {name} SET (publish = '{', '.join(wanted)}')"
        yield Finding(thing, f"publishes {', '.join(carried) or 'nothing'}", way_out)
    if publication["puballtables"]:
        yield Finding(thing, "is FOR ALL TABLES", "make it again with the lane's tables only: FOR TABLE …")
        return
    published = {row["name"]: row for row in _rows(connection, PUBLISHED, [name])}
    for table in sorted(set(connector.tables) - set(published)):
        yield Finding(thing, f"lacks {table}", f"ALTER PUBLICATION {name} ADD TABLE {table}")
    for table in sorted(set(published) - set(connector.tables)):
        value = f"carries {table}, which {connector.name} does not capture"
        way_out = f"ALTER PUBLICATION {name} DROP TABLE {table}"
        if home := at_home.get(table):
            yield Finding(thing, f"{value}: it moves to {home}", f"{MIGRATE}, or {way_out}")
        else:
            yield Finding(thing, value, f"{way_out}, or capture it in {connector.origin}")
    for table, row in sorted(published.items()):
        if row["some_columns"]:
            yield Finding(
                thing, f"publishes only some columns of {table}", "publish all; column.exclude.list leaves out"
            )
        if row["filter"] and table != HEARTBEAT_TABLE:
            yield Finding(
                thing, f"leaves out rows of {table}: WHERE {row['filter']}", "publish the table without WHERE"
            )


def _tables(connection: Connection, connector: Connector, role: str) -> Iterable[Finding]:
    """Check every captured table: key, replica identity, rights, generated columns, columns left out by name."""
    rows = {row["name"]: row for row in _rows(connection, TABLES, {"tables": list(connector.tables), "role": role})}
    for table in connector.tables:
        if table not in rows:
            yield Finding(f"table {table}", "does not exist", f"create it, or take it out of {connector.origin}")
            continue
        row, thing = rows[table], f"table {table}"
        if not row["has_key"]:
            yield Finding(thing, "has no primary key", f"ALTER TABLE {table} ADD PRIMARY KEY (…)")
        if not row["full_identity"] and table not in connector.outboxes:
            yield Finding(thing, "lacks REPLICA IDENTITY FULL", f"ALTER TABLE {table} REPLICA IDENTITY FULL")
        if row["readable"] is False:
            yield Finding(thing, f"can't be read by {role}", f"GRANT SELECT ON {table} TO {role}, USAGE on its schema")
        if not row["refuses_truncate"]:
            yield Finding(
                thing,
                "does not refuse TRUNCATE, which names no rows: sinks would keep them all",
                f"CREATE TRIGGER … BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION (one that raises)",
            )
        if table == HEARTBEAT_TABLE and row["writable"] is False:
            yield Finding(thing, f"can't be written by {role}", f"GRANT INSERT, UPDATE ON {table} TO {role}")
        for column in row["generated"]:
            if f"{table}.{column}" not in connector.excluded:
                yield Finding(
                    f"column {table}.{column}",
                    "is a stored generated column, which snapshots have and streamed changes lack",
                    f"add it to column.exclude.list in {connector.origin}",
                )
        present = {f"{table}.{column}" for column in row["columns"]}
        for column in sorted(name for name in connector.excluded if name.startswith(f"{table}.")):
            if column not in present:
                way_out = f"correct it in {connector.origin}, or the column that was meant is captured"
                yield Finding(f"column {column}", "is left out, but does not exist", way_out)
