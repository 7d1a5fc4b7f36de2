"""What a connector captures, as the source has it now: sizes, keys, identities, the publication, the slots, the WAL.

Reads PostgreSQL's catalogs and statistics only. Row counts are the planner's estimates, never counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg.rows import DictRow

from connectors.connector import Connector
from connectors.source import connected, where
from downriver.exits import ServerAway
from downriver.settings import Settings
from schemas.gate import catalog, derive

TABLES = """
SELECT n.nspname || '.' || c.relname AS name, c.relreplident::text AS identity,
       (SELECT coalesce(sum(CASE WHEN leaf.reltuples >= 0 THEN leaf.reltuples
                                 ELSE coalesce(pg_stat_get_live_tuples(leaf.oid), 0) END), 0)::bigint
        FROM pg_partition_tree(c.oid) part JOIN pg_class leaf ON leaf.oid = part.relid WHERE part.isleaf) AS tree_rows,
       CASE WHEN c.reltuples >= 0 THEN c.reltuples ELSE pg_stat_get_live_tuples(c.oid) END::bigint AS own_rows,
       c.relkind = 'p' AS partitioned,
       (SELECT coalesce(sum(pg_table_size(part.relid)), pg_table_size(c.oid))
        FROM pg_partition_tree(c.oid) part) AS bytes,
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY array_position(i.indkey, a.attnum)) AS key,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstorage IN ('x', 'e')
               AND a.atttypid <> 'numeric'::regtype AND a.atttypmod NOT BETWEEN 0 AND 503 ORDER BY a.attnum) AS large,
       (SELECT coalesce(sum(pg_relation_size(t.reltoastrelid)), 0)::bigint FROM pg_class t
        WHERE t.reltoastrelid <> 0 AND (t.oid = c.oid OR t.oid IN (SELECT relid FROM pg_partition_tree(c.oid))))
         AS out_of_line,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid = 'numeric'::regtype
               AND a.atttypmod = -1 ORDER BY a.attnum) AS unbounded
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = ANY(%s) AND c.relkind IN ('r', 'p')
"""

SLOTS = """
SELECT slot_name AS name, active, wal_status, safe_wal_size,
       pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint AS retained
FROM pg_replication_slots
"""

WAL = """
SELECT (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_mb,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_wal_size') AS max_mb,
       (SELECT wal_bytes / nullif(extract(epoch FROM clock_timestamp() - stats_reset), 0) FROM pg_stat_wal)::float AS per_s,
       has_function_privilege('pg_ls_waldir()', 'EXECUTE') AS may_list
"""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One captured table.

    Attributes:
        rows: estimated; 0 where the table was never analysed and has no statistics.
        identity: f full, d default (the key), n nothing, i an index.
        large: columns whose values may be stored out of line (TOAST): no length, or one over 499 characters.
        out_of_line: bytes that are stored so now.
        unbounded: numeric columns without a precision.
        untrue: columns that may be NULL and have a default that Debezium sends.
    """

    name: str
    rows: int
    bytes: int
    identity: str
    key: tuple[str, ...]
    large: tuple[str, ...]
    out_of_line: int
    unbounded: tuple[str, ...]
    untrue: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot as far as its WAL goes; sizes in bytes.

    Attributes:
        safe: what may still be written before it is lost; None: no limit is set.
    """

    active: bool
    wal_status: str | None
    safe: int | None
    retained: int | None


@dataclass(frozen=True, slots=True)
class Wal:
    """The server's WAL, sizes in bytes.

    Attributes:
        keep: max_slot_wal_keep_size; None: a slot may hold any amount.
        ordinary: max_wal_size, what pg_wal grows to without any slot.
        present: what pg_wal holds now; None: we may not look.
        per_s: written on average since the statistics began; None: unknown.
    """

    keep: int | None
    ordinary: int
    present: int | None
    per_s: float | None


@dataclass(frozen=True, slots=True)
class Captured:
    """What the source says of one connector. `published` is None where the publication does not exist."""

    tables: Mapping[str, TableFacts]
    published: frozenset[str] | None
    slots: Mapping[str, Slot]
    wal: Wal


def ask(settings: Settings, connector: Connector) -> Captured:
    """Ask the database that the connector captures. `${…}` in its file stands for our own setting of the same meaning.

    Raises:
        ServerAway: PostgreSQL does not answer, or refuses the login.
    """
    try:
        with connected(settings, connector) as connection:
            return Captured(
                {
                    row["name"]: _table(row, untrue(connection, row["name"]))
                    for row in connection.execute(TABLES, [list(connector.tables)]).fetchall()
                },
                _published(connection, connector.config.get("publication.name", "")),
                {
                    row["name"]: Slot(row["active"], row["wal_status"], row["safe_wal_size"], row["retained"])
                    for row in connection.execute(SLOTS)
                },
                _wal(connection),
            )
    except psycopg.Error as error:  # it let itself be connected to, but not be asked
        msg = f"PostgreSQL at {where(settings, connector)} can't be asked: {str(error).strip()}"
        raise ServerAway(msg) from None


def untrue(connection: psycopg.Connection[DictRow], table: str) -> tuple[str, ...]:
    """Return the table's columns whose NULLs a converter may take for their default, nothing where there is no table."""
    described = catalog.table(connection, table)
    return tuple(column.name for column in described.columns if derive.untrue(column)) if described else ()


def _table(row: DictRow, untrue: tuple[str, ...]) -> TableFacts:
    rows = row["tree_rows"] if row["partitioned"] else row["own_rows"]
    key, large, unbounded = (tuple(row[each]) for each in ("key", "large", "unbounded"))
    sizes = int(rows or 0), int(row["bytes"] or 0)
    return TableFacts(row["name"], *sizes, row["identity"], key, large, row["out_of_line"], unbounded, untrue)


def _published(connection: psycopg.Connection[DictRow], publication: str) -> frozenset[str] | None:
    if not connection.execute("SELECT FROM pg_publication WHERE pubname = %s", [publication]).fetchall():
        return None
    rows = connection.execute(
        "SELECT schemaname || '.' || tablename AS name FROM pg_publication_tables WHERE pubname = %s", [publication]
    )
    return frozenset(row["name"] for row in rows)


def _wal(connection: psycopg.Connection[DictRow]) -> Wal:
    (row,) = connection.execute(WAL).fetchall()
    present = None
    if row["may_list"]:
        (found,) = connection.execute("SELECT sum(size)::bigint AS bytes FROM pg_ls_waldir()").fetchall()
        present = found["bytes"]
    keep = None if row["keep_mb"] < 0 else row["keep_mb"] * 2**20
    return Wal(keep, row["max_mb"] * 2**20, present, row["per_s"])
