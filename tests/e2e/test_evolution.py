"""Migrations under load on the real pipeline: what the gate says of each is what then happens in every sink.

One pipeline for the module, its workers running through all of it; tests build on each other's table, in order. Rows are
changed by the workload meanwhile, and compared with every sink afterwards.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
import psycopg
import pytest
import pytest_asyncio

from connectors.connect import ConnectClient
from downriver.settings import Settings
from tests.support.pipeline import Pipeline, environment, filled_pipeline, until
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    stack: RunningStack, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pipeline]:
    async with filled_pipeline(stack, settings, tmp_path_factory.mktemp("logs")) as made:
        yield made


@dataclass(frozen=True)
class Judged:
    """What `downriver schemas gate` said, and its exit code."""

    code: int
    verdict: str
    tables: list[dict[str, Any]]


def downriver(pipeline: Pipeline, *arguments: str) -> tuple[int, Any]:
    """Run the command as a user would, on this pipeline."""
    done = subprocess.run(
        [sys.executable, "-m", "downriver.cli", *arguments, "-o", "json"],
        env=os.environ | environment(pipeline.settings),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in {0, 1, 2}, done.stderr.decode()
    return done.returncode, orjson.loads(done.stdout) if done.stdout.strip() else done.stderr.decode()


async def judged(pipeline: Pipeline, folder: Path, migration: str) -> Judged:
    path = folder / "migration.sql"
    path.write_text(migration)
    code, said = await asyncio.to_thread(downriver, pipeline, "schemas", "gate", str(path))
    return Judged(code, said["verdict"], said["tables"])


async def migrate(pipeline: Pipeline, migration: str) -> None:
    """Run it as a deployment does: one transaction, which waits for the workload's locks and no longer than needed."""
    async with await psycopg.AsyncConnection.connect(pipeline.settings.postgres.dsn()) as connection:
        await connection.execute(migration.encode())


async def product(pipeline: Pipeline, columns: str = "", values: str = "") -> UUID:
    """Add a product with these columns; return its id."""
    key = uuid4()
    await pipeline.execute(
        f"INSERT INTO products (id, sku, name, category, price{columns}) VALUES ('{key}', '{key}', 'n', 'c', 1.5{values})"
    )
    return key


def in_clickhouse(pipeline: Pipeline, key: UUID, column: str, table: str = "products") -> Any:
    found = pipeline.analytics(f"SELECT {column} FROM {table} WHERE id = '{key}'")
    return found[0][0] if found else "absent"


def in_search(pipeline: Pipeline, key: UUID, field: str) -> Any:
    document = pipeline.document("products", str(key))
    return "absent" if document is None else document.get(field)


def stopped(pipeline: Pipeline) -> dict[str, str]:
    """Return what waits for a decision, column → what happened."""
    code, listed = downriver(pipeline, "schemas", "accept")
    mine = [each for each in listed if each["subject"].startswith(f"{pipeline.settings.source}_")]
    assert code == (2 if listed else 0)
    return {each["column"]: each["problem"] for each in mine}


async def waits(pipeline: Pipeline, column: str) -> None:
    """Wait until a worker stopped at the column."""

    async def told() -> bool:
        return column in await asyncio.to_thread(stopped, pipeline)

    await until(told, f"a worker stops at {column}", poll_s=0.5)


async def accept(pipeline: Pipeline, column: str) -> None:
    subject = f"{pipeline.settings.source}_catalog.public.products-value"
    code, said = await asyncio.to_thread(downriver, pipeline, "schemas", "accept", subject, "--column", column)
    assert code == 0, said


def workers(pipeline: Pipeline) -> dict[str, int | None]:
    return {sink: pipeline.pid(sink) for sink in ("cache", "search", "analytics")}


async def nothing_is_lost(pipeline: Pipeline, pids: dict[str, int | None]) -> None:
    """Everything arrived, is equal by value, nothing was dead-lettered, and no worker was started again."""
    await pipeline.arrived()
    compared = await pipeline.compared("search", "analytics")
    assert compared.differences == []
    assert (await pipeline.status()).dead_letters == dict.fromkeys(("cache", "search", "analytics"), 0)
    assert workers(pipeline) == pids


