"""Brings the shop's database to a revision of its schema, and says which one it is at.

Alembic does the work; it is configured here, not by a file, so that it runs from any folder. This module knows where
the source is and how the capture role logs in; it knows nothing of connectors.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import sql
from pydantic import SecretStr

from downriver.exits import BadInput, DownriverError, ServerAway
from downriver.settings import Settings
from shop.names import CaptureNames

SCRIPTS = Path(__file__).parent / "migrations"
LOCK = 0x646F776E
"""An advisory lock ("down" in hexadecimal): two migrations of one database go one after the other."""


def migrate(
    settings: Settings,
    capture_password: SecretStr,
    revision: str = "head",
    *,
    down: bool = False,
    names: CaptureNames | None = None,
) -> str | None:
    """Bring the database to `revision`, in one transaction; create the database first if it is missing.

    Args:
        capture_password: what the capture role logs in with; empty leaves the role's password as it is.
        revision: a revision's name, `head`, or `base` (with `down`: back to the empty database).
        down: undo down to `revision` instead of going up to it.
        names: of the role and the publications; default: the product's.

    Returns:
        The revision that the database is at now, None for an empty one.

    Raises:
        BadInput: no such revision, or it lies in the other direction.
        ServerAway: the server does not answer or refuses the login.
        DownriverError: the server refused a statement; nothing was changed.
    """
    names = names or CaptureNames()
    if down and revision == "head":
        raise BadInput("going down needs a revision to go down to: --to base (everything) or a revision's name")
    if not down:
        create_database(settings)
    config = _config(names)
    try:
        with _connection(settings) as connection:
            config.attributes["connection"] = connection
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            connection.commit()
            (command.downgrade if down else command.upgrade)(config, revision)
            connection.commit()
    except CommandError as error:
        known = ", ".join(["base", *_revisions(), "head"])
        msg = f"revision {revision!r} can't be reached going {'down' if down else 'up'}: {error}. There are: {known}"
        raise BadInput(msg) from None
    except sqlalchemy.exc.DBAPIError as error:
        if error.connection_invalidated or isinstance(error.orig, psycopg.errors.ConnectionFailure):
            raise away(settings, error.orig) from None
        msg = f"PostgreSQL refused the migration of database {settings.postgres.database!r}, nothing was changed: "
        raise DownriverError(msg + str(error.orig)) from None
    if capture_password.get_secret_value() and role_exists(settings, names.role):
        set_password(settings, names.role, capture_password)
    reached = current(settings)
    if revision not in {"head", "heads", "base"} and reached != revision:
        msg = f"the shop is at revision {reached}, past {revision}: `--down` goes back to it"
        raise BadInput(msg)
    return reached


def current(settings: Settings) -> str | None:
    """Return the revision that the database is at, None if no migration ran there.

    Raises:
        ServerAway: the server does not answer, or there is no such database.
    """
    with _connection(settings) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def create_database(settings: Settings) -> bool:
    """Create settings.postgres.database where it is missing; return whether that was so.

    Raises:
        ServerAway: the server does not answer.
    """
    name = settings.postgres.database
    with connect(settings, dbname="postgres") as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount:
            return False
        try:
            connection.execute(
                sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(sql.Identifier(name))
            )
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            return False  # another process was faster
        return True


def set_password(settings: Settings, role: str, password: SecretStr) -> None:
    """Set the role's password. The server gets a SCRAM verifier: the password is in no statement, hence in no log."""
    with connect(settings) as connection:
        verifier = connection.pgconn.encrypt_password(
            password.get_secret_value().encode(), role.encode(), b"scram-sha-256"
        )
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
        )


def role_exists(settings: Settings, role: str) -> bool:
    """Tell whether the cluster has that role."""
    with connect(settings) as connection:
        return connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount == 1


def connect(settings: Settings, **overrides: str) -> psycopg.Connection:
    """Connect to the source, in autocommit mode; `overrides` replace parts of the address.

    Raises:
        ServerAway: naming the address and what was said.
    """
    try:
        return psycopg.connect(settings.postgres.dsn(**overrides), autocommit=True)
    except psycopg.OperationalError as error:
        raise away(settings, error) from None


def away(settings: Settings, error: BaseException | None) -> ServerAway:
    """Return the error that says PostgreSQL is away, and what to do."""
    postgres = settings.postgres
    return ServerAway(
        f"PostgreSQL at {postgres.host}:{postgres.port}, database {postgres.database!r}, user {postgres.user!r}: "
        f"{str(error).strip()}. `downriver stack up` starts the local one; DOWNRIVER_POSTGRES__HOST and its like name "
        "another; `downriver shop migrate` creates the database."
    )


def _config(names: CaptureNames) -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))  # ConfigParser interpolates %
    config.attributes["names"] = names
    return config


def _revisions() -> list[str]:
    return [script.revision for script in ScriptDirectory(str(SCRIPTS)).walk_revisions()][::-1]


@contextmanager
def _connection(settings: Settings) -> Iterator[sqlalchemy.Connection]:
    """Give Alembic a connection. It comes from psycopg directly, so that no URL ever holds a password."""

    def creator() -> psycopg.Connection:
        try:
            return psycopg.connect(settings.postgres.dsn())
        except psycopg.OperationalError as error:
            raise away(settings, error) from None

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=creator, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        yield connection
