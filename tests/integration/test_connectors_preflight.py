"""The preflight against a real PostgreSQL: a ready source has no finding, and each thing broken is found by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from secrets import token_hex

import psycopg
import pytest
from pydantic import SecretStr

from connectors.files import Connector, load, renamed
from connectors.preflight import check, require
from downriver.exits import BadInput, ServerAway
from downriver.settings import Settings
from shop.migrate import migrate
from shop.names import CaptureNames

pytestmark = pytest.mark.stack

SOURCE = f"t{token_hex(4)}"
CATALOG = f"{SOURCE}_catalog"
HEARTBEAT = "public.downriver_heartbeat"


@pytest.fixture(scope="module")
def own(settings: Settings) -> Iterator[Settings]:
    """A database and a capture role of our own: roles belong to the whole server, and ours is broken on purpose."""
    postgres = settings.postgres.model_copy(update={"database": SOURCE, "capture_user": SOURCE})
    own = settings.model_copy(update={"postgres": postgres})
    try:
        migrate(own, SecretStr(""), names=CaptureNames(role=SOURCE, publication_prefix=SOURCE))
        yield own
    finally:
        with psycopg.connect(settings.postgres.dsn(dbname="postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{SOURCE}" WITH (FORCE)'.encode())
            connection.execute(f'DROP ROLE IF EXISTS "{SOURCE}"'.encode())


def connectors() -> list[Connector]:
    return [renamed(connector, SOURCE, SOURCE) for connector in load()]


def execute(settings: Settings, script: str) -> None:
    with psycopg.connect(settings.postgres.dsn(), autocommit=True) as connection:
        for statement in filter(None, script.split(";")):
            connection.execute(statement.encode())


def test_a_ready_source_has_no_finding(own: Settings) -> None:
    assert check(own, connectors()) == []
    require(own, connectors())


PUBLISH = f"ALTER PUBLICATION {CATALOG}"
BREAKS = [
    (
        "ALTER TABLE products REPLICA IDENTITY DEFAULT",
        "ALTER TABLE products REPLICA IDENTITY FULL",
        "table public.products: lacks REPLICA IDENTITY FULL; ALTER TABLE public.products REPLICA IDENTITY FULL",
    ),
    (
        "ALTER TABLE reviews DROP CONSTRAINT reviews_pkey",
        "ALTER TABLE reviews ADD PRIMARY KEY (id)",
        "table public.reviews: has no primary key; ALTER TABLE public.reviews ADD PRIMARY KEY (…)",
    ),
    (
        "ALTER TABLE products ADD gross numeric GENERATED ALWAYS AS (price * 2) STORED",
        "ALTER TABLE products DROP gross",
        "column public.products.gross: is a stored generated column",
    ),
    (
        f"{PUBLISH} DROP TABLE reviews",
        f"{PUBLISH} ADD TABLE reviews",
        f"publication {CATALOG}: lacks public.reviews; ALTER PUBLICATION {CATALOG} ADD TABLE public.reviews",
    ),
    (
        f"{PUBLISH} ADD TABLE users",
        f"{PUBLISH} DROP TABLE users",
        f"publication {CATALOG}: carries public.users, which {CATALOG} does not capture",
    ),
    (
        f"{PUBLISH} SET (publish = 'insert, update')",
        f"{PUBLISH} SET (publish = 'insert, update, delete')",
        f"publication {CATALOG}: publishes insert, update; ALTER PUBLICATION {CATALOG} SET (publish =",
    ),
    (
        f"{PUBLISH} SET (publish = 'insert, update, delete, truncate')",
        f"{PUBLISH} SET (publish = 'insert, update, delete')",
        f"publication {CATALOG}: publishes insert, update, delete, truncate;",
    ),
    (
        f"{PUBLISH} DROP TABLE reviews; {PUBLISH} ADD TABLE reviews WHERE (rating > 1)",
        f"{PUBLISH} DROP TABLE reviews; {PUBLISH} ADD TABLE reviews",
        f"publication {CATALOG}: leaves out rows of public.reviews: WHERE (rating > 1)",
    ),
    (
        f"{PUBLISH} DROP TABLE reviews; {PUBLISH} ADD TABLE reviews (id, rating)",
        f"{PUBLISH} DROP TABLE reviews; {PUBLISH} ADD TABLE reviews",
        f"publication {CATALOG}: publishes only some columns of public.reviews;",
    ),
    (
        f"{PUBLISH} RENAME TO {CATALOG}_old",
        f"ALTER PUBLICATION {CATALOG}_old RENAME TO {CATALOG}",
        f"publication {CATALOG}: does not exist; CREATE PUBLICATION {CATALOG} FOR TABLE public.products, public.reviews",
    ),
    (
        "ALTER TABLE payments RENAME provider_ref TO reference",
        "ALTER TABLE payments RENAME reference TO provider_ref",
        "column public.payments.provider_ref: is left out, but does not exist;",
    ),
    (
        f"REVOKE SELECT ON reviews FROM {SOURCE}",
        f"GRANT SELECT ON reviews TO {SOURCE}",
        f"table public.reviews: can't be read by {SOURCE}; GRANT SELECT ON public.reviews TO {SOURCE}",
    ),
    (
        f"REVOKE INSERT ON {HEARTBEAT} FROM {SOURCE}",
        f"GRANT INSERT ON {HEARTBEAT} TO {SOURCE}",
        f"table {HEARTBEAT}: can't be written by {SOURCE}; GRANT INSERT, UPDATE ON {HEARTBEAT} TO {SOURCE}",
    ),
    (
        f"ALTER ROLE {SOURCE} NOREPLICATION",
        f"ALTER ROLE {SOURCE} REPLICATION",
        f"role {SOURCE}: can't replicate; ALTER ROLE {SOURCE} REPLICATION",
    ),
    (
        f"ALTER ROLE {SOURCE} NOLOGIN",
        f"ALTER ROLE {SOURCE} LOGIN",
        f"role {SOURCE}: can't log in; ALTER ROLE {SOURCE} LOGIN",
    ),
    (
        f"SELECT pg_create_logical_replication_slot('{CATALOG}', 'test_decoding')",
        f"SELECT pg_drop_replication_slot('{CATALOG}')",
        f"slot {CATALOG}: belongs to plugin test_decoding in database {SOURCE}; it must be pgoutput in {SOURCE}",
    ),
]


@pytest.mark.parametrize(("broken", "mended", "told"), BREAKS, ids=[told.partition(";")[0] for _, _, told in BREAKS])
def test_what_is_broken_is_found_by_name(own: Settings, broken: str, mended: str, told: str) -> None:
    execute(own, broken)
    try:
        with pytest.raises(BadInput, match=re.escape(told)) as caught:
            require(own, connectors())
        assert "1 finding(s)" in str(caught.value)
    finally:
        execute(own, mended)
    assert check(own, connectors()) == []


def test_a_role_that_is_missing_is_told_once(own: Settings) -> None:
    nobody = own.model_copy(update={"postgres": own.postgres.model_copy(update={"capture_user": "nobody_at_all"})})
    assert [finding.thing for finding in check(nobody, connectors())] == ["role nobody_at_all"]


def test_a_database_without_the_tables_names_each(own: Settings) -> None:
    elsewhere = [renamed(connector, SOURCE, "postgres") for connector in load() if connector.name.endswith("catalog")]
    things = [finding.thing for finding in check(own, elsewhere)]
    assert things == [
        f"publication {CATALOG}",
        "table public.products",
        "table public.reviews",
        f"table {HEARTBEAT}",
    ]


def test_no_free_slot_is_found(own: Settings) -> None:
    """With more connectors than the server has slots."""
    with psycopg.connect(own.postgres.dsn()) as connection:
        row = connection.execute("SHOW max_replication_slots").fetchone()
    assert row is not None
    limit = int(row[0])
    many = [renamed(load()[0], f"{SOURCE}{number}", SOURCE) for number in range(limit + 1)]
    findings = {finding.thing: finding.value for finding in check(own, many)}
    told = rf"is {limit}, \d+ are in use and {limit + 1} more are needed for "
    assert re.match(told, findings["max_replication_slots"])


def test_a_source_that_is_away_is_no_finding(own: Settings) -> None:
    away = own.model_copy(update={"postgres": own.postgres.model_copy(update={"port": 9})})
    with pytest.raises(ServerAway, match=rf"PostgreSQL at 127\.0\.0\.1:9, database {SOURCE}, can't be asked"):
        check(away, connectors())
