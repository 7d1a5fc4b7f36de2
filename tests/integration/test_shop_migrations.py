"""The shop's schema on a real PostgreSQL: up, down and up again; what capture needs; what is refused."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from connectors import preflight
from connectors.files import load, renamed
from downriver.exits import BadInput, ServerAway
from downriver.settings import Settings
from shop.migrate import connect, create_database, current, migrate, role_exists
from shop.names import EVENTS, HEARTBEAT, LANES, OUTBOX, TABLES, CaptureNames

pytestmark = pytest.mark.stack
NO_PASSWORD = SecretStr("")


@pytest.fixture
def names(settings: Settings) -> Iterator[CaptureNames]:
    """A role of our own: roles are cluster-wide."""
    made = CaptureNames(role=f"test_{secrets.token_hex(4)}", publication_prefix="test pub")
    yield made
    with connect(settings, dbname="postgres") as connection:
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(made.role)))


@pytest.fixture
def private(settings: Settings, names: CaptureNames) -> Iterator[Settings]:
    """Settings of a database of our own, which does not exist yet; dropped before the role is, which it names."""
    name = f"shop_test_{secrets.token_hex(4)}"
    yield settings.model_copy(update={"postgres": settings.postgres.model_copy(update={"database": name})})
    with connect(settings, dbname="postgres") as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def rows(settings: Settings, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with connect(settings) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def schema(settings: Settings) -> list[tuple[Any, ...]]:
    """Everything in schema public that a migration makes, as comparable rows."""
    return rows(
        settings,
        """SELECT 'column', table_name::text, column_name::text, data_type || is_nullable || coalesce(column_default, '')
             FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
           UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass
           UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes
             WHERE schemaname = 'public' AND tablename <> 'alembic_version'
           UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid)
             FROM pg_trigger WHERE NOT tgisinternal
           UNION ALL SELECT 'function', proname, '', prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
           UNION ALL SELECT 'publication', pubname, tablename, coalesce(rowfilter, '') FROM pg_publication_tables
           UNION ALL SELECT 'identity', relname, '', relreplident::text FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
           ORDER BY 1, 2, 3, 4""",
    )


def test_up_down_and_up_again_leave_the_same_schema(private: Settings, names: CaptureNames) -> None:
    assert migrate(private, NO_PASSWORD, names=names) == "0003"
    whole = schema(private)
    assert {row[1] for row in whole if row[0] == "identity"} == {*TABLES, HEARTBEAT}
    assert migrate(private, NO_PASSWORD, "0001", down=True, names=names) == "0001"
    assert not role_exists(private, names.role)
    assert migrate(private, NO_PASSWORD, "base", down=True, names=names) is None
    assert schema(private) == []
    assert migrate(private, NO_PASSWORD, names=names) == "0003"
    assert schema(private) == whole


def test_migrating_twice_changes_nothing(private: Settings, names: CaptureNames) -> None:
    migrate(private, NO_PASSWORD, names=names)
    before = schema(private)
    assert migrate(private, NO_PASSWORD, names=names) == "0003"
    assert schema(private) == before


def test_a_lane_publishes_its_tables_and_its_own_heartbeat(private: Settings, names: CaptureNames) -> None:
    migrate(private, NO_PASSWORD, names=names)
    lanes = LANES | {EVENTS: (OUTBOX,)}
    published = rows(private, "SELECT pubname, tablename, rowfilter FROM pg_publication_tables ORDER BY 1, 2")
    assert published == sorted(
        [(names.publication(lane), table, None) for lane, tables in lanes.items() for table in tables]
        + [(names.publication(lane), HEARTBEAT, f"(lane = '{lane}'::text)") for lane in lanes],
        key=lambda row: row[:2],
    )
    flags = rows(private, "SELECT pubname, pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication")
    assert set(flags) == {(names.publication(lane), True, True, lane != EVENTS, False) for lane in lanes}


def test_captured_tables_send_whole_old_rows(private: Settings, names: CaptureNames) -> None:
    migrate(private, NO_PASSWORD, names=names)
    identity = dict(
        rows(private, "SELECT relname, relreplident::text FROM pg_class WHERE relname = ANY(%s)", [*TABLES, HEARTBEAT])
    )
    assert identity == dict.fromkeys([*TABLES, HEARTBEAT], "f") | {OUTBOX: "d"}


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE outbox SET type = 'x'", psycopg.errors.FeatureNotSupported),
        *[
            (
                "INSERT INTO outbox (id, aggregatetype, aggregateid, type)"
                f" VALUES (gen_random_uuid(), '{name}', '1', 'x')",
                psycopg.errors.CheckViolation,
            )
            for name in ("", "a.b", "a b", "é", "a" * 101, "a/b")
        ],
    ],
)
def test_what_would_stop_or_miss_the_events_is_refused(
    private: Settings, names: CaptureNames, statement: str, error: type[psycopg.Error]
) -> None:
    migrate(private, NO_PASSWORD, names=names)
    with connect(private) as connection, pytest.raises(error):
        connection.execute(statement.encode())


def test_an_outbox_of_the_revision_before_keeps_its_rows(private: Settings, names: CaptureNames) -> None:
    migrate(private, NO_PASSWORD, "0002", names=names)
    insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (gen_random_uuid(), 'order', '7', 'x')"
    with connect(private) as connection:
        connection.execute(insert.encode())
    before = rows(private, "SELECT id, aggregatetype, aggregateid, type FROM outbox")
    migrate(private, NO_PASSWORD, names=names)
    assert rows(private, "SELECT id, aggregatetype, aggregateid, type FROM outbox WHERE created_at <= now()") == before
    assert len(before) == 1


def test_what_the_preflight_says_may_be_done_by_hand_before(private: Settings, names: CaptureNames) -> None:
    """And an older shop hears of the migration from it: the publications are not yet as the connectors want them."""
    names = replace(names, publication_prefix=names.role)
    migrate(private, NO_PASSWORD, names=names)
    wanted = schema(private)
    migrate(private, NO_PASSWORD, "0002", down=True, names=names)
    made = [renamed(each, names.role, private.postgres.database) for each in load()]
    connectors = [replace(each, config=dict(each.config) | {"database.user": names.role}) for each in made]
    accounts, events = (names.publication(lane) for lane in ("accounts", EVENTS))
    found = {finding.thing: finding for finding in preflight.check(private, connectors)}
    assert set(found) == {f"publication {accounts}", f"publication {events}"}
    assert all("`downriver shop migrate`" in finding.way_out for finding in found.values())
    assert f"carries public.outbox, which {accounts} does not capture: it moves to {events}" in str(found.values())
    for finding in found.values():
        with connect(private) as connection:
            connection.execute(finding.way_out.partition(", or ")[2].encode())
    assert preflight.check(private, connectors) == []
    migrate(private, NO_PASSWORD, names=names)
    assert schema(private) == wanted


@pytest.mark.parametrize("statement", ["TRUNCATE inventory", "TRUNCATE users CASCADE", f"TRUNCATE {HEARTBEAT}"])
def test_truncate_is_refused_and_says_what_to_do(private: Settings, names: CaptureNames, statement: str) -> None:
    migrate(private, NO_PASSWORD, names=names)
    with connect(private) as connection, pytest.raises(psycopg.errors.FeatureNotSupported) as refusal:
        connection.execute(statement.encode())
    assert "is refused" in str(refusal.value)
    assert "DELETE FROM public." in (refusal.value.diag.message_hint or "")


def test_the_capture_role_can_read_and_beat_and_no_more(private: Settings, names: CaptureNames) -> None:
    migrate(private, SecretStr("s3cret"), names=names)
    allowed = {
        (table, privilege)
        for table, privilege, granted in rows(
            private,
            "SELECT t, p, has_table_privilege(%s, 'public.' || t, p) FROM unnest(%s::text[]) AS t,"
            " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p",
            names.role,
            [*TABLES, HEARTBEAT, "alembic_version"],
        )
        if granted
    }
    assert allowed == {(table, "SELECT") for table in [*TABLES, HEARTBEAT]} | {
        (HEARTBEAT, "INSERT"),
        (HEARTBEAT, "UPDATE"),
    }
    (role,) = rows(
        private,
        "SELECT rolcanlogin, rolreplication, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls,"
        " has_schema_privilege(rolname, 'public', 'CREATE') FROM pg_roles WHERE rolname = %s",
        names.role,
    )
    assert role == (True, True, False, False, False, False, False)
    (stored,) = rows(private, "SELECT rolpassword FROM pg_authid WHERE rolname = %s", names.role)
    assert stored[0].startswith("SCRAM-SHA-256$")


def test_a_role_that_two_databases_use_outlives_one_of_them(private: Settings, names: CaptureNames) -> None:
    migrate(private, NO_PASSWORD, names=names)
    other = private.model_copy(
        update={"postgres": private.postgres.model_copy(update={"database": f"{private.postgres.database}_2"})}
    )
    try:
        migrate(other, NO_PASSWORD, names=names)
        migrate(private, NO_PASSWORD, "base", down=True, names=names)
        assert role_exists(other, names.role)
        migrate(other, NO_PASSWORD, "base", down=True, names=names)
        assert not role_exists(private, names.role)
    finally:
        with connect(private, dbname="postgres") as connection:
            name = sql.Identifier(other.postgres.database)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))


def test_updated_at_moves_but_not_for_a_repair(private: Settings, names: CaptureNames) -> None:
    migrate(private, NO_PASSWORD, names=names)
    identity, old = uuid4(), "2001-01-01 00:00:00+00"
    with connect(private) as connection:
        connection.execute(
            "INSERT INTO users (id, email, updated_at) VALUES (%s, 'a@example.com', %s)", [identity, old]
        )
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE users SET email = email")
        assert connection.execute("SELECT updated_at = %s FROM users", [old]).fetchone() == (True,)
        connection.execute("SET session_replication_role = origin")
        connection.execute("UPDATE users SET name = 'new'")
        moved = connection.execute("SELECT updated_at > now() - interval '1 hour' FROM users").fetchone()
        assert moved == (True,)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO users (id, email, status) VALUES (gen_random_uuid(), 'a@example.com', 'gone')", "status"),
        ("INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'nobody')", "email"),
        ("INSERT INTO users (id, email, status) VALUES (gen_random_uuid(), 'a@example.com', 'deleted')", "users_check"),
        (
            "INSERT INTO products (id, sku, name, category, price) VALUES (gen_random_uuid(), 's', 'n', 'c', -1)",
            "price",
        ),
        (
            "INSERT INTO products (id, sku, name, category, price, currency)"
            " VALUES (gen_random_uuid(), 's', 'n', 'c', 1, 'eur')",
            "currency",
        ),
        ("INSERT INTO inventory VALUES (gen_random_uuid(), 1, 0, -1)", "reserved"),
        ("INSERT INTO inventory VALUES (gen_random_uuid(), 1, 1, 2)", "inventory_check"),
        ("INSERT INTO reviews (id, product_id, rating) VALUES (gen_random_uuid(), gen_random_uuid(), 6)", "rating"),
    ],
)
def test_nonsense_is_refused(private: Settings, names: CaptureNames, statement: str, constraint: str) -> None:
    migrate(private, NO_PASSWORD, names=names)
    with connect(private) as connection, pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        connection.execute(statement.encode())


def test_the_wrong_direction_and_unknown_revisions_are_refused(private: Settings, names: CaptureNames) -> None:
    migrate(private, NO_PASSWORD, names=names)
    with pytest.raises(BadInput, match="at revision 0003, past 0001"):
        migrate(private, NO_PASSWORD, "0001", names=names)
    with pytest.raises(BadInput, match="There are: base, 0001, 0002, 0003, head"):
        migrate(private, NO_PASSWORD, "0815", names=names)
    with pytest.raises(BadInput, match="--to base"):
        migrate(private, NO_PASSWORD, down=True, names=names)
    assert current(private) == "0003"


def test_a_database_is_created_once(private: Settings) -> None:
    with pytest.raises(ServerAway, match="shop migrate"):
        current(private)
    assert create_database(private)
    assert not create_database(private)
    assert current(private) is None
