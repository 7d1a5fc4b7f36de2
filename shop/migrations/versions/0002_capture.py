"""What capture needs of the source: whole old rows, no TRUNCATE, a heartbeat, one publication a lane, one poor role.

Names of the role and the publications come from shop.migrate (`CaptureNames`). The role's password is set there too,
outside of any migration. Slots are Debezium's: it makes them when a connector first starts.
"""

from __future__ import annotations

from alembic import context, op
from psycopg import sql

from shop.names import CaptureNames

revision: str = "0002"
down_revision: str | None = "0001"

HEARTBEAT = "downriver_heartbeat"
LANES: dict[str, tuple[str, ...]] = {
    "inventory": ("inventory",),
    "catalog": ("products", "reviews"),
    "accounts": ("users", "addresses", "orders", "order_items", "payments", "outbox"),
}
"""As they were at this revision: shop.names says what they are now."""
TABLES = tuple(table for tables in LANES.values() for table in tables)
CAPTURED = (*TABLES, HEARTBEAT)

# A truncate carries no keys: on a compacted topic it can't be said which rows are gone, and it fails the connector.
REFUSE_TRUNCATE = """
CREATE FUNCTION public.shop_refuse_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'feature_not_supported',
        MESSAGE = 'TRUNCATE of ' || TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME || ' is refused: downstream stores would'
                  ' never learn which rows are gone',
        HINT = 'Use DELETE FROM ' || TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME || ', in batches if it is large.';
END $$;
"""


def names() -> CaptureNames:
    """Return the names that shop.migrate hands over."""
    found: CaptureNames = context.config.attributes["names"]
    return found


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return sql.Identifier(name).as_string()


def literal(value: str) -> str:
    """Return `value` as an SQL literal."""
    return sql.Literal(value).as_string().strip()


def create_role(role: str) -> None:
    """Create the role, or take the one that is there: roles belong to the cluster, not to this database."""
    op.execute(f"""
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(role)}) THEN
                CREATE ROLE {quoted(role)};
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- another database's migration was faster
        END $$""")
    op.execute(f"ALTER ROLE {quoted(role)} LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS")


def upgrade() -> None:
    """Make the source ready for the connectors."""
    op.execute(
        f"CREATE TABLE public.{HEARTBEAT} (lane text PRIMARY KEY, beat_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    op.execute(REFUSE_TRUNCATE)
    for table in CAPTURED:
        op.execute(f"ALTER TABLE public.{table} REPLICA IDENTITY FULL")
        op.execute(
            f"CREATE TRIGGER {table}_refuse_truncate BEFORE TRUNCATE ON public.{table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION public.shop_refuse_truncate()"
        )
    role = names().role
    create_role(role)
    listed = ", ".join(f"public.{table}" for table in CAPTURED)
    op.execute(f"GRANT USAGE ON SCHEMA public TO {quoted(role)}")
    op.execute(f"GRANT SELECT ON {listed} TO {quoted(role)}")
    op.execute(f"GRANT INSERT, UPDATE ON public.{HEARTBEAT} TO {quoted(role)}")
    for lane, tables in LANES.items():
        published = ", ".join(f"public.{table}" for table in tables)
        op.execute(
            f"CREATE PUBLICATION {quoted(names().publication(lane))} FOR TABLE {published}, "
            f"public.{HEARTBEAT} WHERE (lane = {literal(lane)}) WITH (publish = 'insert, update, delete')"
        )


def downgrade() -> None:
    """Undo it all. The role stays where another database still grants it something."""
    for lane in LANES:
        op.execute(f"DROP PUBLICATION {quoted(names().publication(lane))}")
    role = names().role
    listed = ", ".join(f"public.{table}" for table in CAPTURED)
    op.execute(f"REVOKE ALL ON {listed} FROM {quoted(role)}")
    op.execute(f"REVOKE ALL ON SCHEMA public FROM {quoted(role)}")
    op.execute(f"""
        DO $$ BEGIN
            DROP ROLE {quoted(role)};
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL;  -- the connectors of another database log in with it
        END $$""")
    for table in TABLES:
        op.execute(f"DROP TRIGGER {table}_refuse_truncate ON public.{table}")
        op.execute(f"ALTER TABLE public.{table} REPLICA IDENTITY DEFAULT")
    op.execute(f"DROP TABLE public.{HEARTBEAT}")
    op.execute("DROP FUNCTION public.shop_refuse_truncate()")
