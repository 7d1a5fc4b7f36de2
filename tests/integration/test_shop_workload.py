"""The workload on a real PostgreSQL: what it says it committed is, row by row, what PostgreSQL's log says."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from downriver.exits import BadInput, Exit, ServerAway
from downriver.settings import Settings
from shop.migrate import connect, migrate
from shop.names import EVENTS, LANES, TABLES, CaptureNames
from shop.sample.fill import fill
from shop.sample.rows import Plan
from shop.workload.run import Committed, run

pytestmark = pytest.mark.stack
NAMES = CaptureNames(role=f"test_{secrets.token_hex(4)}", publication_prefix="workload_test")


@pytest.fixture
def shop(settings: Settings) -> Iterator[Settings]:
    """A shop of our own with 200 products."""
    name = f"shop_test_{secrets.token_hex(4)}"
    own = settings.model_copy(update={"postgres": settings.postgres.model_copy(update={"database": name})})
    migrate(own, SecretStr(""), names=NAMES)
    fill(own, Plan(200, 1))
    yield own
    with connect(settings, dbname="postgres") as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(NAMES.role)))


class Log:
    """What PostgreSQL publishes from now on, over all lanes and the outbox, read from a slot that ends with its connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self._slot = f"shop_test_{secrets.token_hex(4)}"
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', temporary => true)", [self._slot])

    def close(self) -> None:
        """Drop the slot now: a connection that ends drops it a moment later, and its database can't be dropped before."""
        self._connection.execute("SELECT pg_drop_replication_slot(%s)", [self._slot])

    def changes(self) -> tuple[Counter[str], int]:
        """Return table → row changes, and how many transactions they came in."""
        publications = ",".join(NAMES.publication(lane) for lane in (*LANES, EVENTS))
        messages = self._connection.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', %s)",
            [self._slot, publications],
        ).fetchall()
        names: dict[bytes, str] = {}
        counts: Counter[str] = Counter()
        transactions = 0
        for (message,) in messages:
            kind, relation = message[:1], message[1:5]
            if kind == b"R":
                names[relation] = message[5:].split(b"\0")[1].decode()
            elif kind in {b"I", b"U", b"D"}:
                counts[names[relation]] += 1
            transactions += kind == b"B"
        return counts, transactions


@pytest.fixture
def log(shop: Settings) -> Iterator[Log]:
    with connect(shop) as connection:
        made = Log(connection)
        yield made
        made.close()


async def test_it_commits_what_it_says(shop: Settings, log: Log) -> None:
    told: list[int] = []
    account = await run(shop, 150, 8, 7, on_progress=lambda so_far: told.append(so_far.changes))
    changes, transactions = log.changes()
    assert account.committed == changes
    assert set(changes) == set(TABLES)
    assert account.transactions >= transactions  # one that finds nothing to change is not published
    assert account.transactions == account.by_action.total()
    assert account.by_action["long_transaction"] > 0
    assert account.rolled_back > 0
    assert not account.unknown
    assert account.failure is None
    assert told == sorted(told)
    assert told[-1] == account.changes
    assert account.changes <= 150 * 8 * 1.15  # the pace is kept, not exceeded


async def test_orders_cost_what_their_items_cost(shop: Settings) -> None:
    await run(shop, 200, 4, 8)
    with connect(shop) as connection:
        totals = connection.execute(
            "SELECT o.id FROM orders AS o WHERE ordered_at > now() - interval '1 hour' AND total <>"
            " (SELECT coalesce(sum(quantity * unit_price), 0) FROM order_items WHERE order_id = o.id)"
        ).fetchall()
    assert totals == []


async def test_transactions_overlap(shop: Settings) -> None:
    """Rows are written in an order that is not the order of commits: a long transaction's row is older than its commit."""
    with connect(shop) as connection:
        slot = f"shop_test_{secrets.token_hex(4)}"
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', temporary => true)", [slot])
        await run(shop, 100, 5, 9)
        published = connection.execute(
            "SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', %s)",
            [slot, NAMES.publication("inventory")],
        ).fetchall()
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    lsns = [
        (int(high, 16) << 32) | int(low, 16)
        for high, low in (lsn.split("/") for lsn, data in published if data[:1] in {b"I", b"U", b"D"})
    ]
    assert any(later < earlier for earlier, later in pairwise(lsns))


