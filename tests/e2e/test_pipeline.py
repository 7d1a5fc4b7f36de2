"""The whole way of a change on the real servers: across the snapshot, through killed workers, and the proof that can fail."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx2
import psycopg
import pytest
import pytest_asyncio

from connectors.files import load
from downriver.exits import Exit
from downriver.settings import Settings
from processors.sinks.cache.reader import Read, Stored, encode_value
from processors.verify.compare import SINKS
from shop.demo.readers import Readers
from shop.sample.fill import fill
from shop.sample.rows import Plan
from tests.support.captured import captured_shop
from tests.support.pipeline import Pipeline, environment, pipeline_on
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]

SLOTS = len(load())
OLD, NEW = Decimal("10.00"), Decimal("12.34")
WAITERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND transactionid = %s AND NOT granted"


@dataclass
class Crossing:
    """A transaction that is in flight while every lane's snapshot is taken.

    A new slot waits for the transactions that run when it is made, and then for those that began meanwhile. So two
    others hold it at these two gates; what begins while it stands at the second one is in flight at its snapshot, which
    does not see it, and is streamed to it later, with LSNs from before the snapshot.
    """

    settings: Settings
    product: uuid.UUID = field(default_factory=uuid.uuid4)
    user: uuid.UUID = field(default_factory=uuid.uuid4)
    review: uuid.UUID = field(default_factory=uuid.uuid4)
    deleted: uuid.UUID = field(default_factory=uuid.uuid4)
    added: uuid.UUID = field(default_factory=uuid.uuid4)

    def prepare(self) -> None:
        """Write the rows that the snapshot shall see, and close the first gate."""
        with psycopg.connect(self.settings.postgres.dsn(), autocommit=True) as connection:
            connection.execute(
                "INSERT INTO products (id, sku, name, category, price) VALUES (%s, 'crossing', 'Old', 'audio', %s)",
                [self.product, OLD],
            )
            connection.execute("INSERT INTO inventory VALUES (%s, 1, 10), (%s, 2, 5)", [self.product, self.product])
            connection.execute("INSERT INTO users (id, email) VALUES (%s, 'old@example.org')", [self.user])
            for review in (self.review, self.deleted):
                connection.execute(
                    "INSERT INTO reviews (id, product_id, rating, status) VALUES (%s, %s, 1, 'approved')",
                    [review, self.product],
                )
        self._gate, xid = self._open()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._cross, args=(xid,))
        self._thread.start()

    def _open(self) -> tuple[psycopg.Connection, str]:
        """Begin a transaction that has an id, so that slots wait for it."""
        connection = psycopg.connect(self.settings.postgres.dsn())
        row = connection.execute("SELECT pg_current_xact_id()::xid::text").fetchone()
        assert row is not None
        return connection, row[0]

    def _cross(self, first: str) -> None:
        try:
            self._await_slots(first)
            second_gate, second = self._open()
            self._gate.commit()
            self._gate.close()
            self._await_slots(second)
            self._connection, _ = self._open()
            self._change(self._connection)
            second_gate.commit()
            second_gate.close()
        except BaseException as error:  # told by `opened`: a thread has nobody to raise to
            self._gate.close()
            self._failure = error

    def _await_slots(self, xid: str) -> None:
        give_up_at = time.monotonic() + 60
        with psycopg.connect(self.settings.postgres.dsn(), autocommit=True) as connection:
            while (row := connection.execute(WAITERS, [xid]).fetchone()) is None or row[0] < SLOTS:
                assert time.monotonic() < give_up_at, f"only {row} of {SLOTS} slots wait for transaction {xid}"
                time.sleep(0.02)

    def _change(self, connection: psycopg.Connection) -> None:
        connection.execute("UPDATE products SET price = %s, name = 'New' WHERE id = %s", [NEW, self.product])
        connection.execute(
            "UPDATE inventory SET quantity = 7 WHERE product_id = %s AND warehouse_id = 1", [self.product]
        )
        connection.execute("DELETE FROM inventory WHERE product_id = %s AND warehouse_id = 2", [self.product])
        connection.execute("UPDATE reviews SET rating = 5 WHERE id = %s", [self.review])
        connection.execute("DELETE FROM reviews WHERE id = %s", [self.deleted])
        connection.execute("UPDATE users SET email = 'new@example.org', country = 'FR' WHERE id = %s", [self.user])
        connection.execute(
            "INSERT INTO orders (id, user_id, total) VALUES (%s, %s, 12.34)",
            [self.added, self.user],
        )

    def opened(self) -> None:
        """Hold that the transaction is in flight."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def commit(self) -> None:
        """End the transaction that crossed."""
        self._connection.commit()
        self._connection.close()


