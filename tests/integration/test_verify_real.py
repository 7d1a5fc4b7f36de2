"""Verification on real servers: a filled shop, sinks filled from it through their own write path, then damaged one by one."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import clickhouse_connect
import httpx2
import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from pydantic import SecretStr
from redis.asyncio import Redis

from downriver.exits import BadInput, DownriverError, ServerAway
from downriver.settings import Settings
from processors.change import Op
from processors.decode import Decoder
from processors.sinks.analytics.sink import AnalyticsSink
from processors.sinks.base import RawRoute, Route, SinkUnavailable
from processors.sinks.cache.keys import fill as cache_key
from processors.sinks.cache.reader import Cache, Read
from processors.sinks.search.sink import SearchSink
from processors.tables import TABLES
from processors.verify.compare import compare
from processors.verify.model import ROW, Comparison
from processors.verify.source import connected, select, stream
from shop import pages
from shop.migrate import connect, migrate
from shop.names import CaptureNames
from shop.sample.fill import fill
from shop.sample.rows import Plan
from tests.support.avro import Capture, Registry, table

REDIS_DATABASE = 13


class RealRegistry(Registry):
    """Registers the builders' schemas where ClickHouse looks for them."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._ids: dict[str, int] = {}
        self._by_id: dict[int, Mapping[str, Any]] = {}
        self._subjects: set[str] = set()

    def register(self, schema: Mapping[str, Any]) -> int:
        text = json.dumps(schema)
        if text not in self._ids:
            subject = f"{schema['namespace']}-{schema['name']}"
            answer = httpx2.post(f"{self._url}/subjects/{subject}/versions", json={"schema": text}, timeout=30)
            self._ids[text] = int(answer.raise_for_status().json()["id"])
            self._by_id[self._ids[text]] = schema
            self._subjects.add(subject)
        return self._ids[text]

    def schema(self, schema_id: int) -> Mapping[str, Any]:
        return self._by_id[schema_id]

    def clean(self) -> None:
        """Delete what was registered."""
        for subject in self._subjects:
            httpx2.delete(f"{self._url}/subjects/{subject}", timeout=30).raise_for_status()


@dataclass(frozen=True, slots=True)
class Shop:
    """A filled shop with sinks of its own that hold the same."""

    settings: Settings
    capture: Capture
    decoder: Decoder
    search: SearchSink
    analytics: AnalyticsSink

    async def deliver(self, name: str, op: Op, row: Mapping[str, Any], lsn: int) -> None:
        """Write one change of a row into search and analytics, as the engine would."""
        await self.deliver_all(name, op, [row], lsn)

    async def deliver_all(self, name: str, op: Op, rows: Sequence[Mapping[str, Any]], lsn: int) -> None:
        """Write one change each of many rows."""
        commands: dict[str, list[Any]] = {"search": [], "analytics": []}
        for row in rows:
            before, after = (row, None) if op is Op.DELETE else (None, row)
            snapshot = "true" if op is Op.READ else "false"
            record = self.capture.record(name, op.value, before=before, after=after, lsn=lsn, snapshot=snapshot)
            checked = self.decoder.check(record)
            assert checked is not None
            for sink, wanted in commands.items():
                match table(name).route(sink):
                    case RawRoute() as raw:
                        wanted.extend(raw.raw(checked))
                    case Route() as route:
                        wanted.extend(route.commands(self.decoder.change(checked, self.decoder.stamp(checked))))
        assert {str(verdict.outcome) for verdict in await self.analytics.write(commands["analytics"])} == {"applied"}
        if commands["search"]:
            assert {str(verdict.outcome) for verdict in await self.search.write(commands["search"])} <= {
                "applied",
                "stale",
            }
            await self.search.shown()

    def run(self, statement: str, *arguments: object) -> None:
        """Change the source."""
        with connect(self.settings) as connection:
            connection.execute(statement, arguments)

    def row(self, name: str, where: str = "true") -> dict[str, Any]:
        """Return the first row of a table, by key, as a connector would send it."""
        described = table(name)
        columns = [column for column in described.columns if column not in described.excluded]
        query = (
            f"SELECT {', '.join(columns)} FROM {described.id} WHERE {where} ORDER BY {', '.join(described.key)} LIMIT 1"
        )
        with connect(self.settings) as connection:
            found = connection.execute(query).fetchone()
        assert found is not None
        texts = (str(value) if isinstance(value, uuid.UUID) else value for value in found)
        return dict(zip(columns, texts, strict=True))

    def clickhouse(self, statement: str) -> None:
        """Damage the analytics store."""
        settings = self.settings.clickhouse
        client = clickhouse_connect.get_client(host=settings.host, port=settings.port, database=settings.database)
        client.command(statement)
        client.close()

    async def compared(self, *sinks: str, settle_s: float = 0.0) -> Comparison:
        """Compare, with short graces."""
        return await compare(self.settings, sinks, pages=pages, settle_s=settle_s, grace_s=0.1)