async def test_an_additive_migration_is_followed_by_the_running_workers(running: Pipeline, tmp_path: Path) -> None:
    migration = "ALTER TABLE products ADD COLUMN brand text, ADD COLUMN weight numeric(8,3);"
    said = await judged(running, tmp_path, migration)
    assert (said.code, said.verdict) == (0, "followed")
    assert said.tables[0]["sinks"] == {
        "cache": ["nothing"],
        "search": [f"{name} is a new field with a mapping of its own" for name in ("brand", "weight")],
        "analytics": [f"{name} is a new column" for name in ("brand", "weight")],
    }
    pids = workers(running)
    async with running.changing(rate=40):
        await migrate(running, migration)
        key = await product(running, ", brand, weight", ", 'acme', 1.250")
        await running.execute("UPDATE products SET brand = 'old ' || left(sku, 5), weight = 2 WHERE brand IS NULL")
        await running.arrived()
    assert (in_clickhouse(running, key, "brand"), in_clickhouse(running, key, "weight")) == ("acme", Decimal("1.250"))
    assert (in_search(running, key, "brand"), in_search(running, key, "weight")) == ("acme", "1.250")
    elastic = running.settings.elasticsearch
    mapping = httpx2.get(f"{elastic.url}/{elastic.prefix}products-v1/_mapping").json()[f"{elastic.prefix}products-v1"]
    fields = mapping["mappings"]["properties"]
    assert (fields["brand"]["type"], fields["weight"]["type"]) == ("keyword", "double")
    await nothing_is_lost(running, pids)


async def test_types_widen_and_null_comes_and_goes(running: Pipeline, tmp_path: Path) -> None:
    migration = (
        "ALTER TABLE products ALTER price TYPE numeric(14,2), ALTER currency DROP NOT NULL,"
        " ALTER currency DROP DEFAULT;"
        "ALTER TABLE inventory ALTER quantity TYPE bigint;"
    )
    said = await judged(running, tmp_path, migration)
    assert (said.code, said.verdict) == (0, "followed")
    pids = workers(running)
    async with running.changing(rate=40):
        await migrate(running, migration)
        key = await product(running, ", currency", ", 'EUR'")
        await running.execute(f"UPDATE products SET price = 123456789012.34, currency = NULL WHERE id = '{key}'")
        await running.execute(
            f"INSERT INTO inventory (product_id, warehouse_id, quantity) VALUES ('{key}', 1, {2**40})"
        )
        await running.arrived()
    assert in_clickhouse(running, key, "price") == Decimal("123456789012.34")
    assert in_clickhouse(running, key, "currency") is None
    assert running.analytics(f"SELECT quantity FROM inventory WHERE product_id = '{key}'") == [(2**40,)]
    await nothing_is_lost(running, pids)
    # and the way back, after a backfill: what comes fits what is there
    back = (
        "UPDATE products SET currency = 'EUR' WHERE currency IS NULL; ALTER TABLE products ALTER currency SET NOT NULL;"
        "ALTER TABLE products ALTER currency SET DEFAULT 'EUR';"
        "DELETE FROM inventory WHERE quantity > 2000000000; UPDATE products SET price = 1 WHERE price > 90000000;"
        "ALTER TABLE inventory ALTER quantity TYPE integer; ALTER TABLE products ALTER price TYPE numeric(10,2);"
    )
    said = await judged(running, tmp_path, back)
    assert (said.code, said.verdict) == (0, "followed")
    async with running.changing(rate=40):
        for statement in back.split(";")[:-1]:
            await migrate(running, statement)
        await running.execute(f"UPDATE products SET price = 3 WHERE id = '{key}'")
        await running.arrived()
    assert in_clickhouse(running, key, "currency") == "EUR"
    await nothing_is_lost(running, pids)