async def test_asked_to_stop_it_finishes_and_tells(shop: Settings, log: Log) -> None:
    stop = asyncio.Event()

    def enough(so_far: Committed) -> None:
        if so_far.changes > 50:
            stop.set()

    account = await run(shop, 100, 600, 3, on_progress=enough, stop=stop)
    assert account.committed == log.changes()[0]
    assert 50 < account.changes < 60_000
    assert account.failure is None


async def test_lost_connections_leave_the_account_right(shop: Settings, log: Log) -> None:
    """Connections are cut while it runs: it goes on, and what it can't know it says."""
    stop, cuts = asyncio.Event(), 0

    async def cut() -> None:
        nonlocal cuts
        async with await psycopg.AsyncConnection.connect(shop.postgres.dsn(), autocommit=True) as connection:
            for _ in range(5):
                await asyncio.sleep(0.5)  # spread over the run; nothing is waited for
                cursor = await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'downriver-workload' AND datname = current_database()"
                )
                cuts += cursor.rowcount
        before = seen[-1].changes if seen else 0
        while seen[-1].changes <= before + 20:
            await asyncio.sleep(0.1)
        stop.set()

    seen: list[Committed] = []
    account, _ = await asyncio.gather(run(shop, 150, 120, 4, on_progress=seen.append, stop=stop), cut())
    changes, _ = log.changes()
    assert cuts >= 20
    assert account.failure is None
    assert account.retried > 0
    for table in TABLES:
        assert account.committed[table] <= changes[table] <= account.committed[table] + account.unknown[table], table


async def test_a_database_that_goes_away_ends_the_run_with_its_account(
    shop: Settings, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shop.workload.run.RECONNECT_S", 0.5)
    name = sql.Identifier(shop.postgres.database)

    async def shut() -> None:
        await asyncio.sleep(1.5)  # some transactions first; how many does not matter
        async with await psycopg.AsyncConnection.connect(
            shop.postgres.dsn(dbname="postgres"), autocommit=True
        ) as admin:
            await admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'downriver-workload' AND datname = %s",
                [shop.postgres.database],
            )

    account, _ = await asyncio.gather(run(shop, 100, 600, 5), shut())
    assert isinstance(account.failure, ServerAway)
    assert shop.postgres.database in str(account.failure)
    changes, _ = log.changes()
    for table in TABLES:
        assert account.committed[table] <= changes[table] <= account.committed[table] + account.unknown[table], table


async def test_nothing_to_work_with_is_said(shop: Settings) -> None:
    with connect(shop) as connection:
        for table in reversed(TABLES):
            connection.execute(f"DELETE FROM {table}".encode())
    with pytest.raises(BadInput, match="shop fill"):
        await run(shop, 100, 5, 1)
    migrate(shop, SecretStr(""), "base", down=True, names=NAMES)
    with pytest.raises(BadInput, match="shop migrate"):
        await run(shop, 100, 5, 1)
    migrate(shop, SecretStr(""), names=NAMES)


async def test_a_server_that_is_away_is_named(settings: Settings) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # bound and never listening: nobody answers, and nobody else takes the port
        port = listener.getsockname()[1]
        away = settings.model_copy(update={"postgres": settings.postgres.model_copy(update={"port": port})})
        with pytest.raises(ServerAway, match=str(port)):
            await run(away, 100, 5, 1)


async def test_ctrl_c_prints_what_was_committed(shop: Settings, log: Log) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOWNRIVER_")}
    postgres = shop.postgres
    environment |= {
        "DOWNRIVER_POSTGRES__HOST": postgres.host,
        "DOWNRIVER_POSTGRES__PORT": str(postgres.port),
        "DOWNRIVER_POSTGRES__DATABASE": postgres.database,
        "DOWNRIVER_POSTGRES__USER": postgres.user,
        "DOWNRIVER_POSTGRES__PASSWORD": postgres.password.get_secret_value(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "downriver.cli", "workload", "--rate", "100", "--seconds", "600", "-o", "json",
        env=environment, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with await psycopg.AsyncConnection.connect(shop.postgres.dsn(), autocommit=True) as connection:
            while not await _some_orders_were_placed(connection):
                assert process.returncode is None
                await asyncio.sleep(0.1)
        process.send_signal(signal.SIGINT)
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == Exit.INTERRUPTED
    assert json.loads(printed)["committed"] == dict(log.changes()[0])


async def _some_orders_were_placed(connection: psycopg.AsyncConnection[Any]) -> bool:
    cursor = await connection.execute("SELECT count(*) FROM orders WHERE ordered_at > now() - interval '1 hour'")
    row = await cursor.fetchone()
    return row is not None and row[0] >= 2
