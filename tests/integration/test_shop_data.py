"""Sample data and pages on a real PostgreSQL: what was made is what is there, and a page shows just that."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from downriver.exits import BadInput
from downriver.settings import Settings
from processors.sinks.cache.keys import fill as key_of
from shop.migrate import connect, create_database, migrate
from shop.names import TABLES, CaptureNames
from shop.pages import load
from shop.sample import edges
from shop.sample.fill import fill
from shop.sample.rows import COLUMNS, Plan, Sample

pytestmark = pytest.mark.stack
SIZE = 200


def drop(settings: Settings, role: str) -> None:
    with connect(settings, dbname="postgres") as connection:
        name = sql.Identifier(settings.postgres.database)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def private(settings: Settings) -> Settings:
    """Settings of a database that nobody has."""
    name = f"shop_test_{secrets.token_hex(4)}"
    return settings.model_copy(update={"postgres": settings.postgres.model_copy(update={"database": name})})


@pytest.fixture
def empty(settings: Settings) -> Iterator[Settings]:
    """A migrated shop without rows."""
    own, role = private(settings), f"test_{secrets.token_hex(4)}"
    migrate(own, SecretStr(""), names=CaptureNames(role=role))
    yield own
    drop(own, role)


@pytest.fixture(scope="module")
def shop(settings: Settings) -> Iterator[Settings]:
    """A shop with SIZE products, for tests that only read."""
    own, role = private(settings), f"test_{secrets.token_hex(4)}"
    migrate(own, SecretStr(""), names=CaptureNames(role=role))
    fill(own, Plan(SIZE, 1))
    yield own
    drop(own, role)


@pytest.fixture
async def connection(shop: Settings) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(shop.postgres.dsn(), autocommit=True) as made:
        yield made


def rows(settings: Settings, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with connect(settings) as made:
        return made.execute(query.encode(), parameters or None).fetchall()


@pytest.mark.parametrize("table", TABLES)
def test_the_rows_are_those_of_the_sample(shop: Settings, table: str) -> None:
    """Every value of every row: the sample's text, read as the column's type, is what the column holds."""
    columns = COLUMNS[table]
    with connect(shop) as made:
        made.execute(f"CREATE TEMPORARY TABLE expected AS SELECT {', '.join(columns)} FROM {table} LIMIT 0".encode())
        statement = "INSERT INTO expected VALUES (" + ", ".join("%s" for _ in columns) + ")"
        with psycopg.ClientCursor(made) as cursor:  # literals of no type yet: the column's type reads them, as in COPY
            cursor.executemany(statement.encode(), list(Sample(Plan(SIZE, 1)).rows(table)))
        listed = ", ".join(f"{column}::text" for column in columns)
        differing = made.execute(
            f"(SELECT {listed} FROM expected EXCEPT ALL SELECT {listed} FROM {table})"
            f" UNION ALL (SELECT {listed} FROM {table} EXCEPT ALL SELECT {listed} FROM expected)".encode()
        ).fetchall()
        assert differing == []
        assert made.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (Plan(SIZE, 1).counts()[table],)


def test_long_descriptions_are_stored_out_of_line_uncompressed(shop: Settings) -> None:
    found = rows(
        shop,
        "SELECT length(description), pg_column_compression(description), pg_column_toast_chunk_id(description) IS NOT NULL"
        " FROM products WHERE length(description) > 8000 ORDER BY 1",
    )
    assert len(found) == 2
    assert found[-1] == (100_000, None, True)
    assert found[0][1:] == (None, True)


def test_times_are_the_extremes(shop: Settings) -> None:
    assert rows(shop, "SELECT min(created_at) = %s, max(updated_at) = %s FROM products", edges.FIRST, edges.LAST) == [
        (True, True)
    ]


@pytest.mark.parametrize("size", [0, 1])
def test_the_smallest_shops(empty: Settings, size: int) -> None:
    filled = fill(empty, Plan(size, 1))
    assert filled.rows == dict.fromkeys(TABLES, size)
    assert [rows(empty, f"SELECT count(*) FROM {table}") for table in TABLES] == [[(size,)]] * len(TABLES)


def test_far_times_are_stored(empty: Settings) -> None:
    fill(empty, Plan(100, 1, far_times=True))
    assert rows(empty, "SELECT count(*) FROM users WHERE purge_after = 'infinity' AND created_at < '0001-01-01'") == [
        (1,)
    ]


def test_progress_tells_every_table_to_its_end(empty: Settings) -> None:
    told: dict[str, tuple[int, int]] = {}
    fill(empty, Plan(100, 1), progress=lambda table, done, total: told.__setitem__(table, (done, total)))
    assert told == {table: (count, count) for table, count in Plan(100, 1).counts().items()}


def test_a_filled_shop_is_filled_again_only_on_demand(empty: Settings) -> None:
    fill(empty, Plan(100, 1))
    before = rows(empty, "SELECT count(*), sum(price) FROM products")
    with pytest.raises(BadInput, match=r"not empty.*--append"):
        fill(empty, Plan(100, 2))
    with pytest.raises(BadInput, match="seed 1 before"):
        fill(empty, Plan(100, 1), append=True)
    assert rows(empty, "SELECT count(*), sum(price) FROM products") == before
    fill(empty, Plan(100, 2), append=True)
    assert rows(empty, "SELECT count(*) FROM products") == [(200,)]


def test_a_failure_half_way_adds_nothing(empty: Settings) -> None:
    def fail(table: str, done: int, _: int) -> None:
        if table == "reviews" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(empty, Plan(100, 1), progress=fail)
    assert rows(empty, "SELECT count(*) FROM users") == [(0,)]


def test_a_database_without_a_shop_is_named(settings: Settings) -> None:
    own = private(settings)
    create_database(own)
    try:
        with pytest.raises(BadInput, match=rf"{own.postgres.database}.*shop migrate"):
            fill(own, Plan(1, 1))
    finally:
        drop(own, "nobody_in_particular")


async def test_a_product_page_adds_up(connection: psycopg.AsyncConnection[Any]) -> None:
    cursor = await connection.execute("SELECT id, sku, price, description, tags FROM products ORDER BY id")
    for identity, sku, price, description, tags in await cursor.fetchall():
        stock = await (
            await connection.execute("SELECT quantity, reserved FROM inventory WHERE product_id = %s", [identity])
        ).fetchall()
        ratings = await (
            await connection.execute(
                "SELECT rating FROM reviews WHERE product_id = %s AND status = 'approved'", [identity]
            )
        ).fetchall()
        page = json.loads(await load(key_of("product:{id}", id=identity), connection) or b"")
        assert (page["sku"], page["description"], page["tags"]) == (sku, description, tags)
        assert page["price"] == str(price)
        assert page["stock"] == sum(quantity - reserved for quantity, reserved in stock)
        assert page["rating"]["count"] == len(ratings)
        if ratings:
            average = Decimal(sum(rating for (rating,) in ratings)) / len(ratings)
            assert abs(Decimal(page["rating"]["average"]) - average) <= Decimal("0.005")
        else:
            assert page["rating"]["average"] is None


async def test_every_user_is_found_by_id_and_by_email(connection: psycopg.AsyncConnection[Any]) -> None:
    cursor = await connection.execute("SELECT id, email, password_hash FROM users")
    for identity, email, secret in await cursor.fetchall():
        page = await load(key_of("user:{id}", id=identity), connection)
        assert page == await load(key_of("user:email:{email}", email=email), connection)
        assert page is not None
        assert json.loads(page)["email"] == email
        assert secret is None or secret.encode() not in page


async def test_pages_of_users_are_all_of_them_once(connection: psycopg.AsyncConnection[Any]) -> None:
    listed: list[str] = []
    for number in range(1, 1_000):
        page = json.loads(await load(f"users:active:page:{number}", connection) or b"[]")
        if not page:
            break
        listed += [user["id"] for user in page]
    cursor = await connection.execute("SELECT id::text FROM users WHERE status = 'active'")
    assert sorted(listed) == sorted(identity for (identity,) in await cursor.fetchall())


async def test_pages_of_a_category_are_all_of_it_once(connection: psycopg.AsyncConnection[Any]) -> None:
    cursor = await connection.execute("SELECT category, id::text FROM products WHERE status = 'active'")
    expected: dict[str, list[str]] = {}
    for category, identity in await cursor.fetchall():
        expected.setdefault(category, []).append(identity)
    for category, identities in expected.items():
        listed: list[str] = []
        number = 0
        while page := json.loads(
            await load(
                key_of("products:category:{category}:page:{n}", category=category, n=(number := number + 1)), connection
            )
            or b"[]"
        ):
            listed += [product["id"] for product in page]
        assert sorted(listed) == sorted(identities), category


async def test_an_order_has_its_items_and_payments(connection: psycopg.AsyncConnection[Any]) -> None:
    cursor = await connection.execute(
        "SELECT o.id, o.user_id, o.total::text, array_agg(i.product_id::text ORDER BY i.product_id) FROM orders AS o"
        " JOIN order_items AS i ON i.order_id = o.id GROUP BY o.id"
    )
    for identity, user, total, products in await cursor.fetchall():
        page = json.loads(await load(key_of("order:{id}", id=identity), connection) or b"")
        assert (page["total"], page["user_id"]) == (total, str(user))
        assert [item["product_id"] for item in page["items"]] == products
        assert len(page["payments"]) == 1
        assert "provider_ref" not in page["payments"][0]
        listed = json.loads(await load(key_of("user:{id}:orders", id=user), connection) or b"")
        assert identity.hex in [order["id"].replace("-", "") for order in listed]


async def test_the_bytes_do_not_depend_on_the_session(shop: Settings, connection: psycopg.AsyncConnection[Any]) -> None:
    cursor = await connection.execute(
        "SELECT id FROM users UNION ALL SELECT id FROM orders UNION ALL SELECT id FROM products"
    )
    identities = [identity for (identity,) in await cursor.fetchall()]
    options = "-c TimeZone=Asia/Kathmandu -c DateStyle=German -c IntervalStyle=sql_standard"
    async with await psycopg.AsyncConnection.connect(shop.postgres.dsn(options=options), autocommit=True) as other:
        for identity in identities:
            for pattern in ("user:{id}", "order:{id}", "product:{id}", "user:{id}:orders"):
                key = key_of(pattern, id=identity)
                assert await load(key, connection) == await load(key, other), key


async def test_what_is_not_there_has_no_page(connection: psycopg.AsyncConnection[Any]) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    for pattern in ("user:{id}", "product:{id}", "order:{id}"):
        assert await load(key_of(pattern, id=nobody), connection) is None
    assert await load(key_of("inventory:{product_id}", product_id=nobody), connection) is None
    assert await load(key_of("user:email:{email}", email="nobody@example.com"), connection) is None
    assert await load(key_of("user:{id}:orders", id=nobody), connection) == b"[]"


def test_the_size_of_a_batch_makes_no_difference(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shop.sample.fill.BATCH", 7)
    fill(empty, Plan(20, 3))
    expected = sorted((row[1], row[2]) for row in Sample(Plan(20, 3)).rows("products"))
    assert sorted(rows(empty, "SELECT sku, name FROM products")) == expected
    assert rows(empty, "SELECT count(*) FROM reviews") == [(60,)]