@pytest.fixture(scope="module")
def crossing(settings: Settings) -> Iterator[Crossing]:
    """A captured shop whose snapshot was taken while the crossing transaction was in flight; it still is."""
    crossed: list[Crossing] = []

    def before(own: Settings) -> None:
        fill(own, Plan(size=100, seed=7))
        crossed.append(Crossing(own))
        crossed[0].prepare()

    with captured_shop(settings, before):
        crossed[0].opened()
        yield crossed[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pipeline(
    stack: RunningStack, crossing: Crossing, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pipeline]:
    async with pipeline_on(stack, crossing.settings, tmp_path_factory.mktemp("logs")) as running:
        yield running


def shown(pipeline: Pipeline, crossing: Crossing) -> dict[str, Any]:
    """Return what readers of the search index and of the analytics store see of the rows that cross."""
    product = pipeline.document("products", str(crossing.product))
    assert product is not None
    of_product = f"product_id = '{crossing.product}'"
    return {
        "search product": {name: product[name] for name in ("name", "price", "stock", "rating_sum", "rating_count")},
        "search deleted review": pipeline.document("reviews", f"{crossing.product}:{crossing.deleted}") is not None,
        "analytics product": pipeline.analytics(f"SELECT name, price FROM products WHERE id = '{crossing.product}'"),
        "analytics stock": pipeline.analytics(
            f"SELECT warehouse_id, quantity FROM inventory WHERE {of_product} ORDER BY 1"
        ),
        "analytics reviews": pipeline.analytics(f"SELECT id, rating FROM reviews WHERE {of_product}"),
        "analytics user": pipeline.analytics(f"SELECT country FROM users WHERE id = '{crossing.user}'"),
        "analytics order": pipeline.analytics(f"SELECT total FROM orders WHERE id = '{crossing.added}'"),
    }


async def test_a_change_in_flight_when_the_snapshot_is_taken_arrives_and_wins(
    pipeline: Pipeline, crossing: Crossing
) -> None:
    keys = [
        f"product:{crossing.product}",
        f"inventory:{crossing.product}",
        f"user:{crossing.user}",
        "user:email:old@example.org",
        "user:email:new@example.org",
        f"order:{crossing.added}",
    ]
    before = shown(pipeline, crossing)
    assert before.pop("analytics reviews")  # in no order: compared below
    assert before == {
        "search product": {"name": "Old", "price": OLD, "stock": 15, "rating_sum": 2, "rating_count": 2},
        "search deleted review": True,
        "analytics product": [("Old", OLD)],
        "analytics stock": [(1, 10), (2, 5)],
        "analytics user": [(None,)],
        "analytics order": [],
    }
    assert [(await pipeline.read(key))[0] for key in keys] == [Read.STORED] * len(keys)
    assert [(await pipeline.read(key))[0] for key in keys] == [Read.HIT] * len(keys)
    crossing.commit()
    await pipeline.arrived()
    assert shown(pipeline, crossing) == {
        "search product": {"name": "New", "price": NEW, "stock": 7, "rating_sum": 5, "rating_count": 1},
        "search deleted review": False,
        "analytics product": [("New", NEW)],
        "analytics stock": [(1, 7)],
        "analytics reviews": [(crossing.review, 5)],
        "analytics user": [("FR",)],
        "analytics order": [(Decimal("12.34"),)],
    }
    read = [await pipeline.read(key) for key in keys]
    assert [outcome for outcome, _ in read] == [Read.STORED] * len(keys)
    assert [value is None for _, value in read] == [False, False, False, True, False, False]
    assert json.loads(read[0][1] or b"")["price"] == str(NEW)
    assert (await pipeline.compared()).ok


async def test_workers_killed_hard_again_and_again_lose_nothing(pipeline: Pipeline) -> None:
    before = await pipeline.status()
    readers = Readers(pipeline.settings, 2, 1)
    await readers.start()
    try:
        async with pipeline.changing(rate=80, seed=11) as account:
            for sink in (*SINKS, *SINKS):
                await pipeline.kill(sink)
                product = (await pipeline.execute("SELECT id FROM products ORDER BY random() LIMIT 1"))[0][0]
                key = f"product:{product}"
                await pipeline.read(key)
                await pipeline.execute(
                    "UPDATE products SET price = price + 0.01 WHERE id = %s AND price < 90000", product
                )
                await pipeline.gone(key) if sink == "cache" else None
        await pipeline.prove(before, account)
    finally:
        await readers.stop()
    assert readers.reads > 0
    restarts = {sink: member.ends for sink, member in pipeline.crew.members.items()}
    assert restarts == {sink: ["signal SIGKILL"] * 2 for sink in SINKS}


def verify(pipeline: Pipeline) -> tuple[int, dict[str, Any]]:
    """Run `downriver verify` as a person would."""
    done = subprocess.run(
        [sys.executable, "-m", "downriver.cli", "verify", "--settle", "1", "-o", "json"],
        env=os.environ | environment(pipeline.settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


async def test_a_sink_damaged_behind_the_pipelines_back_is_found_exactly(pipeline: Pipeline) -> None:
    rows = await pipeline.execute("SELECT id, category FROM products WHERE length(category) < 100 ORDER BY id LIMIT 2")
    (document, category), (entry, _) = rows
    ((address,),) = await pipeline.execute("SELECT id FROM addresses ORDER BY id LIMIT 1")
    await pipeline.arrived()
    code, result = await asyncio.to_thread(verify, pipeline)
    assert (code, result["ok"], result["differences"]) == (Exit.OK, True, [])

    own = pipeline.settings.elasticsearch
    changed = httpx2.post(
        f"{own.url}/{own.prefix}products-v1/_update/{document}?refresh=true",
        json={"doc": {"category": "damaged"}},
        timeout=30,
    )
    assert changed.json()["result"] == "updated"
    pipeline.run_analytics(f"DELETE FROM addresses_current WHERE id = '{address}'")
    await pipeline.redis.set(f"inventory:{entry}", encode_value(Stored(b'{"available": 123456789}')), ex=600)

    code, result = await asyncio.to_thread(verify, pipeline)
    assert (code, result["ok"], result["equal"]) == (Exit.FAILED, False, dict.fromkeys(SINKS, False))
    assert result["differing"] == dict.fromkeys(SINKS, 1)
    found = [
        (each["sink"], each["key"], each["field"], each["source"], each["shown"]) for each in result["differences"]
    ]
    assert ("search", str(document), "category", category, "damaged") in found
    assert ("analytics", str(address), "(row)", "present", "absent") in found
    assert {(sink, key) for sink, key, *_ in found} == {
        ("search", str(document)),
        ("analytics", str(address)),
        ("cache", f"inventory:{entry}"),
    }

    # the next change of each row mends it: a document and a row are what the newest change says
    await pipeline.execute("UPDATE products SET name = name || '!' WHERE id = %s", document)
    await pipeline.execute("UPDATE addresses SET is_default = is_default WHERE id = %s", address)
    await pipeline.execute("UPDATE inventory SET reserved = reserved WHERE product_id = %s", entry)
    await pipeline.arrived()
    assert (await pipeline.compared()).ok


@pytest.mark.parametrize("table", ["products", "inventory", "users", "downriver_heartbeat"])
async def test_truncate_is_refused_at_the_source_and_says_what_to_do(pipeline: Pipeline, table: str) -> None:
    count = f"SELECT count(*) FROM {table}"
    before = await pipeline.execute(count)
    with pytest.raises(psycopg.errors.FeatureNotSupported) as refused:
        await pipeline.execute(f"TRUNCATE {table} CASCADE")
    assert "is refused: downstream stores would never learn which rows are gone" in str(refused.value)
    assert (refused.value.diag.message_hint or "").startswith("Use DELETE FROM public.")
    assert await pipeline.execute(count) == before
