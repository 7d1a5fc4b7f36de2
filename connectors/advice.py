"""What a source should have besides what capture needs: no rights beyond need, a way to repair, replicas and slots in time.

Reads PostgreSQL's catalogs only. None of it keeps a connector from running, so `apply` does not ask for it; `preflight` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import psycopg

from connectors import captured, lsn, repair, source
from connectors.connector import HEARTBEAT_TABLE, Connector
from connectors.preflight import Finding
from connectors.source import Connection
from downriver.exits import ServerAway
from downriver.settings import Settings

BEHIND_S = 30.0
"""The domain's limit for a replica and for a slot."""
LOW_SHARE = 0.2

ROLE = """
SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls,
       ARRAY(SELECT p.rolname::text FROM pg_roles p WHERE p.rolname IN ('pg_write_all_data', 'pg_read_all_data',
             'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files', 'pg_maintain')
             AND pg_has_role(r.oid, p.oid, 'MEMBER') ORDER BY 1) AS member_of
FROM pg_roles r WHERE rolname = %s
"""

TABLES = """
SELECT n.nspname || '.' || c.relname AS name, c.relowner = r.oid AS owns,
       has_table_privilege(r.oid, c.oid, 'SELECT') AS reads,
       ARRAY(SELECT k FROM unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) k
             WHERE has_table_privilege(r.oid, c.oid, k)) AS writes
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_roles r
WHERE r.rolname = %s AND c.relkind IN ('r', 'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname NOT LIKE 'pg\\_%%'
ORDER BY 1
"""

REPLICAS = """
SELECT coalesce(nullif(s.application_name, ''), s.client_addr::text, 'pid ' || s.pid) AS name, s.state,
       extract(epoch FROM s.replay_lag)::float8 AS lag_s
FROM pg_stat_replication s
WHERE NOT EXISTS (SELECT FROM pg_replication_slots l WHERE l.active_pid = s.pid AND l.slot_type = 'logical')
  AND s.state <> 'backup'
  AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = s.pid AND a.datname IS NOT NULL)
"""
"""Physical standbys: a logical reader is connected to a database, also before it has chosen its slot."""


def advise(settings: Settings, connectors: Sequence[Connector]) -> list[Finding]:
    """Return the advice for the sources of these connectors.

    Raises:
        ServerAway: PostgreSQL does not answer, or refuses the login.
    """
    found: list[Finding] = []
    ordered = sorted(connectors, key=lambda connector: source.where(settings, connector))
    for where, group in groupby(ordered, key=lambda connector: source.where(settings, connector)):
        here = list(group)
        try:
            with source.connected(settings, here[0]) as connection:
                roles = sorted({source.role(settings, connector) for connector in here})
                for role in roles:
                    theirs = [connector for connector in here if source.role(settings, connector) == role]
                    found += _rights(connection, role, theirs)
                found += _repairs(connection, settings, here)
                found += _replicas(connection, here)
                for connector in here:
                    found += _slot(connection, connector)
                    found += _nulls(connection, connector)
        except psycopg.Error as error:
            msg = f"PostgreSQL at {where} can't be asked: {str(error).strip()}"
            raise ServerAway(msg) from None
    return list(dict.fromkeys(found))


def _advice(thing: str, value: str, way_out: str) -> Finding:
    return Finding(thing, value, way_out, serious=False)


def _rights(connection: Connection, role: str, connectors: Sequence[Connector]) -> Iterator[Finding]:
    """Tell of rights that capturing does not need: whoever has the role's password has them too."""
    row = connection.execute(ROLE, [role]).fetchone()
    if row is None:
        return  # told as a finding
    thing = f"role {role}"
    if row["rolsuper"]:
        yield _advice(thing, "is a superuser", f"ALTER ROLE {role} NOSUPERUSER REPLICATION, and grant it what it reads")
        return
    for right, word in (("rolcreatedb", "CREATEDB"), ("rolcreaterole", "CREATEROLE"), ("rolbypassrls", "BYPASSRLS")):
        if row[right]:
            yield _advice(thing, f"has {word}, which capturing does not need", f"ALTER ROLE {role} NO{word}")
    for group in row["member_of"]:
        yield _advice(thing, f"is a member of {group}", f"REVOKE {group} FROM {role}")
    needed = {table for connector in connectors for table in connector.tables}
    names = ", ".join(connector.name for connector in connectors)
    for table in connection.execute(TABLES, [role]):
        name = table["name"]
        writes = [kind for kind in table["writes"] if name != HEARTBEAT_TABLE or kind in {"DELETE", "TRUNCATE"}]
        if table["owns"]:
            yield _advice(thing, f"owns {name}", f"ALTER TABLE {name} OWNER TO another role")
        elif writes:
            yield _advice(thing, f"may {', '.join(writes)} {name}", f"REVOKE {', '.join(writes)} ON {name} FROM {role}")
        if table["reads"] and name not in needed and not table["owns"]:
            revoke = f"REVOKE SELECT ON {name} FROM {role}"  # noqa: S608  # told, not run
            yield _advice(thing, f"may read {name}, which {names} don't capture", revoke)