async def test_a_dropped_column_stops_that_table_alone_and_goes_on_when_accepted(
    running: Pipeline, tmp_path: Path
) -> None:
    migration = "ALTER TABLE products DROP COLUMN brand;"
    said = await judged(running, tmp_path, migration)
    assert (said.code, said.verdict) == (1, "stops")
    assert (said.tables[0]["steps"][0]["column"], said.tables[0]["steps"][0]["kind"]) == ("brand", "dropped")
    stops = ["stops at the first row without brand"]
    assert said.tables[0]["sinks"] == {"cache": ["nothing"], "search": stops, "analytics": stops}
    assert any("downriver schemas accept " in line for line in said.tables[0]["after"])
    pids = workers(running)
    before = await product(running, ", brand", ", 'kept'")
    await running.arrived()
    async with running.changing(rate=40):
        await migrate(running, migration)
        key = await product(running)
        await waits(running, "brand")
        # others go on: another table of the same lane, and the sink that does not read the column
        review = uuid4()
        await running.execute(
            f"INSERT INTO reviews (id, product_id, rating, status) VALUES ('{review}', '{before}', 4, 'approved')"
        )

        async def reviewed() -> bool:
            return bool(in_clickhouse(running, review, "rating", "reviews") == 4)

        await until(reviewed, "a review reaches the analytics store while products stands still")
        await running.redis.set(f"product:{key}", b"stale")
        await running.execute(f"UPDATE products SET name = 'renamed' WHERE id = '{key}'")
        await running.gone(f"product:{key}")
        assert in_clickhouse(running, key, "name") == "absent"
        assert in_search(running, key, "name") == "absent"
    assert (await running.status()).dead_letters == dict.fromkeys(("cache", "search", "analytics"), 0)
    with ConnectClient(running.settings.connect, 30) as client:
        status = client.status(f"{running.settings.source}_catalog")
        assert status is not None
        assert [task.state for task in status.tasks] == ["RUNNING"]  # capture never stopped
    await accept(running, "brand")
    await running.arrived()
    assert (in_clickhouse(running, key, "name"), in_clickhouse(running, key, "brand")) == ("renamed", None)
    # what was known stays in the history, whatever the workload has done to the row since
    kept = running.analytics(f"SELECT brand FROM products_history WHERE id = '{before}' AND _op = 'c'")
    assert kept == [("kept",)]
    assert in_search(running, key, "brand") is None
    await nothing_is_lost(running, pids)
    assert await asyncio.to_thread(stopped, running) == {}


async def test_a_rename_is_a_drop_and_an_addition_to_every_reader(running: Pipeline, tmp_path: Path) -> None:
    migration = "ALTER TABLE products RENAME COLUMN weight TO grams;"
    said = await judged(running, tmp_path, migration)
    assert (said.code, said.verdict) == (1, "stops")
    assert said.tables[0]["steps"][0]["to"] == "grams"
    assert "better: add grams, fill it, switch readers over, and drop weight last" in said.tables[0]["before"][0]
    assert any("downriver connectors reread public.products" in line for line in said.tables[0]["after"])
    pids = workers(running)
    async with running.changing(rate=40):
        await migrate(running, migration)
        key = await product(running, ", grams", ", 7.5")
        await waits(running, "weight")
        assert in_clickhouse(running, key, "name") == "absent"
        await accept(running, "weight")
        await running.execute("UPDATE products SET grams = grams")  # what `connectors reread` does, here by hand
        await running.arrived()
    assert (in_clickhouse(running, key, "grams"), in_clickhouse(running, key, "weight")) == (Decimal("7.500"), None)
    assert in_search(running, key, "grams") == "7.500"
    await nothing_is_lost(running, pids)


async def test_what_is_accepted_beforehand_stops_nobody_and_a_killed_worker_remembers(
    running: Pipeline, tmp_path: Path
) -> None:
    await accept(running, "grams")
    async with running.changing(rate=40):
        await migrate(running, "ALTER TABLE products ALTER grams TYPE text USING grams::text || ' g'")
        key = await product(running, ", grams", ", '9 g'")
        await running.arrived()
    assert in_clickhouse(running, key, "grams") == "9 g"
    assert await asyncio.to_thread(stopped, running) == {}
    async with running.changing(rate=40):
        await migrate(running, "ALTER TABLE products DROP COLUMN grams")
        key = await product(running)
        await waits(running, "grams")
        await running.kill("analytics")  # in its place comes one that knows nothing but the note
        await asyncio.sleep(0)
        await until(_ready(running), "the new worker is there")
        assert in_clickhouse(running, key, "name") == "absent"
    await accept(running, "grams")
    await running.arrived()
    assert in_clickhouse(running, key, "grams") is None
    await nothing_is_lost(running, workers(running))


