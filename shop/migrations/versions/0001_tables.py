"""The nine tables of the shop, as docs and domain rules name them: keys, checks, foreign keys, indexes, updated_at.

Foreign keys have no ON DELETE or ON UPDATE action: whoever deletes a row deletes what hangs on it in so many words, so
that a transaction can say exactly which rows it changed. They are deferrable, for a change of a referenced key.
"""

from __future__ import annotations

from alembic import op

revision: str = "0001"
down_revision: str | None = None

TABLES = """
CREATE TABLE public.users (
    id            uuid PRIMARY KEY,
    email         text NOT NULL UNIQUE CHECK (length(email) BETWEEN 3 AND 320 AND position('@' IN email) > 1),
    name          text CHECK (length(name) <= 500),
    phone         text CHECK (length(phone) <= 50),
    password_hash text CHECK (length(password_hash) <= 255),
    status        text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'inactive', 'suspended', 'deleted')),
    date_of_birth date,
    country       text CHECK (country ~ '^[A-Z]{2}$'),
    metadata      jsonb,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    deleted_at    timestamptz,
    purge_after   timestamptz,
    CHECK ((status = 'deleted') = (deleted_at IS NOT NULL))
);
CREATE INDEX users_active ON public.users (created_at, id) WHERE status = 'active';
CREATE INDEX users_purge_after ON public.users (purge_after) WHERE purge_after IS NOT NULL;

CREATE TABLE public.addresses (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES public.users DEFERRABLE,
    kind       text NOT NULL CHECK (kind IN ('home', 'work', 'other')),
    street     text,
    city       text,
    zip        text,
    country    text CHECK (country ~ '^[A-Z]{2}$'),
    is_default boolean NOT NULL DEFAULT false
);
CREATE INDEX addresses_user ON public.addresses (user_id);
CREATE UNIQUE INDEX addresses_one_default ON public.addresses (user_id) WHERE is_default;

CREATE TABLE public.products (
    id          uuid PRIMARY KEY,
    sku         text NOT NULL UNIQUE CHECK (length(sku) BETWEEN 1 AND 64),
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 500),
    description text,
    category    text NOT NULL CHECK (length(category) BETWEEN 1 AND 200),
    tags        text[],
    attributes  jsonb,
    price       numeric(10,2) NOT NULL CHECK (price >= 0),
    currency    text NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('draft', 'active', 'discontinued')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX products_category ON public.products (category, created_at, id);

CREATE TABLE public.inventory (
    product_id   uuid NOT NULL REFERENCES public.products DEFERRABLE,
    warehouse_id integer NOT NULL CHECK (warehouse_id > 0),
    quantity     integer NOT NULL CHECK (quantity >= 0),
    reserved     integer NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_id, warehouse_id),
    CHECK (reserved <= quantity)
);

CREATE TABLE public.reviews (
    id         uuid PRIMARY KEY,
    product_id uuid NOT NULL REFERENCES public.products DEFERRABLE,
    user_id    uuid REFERENCES public.users DEFERRABLE,
    rating     smallint NOT NULL CHECK (rating BETWEEN 1 AND 5),
    title      text,
    body       text,
    status     text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'rejected')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX reviews_product ON public.reviews (product_id, status);
CREATE INDEX reviews_user ON public.reviews (user_id);

CREATE TABLE public.orders (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES public.users DEFERRABLE,
    status     text NOT NULL DEFAULT 'pending'
               CHECK (status IN ('pending', 'processing', 'shipped', 'delivered', 'cancelled')),
    total      numeric(10,2) NOT NULL CHECK (total >= 0),
    currency   text NOT NULL DEFAULT 'EUR' CHECK (currency ~ '^[A-Z]{3}$'),
    ordered_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_user ON public.orders (user_id, ordered_at);

CREATE TABLE public.order_items (
    order_id   uuid NOT NULL REFERENCES public.orders DEFERRABLE,
    product_id uuid NOT NULL REFERENCES public.products DEFERRABLE,
    quantity   integer NOT NULL CHECK (quantity > 0),
    unit_price numeric(10,2) NOT NULL CHECK (unit_price >= 0),
    PRIMARY KEY (order_id, product_id)
);
CREATE INDEX order_items_product ON public.order_items (product_id);

CREATE TABLE public.payments (
    id           uuid PRIMARY KEY,
    order_id     uuid NOT NULL REFERENCES public.orders DEFERRABLE,
    method       text NOT NULL CHECK (method IN ('card', 'paypal', 'bank_transfer', 'gift_card')),
    amount       numeric(10,2) NOT NULL CHECK (amount >= 0),
    status       text NOT NULL DEFAULT 'pending'
                 CHECK (status IN ('pending', 'authorized', 'captured', 'refunded', 'failed')),
    provider_ref text,
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX payments_order ON public.payments (order_id);

CREATE TABLE public.outbox (
    id             uuid PRIMARY KEY,
    aggregatetype  text NOT NULL CHECK (length(aggregatetype) <= 255),
    aggregateid    text NOT NULL CHECK (length(aggregateid) <= 255),
    type           text NOT NULL CHECK (length(type) <= 255),
    payload        jsonb,
    correlation_id text,
    causation_id   text,
    user_id        uuid
);
"""

TOUCHED = ("users", "products", "inventory", "reviews", "orders")
"""The tables with an updated_at."""

# An ordinary trigger (ENABLE ORIGIN) does not fire under session_replication_role = replica: a repair re-reads rows by
# no-op updates in such a session, and must not change what it repairs.
TOUCH = """
CREATE FUNCTION public.shop_touch() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END $$;
"""


def upgrade() -> None:
    """Create everything."""
    op.execute(TABLES)
    op.execute(TOUCH)
    for table in TOUCHED:
        op.execute(
            f"CREATE TRIGGER {table}_touch BEFORE UPDATE ON public.{table} "
            "FOR EACH ROW EXECUTE FUNCTION public.shop_touch()"
        )


def downgrade() -> None:
    """Drop everything, children first; indexes and triggers go with their tables."""
    op.execute(
        "DROP TABLE public.outbox, public.payments, public.order_items, public.orders, public.reviews,"
        " public.inventory, public.products, public.addresses, public.users"
    )
    op.execute("DROP FUNCTION public.shop_touch()")
