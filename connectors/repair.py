"""A session whose changes are marked as repairs, and the tables it may touch: an origin, no triggers, one at a time.

Design decision 4: no-op updates under a replication origin are ordinary changes that carry its name. Whoever repairs, opens
such a session: `reread` here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connectors import source
from connectors.connector import Connector
from connectors.source import Connection
from downriver.exits import BadInput, DownriverError
from downriver.settings import Settings

PROGRESS = "public.downriver_reread"
LOCK = 0x72657264
"""An advisory lock class ("rerd" in hexadecimal): one re-read at a time under one origin."""

CREATE = f"""
CREATE TABLE IF NOT EXISTS {PROGRESS} (
    relation text NOT NULL, filter text NOT NULL, state text NOT NULL, after_key jsonb, skipped jsonb NOT NULL DEFAULT '[]',
    done bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0, expected bigint NOT NULL,
    pause boolean NOT NULL DEFAULT false, started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (relation, filter))
"""

TABLE = """
SELECT c.oid, c.relreplident = 'f' AS full_identity, c.relkind,
       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY array_position(i.indkey, a.attnum)) AS key,
       ARRAY(SELECT format_type(a.atttypid, a.atttypmod) FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY array_position(i.indkey, a.attnum)) AS types,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a'
             ORDER BY a.attstorage = 'p' DESC, a.attlen > 0 DESC, a.attnum) AS columns,
       ARRAY(SELECT t.tgname::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
             AND t.tgenabled IN ('A', 'R') AND t.tgtype & 16 <> 0) AS triggers
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = %s AND c.relkind IN ('r', 'p')
"""


def origin(settings: Settings) -> str:
    """Return the replication origin that marks repairs of this source. Origins belong to the whole server."""
    return f"{settings.source}_repair"


@dataclass(frozen=True, slots=True)
class Target:
    """The table as the re-read needs it: its key with types, and a column that an update may name without changing it."""

    name: str
    key: tuple[str, ...]
    types: tuple[str, ...]
    column: str

    @property
    def identifier(self) -> sql.Identifier:
        """The table's name, quoted."""
        return sql.Identifier(*self.name.split(".", 1))

    @property
    def columns(self) -> sql.Composed:
        """The key's columns of `t`, comma separated."""
        return sql.SQL(", ").join(sql.Identifier("t", name) for name in self.key)

    @property
    def texts(self) -> sql.Composed:
        """The key's columns as text, each."""
        return sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("t", name)) for name in self.key)

    @property
    def given(self) -> sql.Composed:
        """Placeholders for one key's texts, cast back."""
        return sql.SQL(", ").join(sql.SQL("%s::text::{}").format(sql.SQL(kind)) for kind in self.types)


def target(connection: Connection, name: str) -> Target:
    """Look the table up, and refuse one whose rows could not be re-emitted unchanged.

    Raises:
        BadInput: what is in the way, and what to do.
    """
    row = connection.execute(TABLE, [name]).fetchone()
    if row is None:
        msg = f"the source has no table {name}"
        raise BadInput(msg)
    if not row["key"]:
        msg = f"table {name} has no primary key: its rows can't be re-read in order; ALTER TABLE {name} ADD PRIMARY KEY (…)"
        raise BadInput(msg)
    if not row["full_identity"]:
        msg = (
            f"table {name} lacks REPLICA IDENTITY FULL: long values would arrive as placeholders; "
            f"ALTER TABLE {name} REPLICA IDENTITY FULL"
        )
        raise BadInput(msg)
    if row["triggers"]:
        names = ", ".join(row["triggers"])
        msg = (
            f"table {name}: trigger {names} is ENABLE ALWAYS or REPLICA, and would change the rows; "
            f"ALTER TABLE {name} ENABLE TRIGGER …"
        )
        raise BadInput(msg)
    column = next((column for column in row["columns"] if column not in row["key"]), row["key"][0])
    return Target(name, tuple(row["key"]), tuple(row["types"]), column)


@contextmanager
def session(settings: Settings, connector: Connector) -> Iterator[Connection]:
    """Open a session whose changes carry the origin, with triggers off; one at a time.

    Raises:
        BadInput: a right is missing, with the statements that give it; or the connection is pooled.
        DownriverError: another re-read runs.
        ServerAway: PostgreSQL does not answer.
    """
    name = origin(settings)
    with source.connected(settings, connector, application="downriver reread") as connection:
        (row,) = connection.execute("SELECT pg_backend_pid() AS pid, current_user AS who").fetchall()
        if row["pid"] != connection.info.backend_pid:
            raise BadInput(
                "the way to PostgreSQL leads through a pooler: a re-read needs a session of its own, connect directly"
            )
        (locked,) = connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s)) AS ok", [LOCK, name]).fetchall()
        if not locked["ok"]:
            msg = f"another re-read of this source runs (origin {name}): `downriver connectors reread --status`; one at a time"
            raise DownriverError(msg)
        try:
            if not connection.execute("SELECT 1 AS ok FROM pg_replication_origin WHERE roname = %s", [name]).fetchone():
                connection.execute("SELECT pg_replication_origin_create(%s)", [name])
            connection.execute("SELECT pg_replication_origin_session_setup(%s)", [name])
            connection.execute("SET session_replication_role = replica")
            connection.execute(
                "SET statement_timeout = '10min'"
            )  # a condition without an index reads far for its next batch
            connection.execute(sql.SQL(CREATE))
        except psycopg.errors.InsufficientPrivilege as error:
            said, needed = str(error).splitlines()[0], grants(settings, row["who"])
            msg = f"{row['who']} may not re-read: {said}. An administrator runs:\n{needed}"
            raise BadInput(msg) from None
        except psycopg.errors.ObjectInUse as error:
            msg = f"the origin {name} is in use by another session: {str(error).splitlines()[0]}; one at a time"
            raise DownriverError(msg) from None
        yield connection


def grants(settings: Settings, role: str) -> str:
    """Return the statements by which an administrator lets a role re-read."""
    return "\n".join(
        (
            f"  SELECT pg_replication_origin_create('{origin(settings)}');",
            f"  GRANT EXECUTE ON FUNCTION pg_replication_origin_session_setup(text) TO {role};",
            f"  GRANT SET ON PARAMETER session_replication_role TO {role};",
            f"  GRANT SELECT, UPDATE ON the tables TO {role};",
            f"  {' '.join(CREATE.split())};",
            f"  GRANT SELECT, INSERT, UPDATE, DELETE ON {PROGRESS} TO {role};",
        )
    )