def own_settings(settings: Settings) -> Settings:
    """Return settings that name a database, prefix and so on that nobody else uses."""
    mark = uuid.uuid4().hex[:8]
    redis_url = settings.redis.url.rpartition("/")[0] + f"/{REDIS_DATABASE}"
    return settings.model_copy(
        update={
            "source": f"v{mark}",
            "postgres": settings.postgres.model_copy(update={"database": f"verify_{mark}"}),
            "clickhouse": settings.clickhouse.model_copy(update={"database": f"verify_{mark}"}),
            "elasticsearch": settings.elasticsearch.model_copy(update={"prefix": f"verify-{mark}-"}),
            "redis": settings.redis.model_copy(update={"url": redis_url}),
        }
    )


async def filled(shop: Shop) -> None:
    """Fill the shop, and the sinks from it."""
    settings = shop.settings
    names = CaptureNames(role=f"capture_{settings.source}", publication_prefix=settings.source)
    await asyncio.to_thread(migrate, settings, SecretStr(""), names=names)
    await asyncio.to_thread(fill, settings, Plan(size=100, seed=7, far_times=True))
    async with connected(settings.postgres) as connection:
        for each in TABLES:
            captured = replace(each, columns={n: c for n, c in each.columns.items() if n not in each.excluded})
            with_all = replace(captured, columns=dict.fromkeys(captured.columns, next(iter(each.columns.values()))))
            types = ["uuid"] * len(each.key)
            await connection.execute("BEGIN")
            rows = [dict(row) async for row in stream(connection, "sample", select(with_all, types))]
            await connection.execute("ROLLBACK")
            await shop.deliver_all(each.id.name, Op.READ, rows, 8)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(settings: Settings) -> AsyncIterator[Shop]:
    own = own_settings(settings)
    registry = RealRegistry(own.registry.url)
    capture = Capture(source=own.source, registry=registry)
    decoder = Decoder(own.source, own.epoch, TABLES, registry, 1 << 24)
    made = Shop(own, capture, decoder, SearchSink(own), AnalyticsSink(own))
    try:
        await made.search.open()
        await made.analytics.open()
        await filled(made)
        yield made
    finally:
        await made.search.close()
        await made.analytics.close()
        await clean(own, registry)


async def clean(own: Settings, registry: RealRegistry) -> None:
    """Remove everything that the fixture made."""
    registry.clean()
    for index in ("products-v1", "reviews-v1"):
        httpx2.delete(f"{own.elasticsearch.url}/{own.elasticsearch.prefix}{index}", timeout=30)
    client = clickhouse_connect.get_client(host=own.clickhouse.host, port=own.clickhouse.port)
    client.command(f"DROP DATABASE IF EXISTS {own.clickhouse.database}")
    client.close()
    redis = Redis.from_url(own.redis.url)
    await redis.flushdb()
    await redis.aclose()
    with psycopg.connect(own.postgres.dsn(dbname="postgres"), autocommit=True) as connection:
        name = sql.Identifier(own.postgres.database)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(f"capture_{own.source}")))


pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