def _repairs(connection: Connection, settings: Settings, connectors: Sequence[Connector]) -> Iterator[Finding]:
    """Tell what a re-read or a repair would lack; a superuser makes the origin by itself."""
    tables = sorted({table for connector in connectors for table in connector.tables} - {HEARTBEAT_TABLE})
    (row,) = connection.execute(
        "SELECT current_user AS who, EXISTS (SELECT FROM pg_replication_origin WHERE roname = %s) AS origin,"
        " has_function_privilege('pg_replication_origin_create(text)', 'EXECUTE') AS creates,"
        " has_function_privilege('pg_replication_origin_session_setup(text)', 'EXECUTE') AS sets,"
        " has_parameter_privilege('session_replication_role', 'SET') AS quiet,"
        " ARRAY(SELECT t FROM unnest(%s::text[]) t WHERE to_regclass(t) IS NOT NULL"
        "       AND NOT (has_table_privilege(t, 'SELECT') AND has_table_privilege(t, 'UPDATE'))) AS closed",
        [repair.origin(settings), tables],
    ).fetchall()
    lacks = [
        what
        for missing, what in (
            (not row["origin"] and not row["creates"], f"the origin {repair.origin(settings)}"),
            (not row["sets"], "the right to use it"),
            (not row["quiet"], "SET on session_replication_role"),
            (bool(row["closed"]), f"UPDATE on {', '.join(row['closed'])}"),
        )
        if missing
    ]
    if lacks:
        grants = repair.grants(settings, row["who"])
        yield _advice("repairs", f"{row['who']} lacks {', '.join(lacks)}", f"an administrator runs\n{grants}")


def _replicas(connection: Connection, connectors: Sequence[Connector]) -> Iterator[Finding]:
    """Tell of standbys that are behind, and of slots that a failover would lose."""
    replicas = connection.execute(REPLICAS).fetchall()
    for replica in replicas:
        if replica["state"] != "streaming":
            yield _advice(f"replica {replica['name']}", f"is {replica['state']}", "see that it catches up")
        elif (replica["lag_s"] or 0) > BEHIND_S:
            yield _advice(f"replica {replica['name']}", f"is {replica['lag_s']:.0f} s behind", "see that it catches up")
    if not replicas or connection.info.server_version < 170_000:
        return
    (server,) = connection.execute("SELECT current_setting('synchronized_standby_slots') AS waits").fetchall()
    if not server["waits"]:
        yield _advice(
            "synchronized_standby_slots",
            "is empty: changes are sent on before a standby has them",
            "name the standbys' physical slots, and set sync_replication_slots on the standbys",
        )
    for connector in connectors:
        if connector.config.get("slot.failover") != "true":
            yield _advice(
                f"slot {connector.slot}",
                "is not there after a failover",
                f'"slot.failover": "true" in {connector.origin} (a slot that exists is changed by the connector\'s next start)',
            )


def _nulls(connection: Connection, connector: Connector) -> Iterator[Finding]:
    """Tell of columns whose NULLs arrive as something else."""
    if connector.keeps_null:
        return
    for table in connector.tables:
        for column in captured.untrue(connection, table):
            if f"{table}.{column}" not in connector.excluded:
                yield _advice(
                    f"column {table}.{column}",
                    "may be NULL and has a default: its NULLs arrive as the default (KAFKA-8713)",
                    f"ALTER TABLE {table} ALTER {column} SET NOT NULL, or DROP DEFAULT",
                )


def _slot(connection: Connection, connector: Connector) -> Iterator[Finding]:
    """Tell of a slot that nobody reads, or that is short of WAL."""
    slot = source.slot_of(connection, connector.slot)
    if slot is None or slot.wal_status == "lost":
        return  # the first start makes it; lost is a finding
    thing, held = f"slot {connector.slot}", lsn.size(slot.retained_bytes)
    if not slot.active and (slot.inactive_s or 0) > BEHIND_S:
        value = f"was read {slot.inactive_s:.0f} s ago, and holds {held} of WAL"
        yield _advice(thing, value, f"`downriver connectors status {connector.name}` says why")
    if slot.safe_bytes is not None and slot.safe_bytes < LOW_SHARE * (slot.safe_bytes + slot.retained_bytes):
        value = f"holds {held} of WAL and is lost after {lsn.size(max(slot.safe_bytes, 0))} more"
        yield _advice(thing, value, "let its connector catch up, or raise max_slot_wal_keep_size (a reload)")
