"""The preflight against a real PostgreSQL: a ready source has no finding, and each thing broken is found by name."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import orjson
import psycopg
import pytest
from pydantic import SecretStr

from connectors import advice, repair
from connectors.advice import advise
from connectors.files import Connector, load, renamed
from connectors.preflight import check, require
from downriver.exits import BadInput, Exit, ServerAway
from downriver.settings import Settings
from shop.migrate import migrate
from shop.names import CaptureNames
from tests.support.commands import Commands
from tests.support.lane import until

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
        f"ALTER PUBLICATION {SOURCE}_events SET (publish = 'insert, update, delete')",
        f"ALTER PUBLICATION {SOURCE}_events SET (publish = 'insert, update')",
        f"publication {SOURCE}_events: publishes insert, update, delete; ALTER PUBLICATION {SOURCE}_events SET"
        " (publish = 'insert, update')",
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
        "ALTER TABLE reviews DISABLE TRIGGER reviews_refuse_truncate",
        "ALTER TABLE reviews ENABLE TRIGGER reviews_refuse_truncate",
        "table public.reviews: does not refuse TRUNCATE, which names no rows: sinks would keep them all",
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


def test_a_pooler_in_between_is_found(own: Settings) -> None:
    """One that answers the login itself, as PgBouncer does: the session's number is not the server's."""
    with pooled(own.postgres.host, own.postgres.port) as port:
        through = own.model_copy(
            update={"postgres": own.postgres.model_copy(update={"port": port, "sslmode": "disable"})}
        )
        assert [finding.thing for finding in check(through, connectors())] == ["connection"]
        with pytest.raises(BadInput, match="pooler"), repair.session(through, connectors()[0]):
            pass


@contextmanager
def pooled(host: str, port: int) -> Iterator[int]:
    """Forward to PostgreSQL, and tell each client another process id than its session's."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, change: bool) -> None:
        while data := await reader.read(65536):
            at = data.find(b"K\x00\x00\x00") if change else -1
            if at >= 0:
                data, change = data[: at + 5] + b"\x00\x00\x00\x01" + data[at + 9 :], False
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, port)
        await asyncio.gather(forward(reader, back, change=False), forward(there, writer, change=True))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", 0), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


ADVICE = [
    (
        f"ALTER ROLE {SOURCE} CREATEDB",
        f"ALTER ROLE {SOURCE} NOCREATEDB",
        f"role {SOURCE}: has CREATEDB, which capturing does not need; ALTER ROLE {SOURCE} NOCREATEDB",
    ),
    (
        f"GRANT pg_read_all_data TO {SOURCE}; CREATE TABLE private (id int)",
        f"REVOKE pg_read_all_data FROM {SOURCE}; DROP TABLE private",
        f"role {SOURCE}: is a member of pg_read_all_data; REVOKE pg_read_all_data FROM {SOURCE}",
    ),
    (
        f"GRANT UPDATE, TRUNCATE ON products TO {SOURCE}",
        f"REVOKE UPDATE, TRUNCATE ON products FROM {SOURCE}",
        f"role {SOURCE}: may UPDATE, TRUNCATE public.products; REVOKE UPDATE, TRUNCATE ON public.products FROM {SOURCE}",
    ),
    (
        f"CREATE TABLE salaries (id int); GRANT SELECT ON salaries TO {SOURCE}",
        "DROP TABLE salaries",
        f"role {SOURCE}: may read public.salaries, which ",
    ),
    (
        f"ALTER ROLE {SOURCE} SUPERUSER",
        f"ALTER ROLE {SOURCE} NOSUPERUSER",
        f"role {SOURCE}: is a superuser; ALTER ROLE {SOURCE} NOSUPERUSER REPLICATION",
    ),
    (
        "ALTER TABLE reviews ADD height int DEFAULT 7",
        "ALTER TABLE reviews DROP height",
        "column public.reviews.height: may be NULL and has a default: its NULLs arrive as the default (KAFKA-8713); ALTER",
    ),
    (
        f"SELECT pg_create_logical_replication_slot('{CATALOG}', 'pgoutput')",
        f"SELECT pg_drop_replication_slot('{CATALOG}')",
        f"slot {CATALOG}: was read ",
    ),
]