async def test_sinks_that_were_filled_from_the_shop_equal_it_edge_cases_included(shop: Shop) -> None:
    result = await shop.compared("search", "analytics")
    assert result.differences == []
    assert result.equal == {"search": True, "analytics": True}
    assert result.moving == {"search": 0, "analytics": 0}
    with connect(shop.settings) as connection:
        counts = {}
        for each in TABLES:
            row = connection.execute(f"SELECT count(*) FROM {each.id}").fetchone()
            assert row is not None
            counts[each.id.name] = row[0]
    assert result.compared == {"search": counts["products"] + counts["reviews"], "analytics": sum(counts.values())}
    assert counts["products"] >= 100


async def test_a_change_that_did_not_arrive_is_named_field_by_field_and_gone_once_it_arrives(shop: Shop) -> None:
    before = shop.row("products")
    shop.run("UPDATE products SET price = price + 1, name = 'renamed' WHERE id = %s", before["id"])
    result = await shop.compared("search", "analytics")
    assert result.equal == {"search": False, "analytics": False}
    assert result.differing == {"search": 1, "analytics": 1}
    named = {(each.sink, each.table, each.key, each.field) for each in result.differences}
    fields = ("name", "price", "updated_at")
    assert named == {(sink, "products", before["id"], field) for sink in ("search", "analytics") for field in fields}
    price = next(each for each in result.differences if (each.sink, each.field) == ("search", "price"))
    assert (price.source, price.shown) == (str(before["price"] + 1), str(before["price"]))
    await shop.deliver("products", Op.UPDATE, shop.row("products"), 1_000)
    assert (await shop.compared("search", "analytics")).ok


async def test_what_arrives_while_it_settles_is_no_difference(shop: Shop) -> None:
    row = shop.row("inventory", "quantity < 1000000")
    place = f"product_id = '{row['product_id']}' AND warehouse_id = {row['warehouse_id']}"
    shop.run(f"UPDATE inventory SET quantity = quantity + 1 WHERE {place}")
    looked = asyncio.Event()

    def progress(what: str) -> None:
        if what == "what differed, again":
            looked.set()

    comparing = asyncio.create_task(
        compare(shop.settings, ("search", "analytics"), settle_s=60, grace_s=0.1, on_progress=progress)
    )
    await looked.wait()  # everything was looked at once, and differed
    await shop.deliver("inventory", Op.UPDATE, shop.row("inventory", place), 2_000)
    assert (await comparing).ok


async def test_rows_on_one_side_only_are_found(shop: Shop) -> None:
    product = shop.row("products")["id"]
    gone = shop.row("reviews", "status = 'approved'")
    shop.run("DELETE FROM reviews WHERE id = %s", gone["id"])
    shop.run(
        "INSERT INTO payments (id, order_id, method, amount) SELECT %s, id, 'card', 1 FROM orders LIMIT 1",
        str(uuid.UUID(int=1)),
    )
    result = await shop.compared("search", "analytics")
    whole = {
        (each.sink, each.table, each.key, each.source, each.shown) for each in result.differences if each.field == ROW
    }
    assert whole == {
        ("search", "reviews", f"{gone['product_id']}:{gone['id']}", "absent", "present"),
        ("analytics", "reviews", f"{gone['product_id']}:{gone['id']}", "absent", "present"),
        ("analytics", "payments", str(uuid.UUID(int=1)), "present", "absent"),
    }
    rating = {each.field for each in result.differences if (each.sink, each.table) == ("search", "products")}
    assert "rating_count" in rating
    assert product
    await shop.deliver("reviews", Op.DELETE, gone, 3_000)
    await shop.deliver("payments", Op.CREATE, shop.row("payments", f"id = '{uuid.UUID(int=1)}'"), 3_000)
    assert (await shop.compared("search", "analytics")).ok


def another(value: Any) -> Any:
    """Return a value that differs as little as its type allows."""
    match value:
        case bool():
            return not value
        case str():
            return value + "x"
        case datetime():
            return value.replace(microsecond=(value.microsecond + 1) % 1_000_000)
        case dict():
            return value | {"x": 1}
        case _:
            return value - 1