def _ready(pipeline: Pipeline) -> Any:
    async def ready() -> bool:
        return pipeline.pid("analytics") is not None and "table_stopped" in pipeline.crew.tail("analytics")

    return ready


async def test_an_unclassified_column_of_a_private_table_goes_nowhere(running: Pipeline, tmp_path: Path) -> None:
    migration = "ALTER TABLE users ADD COLUMN ssn text;"
    said = await judged(running, tmp_path, migration)
    assert (said.code, said.verdict) == (1, "something first")
    await migrate(running, migration)
    await running.execute("UPDATE users SET ssn = '123-45-6789'")
    await running.arrived()
    columns = running.analytics("SELECT name FROM system.columns WHERE database = currentDatabase() AND name = 'ssn'")
    assert columns == []
    held = running.analytics("SELECT count() FROM users_history WHERE toString(tuple(*)) LIKE '%123-45-6789%'")
    assert held == [(0,)]


async def test_a_word_more_in_an_enum_a_new_table_and_a_dropped_one_disturb_nobody(
    running: Pipeline, tmp_path: Path
) -> None:
    pids = workers(running)
    await migrate(running, "CREATE TYPE mood AS ENUM ('sad', 'ok'); ALTER TABLE reviews ADD COLUMN mood mood")
    said = await judged(
        running, tmp_path, "ALTER TYPE mood ADD VALUE 'happy'; CREATE TABLE fresh (id int PRIMARY KEY);"
    )
    assert (said.code, said.tables[0]["steps"][0]["kind"]) == (0, "widened")
    assert (await judged(running, tmp_path, "DROP TABLE addresses;")).verdict == "breaks"
    review = uuid4()
    async with running.changing(rate=40):
        await running.execute("ALTER TYPE mood ADD VALUE 'happy'")
        await migrate(running, "CREATE TABLE fresh (id int PRIMARY KEY)")
        (owner,) = (await running.execute("SELECT id FROM products ORDER BY id LIMIT 1"))[0]
        await running.execute(
            f"INSERT INTO reviews (id, product_id, rating, mood) VALUES ('{review}', '{owner}', 5, 'happy')"
        )
        await running.arrived()
    assert in_clickhouse(running, review, "mood", "reviews") == "happy"
    found = running.document("reviews", f"{owner}:{review}")
    assert found is not None
    assert found["mood"] == "happy"
    assert workers(running) == pids


async def test_a_key_that_changes_stops_its_table_alone_and_a_table_that_goes_takes_nobody_along(
    running: Pipeline, tmp_path: Path
) -> None:
    """The last test: there is no way back from here but a table file with the new key."""
    migration = (
        "ALTER TABLE payments DROP CONSTRAINT payments_pkey; ALTER TABLE payments ADD PRIMARY KEY (id, order_id);"
    )
    said = await judged(running, tmp_path, migration)
    assert (said.code, said.verdict) == (1, "stops")
    assert said.tables[0]["why"][0] == "the record key changes from (id) to (id, order_id)"
    await migrate(running, migration + "DROP TABLE addresses")
    payment = uuid4()
    ((order, _),) = await running.execute("SELECT id, user_id FROM orders ORDER BY id LIMIT 1")
    await running.execute(
        f"INSERT INTO payments (id, order_id, method, amount) VALUES ('{payment}', '{order}', 'card', 7)"
    )
    await until(_stands(running, "payments"), "payments stands still")
    await running.execute(f"UPDATE orders SET total = 4711 WHERE id = '{order}'")

    async def ordered() -> bool:
        return bool(in_clickhouse(running, order, "total", "orders") == Decimal(4711))

    await until(ordered, "an order of the same lane reaches the analytics store")
    assert in_clickhouse(running, payment, "amount", "payments") == "absent"
    assert (await running.status()).dead_letters == dict.fromkeys(("cache", "search", "analytics"), 0)


def _stands(pipeline: Pipeline, table: str) -> Any:
    async def stands() -> bool:
        told = pipeline.crew.tail("analytics")
        return "table_stopped" in told and f"public.{table}" in told

    return stands