def test_a_ready_source_needs_no_advice(own: Settings) -> None:
    assert advise(own, connectors()) == []


@pytest.mark.parametrize(("given", "taken", "told"), ADVICE, ids=[told.partition(";")[0] for _, _, told in ADVICE])
def test_what_is_more_than_needed_is_advice(
    own: Settings, monkeypatch: pytest.MonkeyPatch, given: str, taken: str, told: str
) -> None:
    monkeypatch.setattr(advice, "BEHIND_S", 0.0)
    execute(own, given)
    try:
        found = advise(own, connectors())
        assert [str(finding) for finding in found if str(finding).startswith(told)], found
        assert not any(finding.serious for finding in found)
        assert check(own, connectors()) == []
    finally:
        execute(own, taken)
    assert advise(own, connectors()) == []


def test_what_a_repair_lacks_is_told_with_the_statements(own: Settings) -> None:
    poor = own.model_copy(update={"postgres": own.postgres.model_copy(update={"user": SOURCE})})
    (found,) = [finding for finding in advise(poor, connectors()) if finding.thing == "repairs"]
    for told in (f"origin {own.source}_repair", "session_replication_role", "UPDATE on public.addresses"):
        assert told in found.value
    assert f"GRANT EXECUTE ON FUNCTION pg_replication_origin_session_setup(text) TO {SOURCE}" in found.way_out


def test_a_replica_asks_for_slots_that_outlive_a_failover(own: Settings) -> None:
    """A reader of the physical stream stands for a standby."""
    standby = psycopg.connect(
        own.postgres.dsn(replication="true", application_name=f"{SOURCE}_standby"), autocommit=True
    )
    try:
        (position,) = psycopg.connect(own.postgres.dsn()).execute("SELECT pg_current_wal_flush_lsn()::text").fetchall()
        standby.pgconn.send_query(f"START_REPLICATION PHYSICAL {position[0]}".encode())

        def slots() -> set[str]:
            return {finding.thing for finding in advise(own, connectors()) if finding.thing.startswith("slot ")}

        until(lambda: slots() == {f"slot {connector.slot}" for connector in connectors()}, "advised")
        things = {finding.thing for finding in advise(own, connectors())}
        assert "synchronized_standby_slots" in things
        failover = [
            replace(connector, config=dict(connector.config) | {"slot.failover": "true"}) for connector in connectors()
        ]
        assert not any(finding.thing.startswith("slot ") for finding in advise(own, failover))
    finally:
        standby.close()


def test_the_command_tells_both_kinds(own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Commands(monkeypatch, own, connectors())
    files = []
    for connector in connectors():
        files.append(str(tmp_path / f"{connector.name}.json"))
        Path(files[-1]).write_bytes(orjson.dumps({"name": connector.name, "config": dict(connector.config)}))
    ready = run("preflight", *files, "-o", "json")
    assert (ready.code, ready.document) == (0, [])
    execute(own, f"ALTER ROLE {SOURCE} CREATEDB")
    try:
        assert run("preflight", *files).code == 0, "advice is no error"
        assert run("preflight", *files, "--strict").code == Exit.FAILED
    finally:
        execute(own, f"ALTER ROLE {SOURCE} NOCREATEDB")
    execute(own, "ALTER TABLE products REPLICA IDENTITY DEFAULT")
    try:
        told = run("preflight", *files, "-o", "json")
        assert (told.code, [each["thing"] for each in told.document]) == (Exit.FAILED, ["table public.products"])
    finally:
        execute(own, "ALTER TABLE products REPLICA IDENTITY FULL")
