"""The outbox leaves its lane: its rows become events, by a publication of their own, and may be removed once captured.

- `created_at`: when the event's transaction began; the cleaner goes by it.
- `aggregatetype` becomes part of a topic's name. One that Kafka refuses would stop the connector at that row for good, so it
  is refused here: letters, digits, `_` and `-`, at most 100. No dot: to Kafka `a.b` and `a_b` are one name.
- No deletes are published: the cleaner's are nobody's event. Updates are, for the heartbeat needs them; an outbox row is
  never updated, and a trigger says so to whoever tries.
- REPLICA IDENTITY is the key again: nobody reads old rows, and a removed row need not be written to the WAL in full.
"""

from __future__ import annotations

from alembic import context, op
from psycopg import sql

from shop.names import CaptureNames

revision: str = "0003"
down_revision: str | None = "0002"

HEARTBEAT = "downriver_heartbeat"

REFUSE_UPDATE = """
CREATE FUNCTION public.shop_refuse_outbox_update() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'feature_not_supported',
        MESSAGE = 'UPDATE of ' || TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME || ' is refused: an event that was sent can''t be'
                  ' changed, and the update would be sent to nobody',
        HINT = 'Insert another event.';
END $$;
"""

# Whoever followed `connectors preflight` by hand did these already.
NO_LONGER_A_LANE = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_publication_tables WHERE pubname = {name} AND tablename = 'outbox' AND schemaname = 'public') THEN
        ALTER PUBLICATION {publication} DROP TABLE public.outbox;
    END IF;
END $$;
"""


def names() -> CaptureNames:
    """Return the names that shop.migrate hands over."""
    found: CaptureNames = context.config.attributes["names"]
    return found


def publication(lane: str) -> str:
    """Return the name of the lane's publication as an SQL identifier."""
    return sql.Identifier(names().publication(lane)).as_string()


def literal(lane: str) -> str:
    """Return the name of the lane's publication as an SQL string."""
    return sql.Literal(names().publication(lane)).as_string()


def upgrade() -> None:
    """Publish the outbox's new rows apart from the accounts lane."""
    op.execute(NO_LONGER_A_LANE.format(publication=publication("accounts"), name=literal("accounts")))
    op.execute("ALTER TABLE public.outbox ADD created_at timestamptz NOT NULL DEFAULT now()")
    op.execute("ALTER TABLE public.outbox DROP CONSTRAINT outbox_aggregatetype_check")
    op.execute(
        "ALTER TABLE public.outbox ADD CONSTRAINT outbox_aggregatetype_check"
        " CHECK (aggregatetype ~ '^[A-Za-z0-9_-]{1,100}$')"
    )
    op.execute("ALTER TABLE public.outbox REPLICA IDENTITY DEFAULT")
    op.execute("CREATE INDEX outbox_created ON public.outbox (created_at)")
    op.execute(REFUSE_UPDATE)
    op.execute(
        "CREATE TRIGGER outbox_refuse_update BEFORE UPDATE ON public.outbox "
        "FOR EACH STATEMENT EXECUTE FUNCTION public.shop_refuse_outbox_update()"
    )
    op.execute(f"DROP PUBLICATION IF EXISTS {publication('events')}")
    op.execute(
        f"CREATE PUBLICATION {publication('events')} FOR TABLE public.outbox, "
        f"public.{HEARTBEAT} WHERE (lane = 'events') WITH (publish = 'insert, update')"
    )


def downgrade() -> None:
    """Put the outbox back into the accounts lane."""
    op.execute(f"DROP PUBLICATION {publication('events')}")
    op.execute("DROP TRIGGER outbox_refuse_update ON public.outbox")
    op.execute("DROP FUNCTION public.shop_refuse_outbox_update()")
    op.execute("DROP INDEX public.outbox_created")
    op.execute("ALTER TABLE public.outbox REPLICA IDENTITY FULL")
    op.execute("ALTER TABLE public.outbox DROP CONSTRAINT outbox_aggregatetype_check")
    op.execute(
        "ALTER TABLE public.outbox ADD CONSTRAINT outbox_aggregatetype_check CHECK (length(aggregatetype) <= 255)"
    )
    op.execute("ALTER TABLE public.outbox DROP COLUMN created_at")
    op.execute(f"ALTER PUBLICATION {publication('accounts')} ADD TABLE public.outbox")