@pytest.mark.parametrize("each", TABLES, ids=lambda each: each.id.name)
async def test_one_damaged_row_of_any_table_is_found_in_the_analytics_store(shop: Shop, each: Any) -> None:
    row = shop.row(each.id.name)
    column = next(
        name
        for name in reversed(each.shared)
        if name not in each.key and row[name] is not None and not isinstance(row[name], list)
    )
    damaged = another(row[column])
    await shop.deliver(each.id.name, Op.UPDATE, row | {column: damaged}, 4_000)
    result = await shop.compared("analytics")
    key = ":".join(str(row[name]) for name in each.key)
    assert [(found.table, found.key, found.field) for found in result.differences] == [(each.id.name, key, column)]
    await shop.deliver(each.id.name, Op.UPDATE, row, 5_000)
    assert (await shop.compared("analytics")).ok


async def test_a_cache_entry_that_a_reader_would_be_given_must_be_true(shop: Shop) -> None:
    redis = Redis.from_url(shop.settings.redis.url)
    cache = Cache(redis)
    outcomes: list[Read] = []
    user, product = shop.row("users"), shop.row("products", "status = 'active'")
    async with await psycopg.AsyncConnection.connect(shop.settings.postgres.dsn(), autocommit=True) as connection:

        async def read(key: str) -> None:
            await cache.get_or_load(
                key,
                lambda name: pages.load(name, connection),
                600,
                tags=pages.parse(key).tags,
                on_outcome=outcomes.append,
            )

        keys = [f"user:{user['id']}", f"product:{product['id']}", "users:active:page:1", f"order:{uuid.UUID(int=9)}"]
        keys.append(cache_key("user:email:{email}", email=user["email"]))
        keys.append(cache_key("products:category:{category}:page:{n}", category=product["category"], n=1))
        for key in keys:
            await read(key)
        assert outcomes == [Read.STORED] * len(keys)
        await redis.set("somebody:else", b"x")
        await redis.set("user:7", b"not ours")
        result = await shop.compared("cache")
        assert (result.equal, result.compared, result.differences) == ({"cache": True}, {"cache": len(keys)}, [])

        shop.run("UPDATE users SET name = 'Another' WHERE id = %s", user["id"])
        result = await shop.compared("cache")
        assert not result.ok
        found = {(each.key, each.field) for each in result.differences}
        assert {(f"user:{user['id']}", "name"), ("user:email:***", "name")} <= found
        told = " ".join(f"{each.key} {each.source} {each.shown}" for each in result.differences)
        assert "Another" not in told
        assert user["email"] not in told

        # an invalidated page is no entry that a reader would be given, and what is gone is no difference
        await redis.delete(f"user:{user['id']}", keys[4], "tag:{users:active}")
        assert (await shop.compared("cache")).ok
    await redis.aclose()


async def test_servers_that_are_away_and_stores_that_lack_something_are_named(shop: Shop) -> None:
    own = shop.settings
    away: dict[str, tuple[type[DownriverError], Settings]] = {
        "PostgreSQL at 127.0.0.1:1": (ServerAway, changed(own, "postgres", port=1)),
        "ClickHouse at 127.0.0.1:1": (SinkUnavailable, changed(own, "clickhouse", port=1)),
        "Elasticsearch at http://127.0.0.1:1": (
            SinkUnavailable,
            changed(own, "elasticsearch", url="http://127.0.0.1:1"),
        ),
        "Redis at 127.0.0.1:1": (SinkUnavailable, changed(own, "redis", url="redis://127.0.0.1:1/0")),
        "there is no alias nobody-products": (DownriverError, changed(own, "elasticsearch", prefix="nobody-")),
        "has no public": (BadInput, changed(own, "postgres", database="postgres")),
    }
    for named, (kind, settings) in away.items():
        with pytest.raises(kind, match=named):
            await compare(settings, pages=pages, settle_s=0, grace_s=0)
    with pytest.raises(DownriverError, match="nowhere"):
        await compare(changed(own, "clickhouse", database="nowhere"), ["analytics"], settle_s=0, grace_s=0)
    with pytest.raises(BadInput, match="no sink paper"):
        await compare(own, ["paper"])
    with pytest.raises(BadInput, match="give `pages`"):
        await compare(own, ["cache"])


def changed(settings: Settings, group: str, **values: Any) -> Settings:
    """Return settings with a group's values replaced."""
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update=values)})
