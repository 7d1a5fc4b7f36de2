"""Workers killed hard, joining and leaving under load, on a real broker: nothing is lost, nothing is committed too early."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import clickhouse_connect
import pytest

from downriver.settings import Settings
from processors.change import pack_version
from processors.tables.base import PARTITIONS
from tests.support.engine import START_S, Realm, realm_on, until

pytestmark = pytest.mark.stack
REPLACED_WITHIN_S = 15.0
"""The issue's limit: a worker killed hard is replaced."""


@pytest.fixture
def realm(settings: Settings) -> Iterator[Realm]:
    with realm_on(settings) as made:
        yield made


class Load:
    """Changes of one new product each, over all partitions, until told to stop. Knows what lies at which offset."""

    def __init__(self, realm: Realm, rate: int = 400) -> None:
        self.realm = realm
        self.sent: dict[tuple[int, int], str] = {}
        """(partition, offset) → product"""
        self._rate = rate
        self._next = dict.fromkeys(range(PARTITIONS), 0)
        self._one_at_a_time = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def products(self) -> list[str]:
        """All products that were sent so far."""
        return list(self.sent.values())

    def burst(self, count: int) -> None:
        """Send that many changes now."""
        products = self.realm.products(count)
        records = self.realm.stocks(products)
        with self._one_at_a_time:  # the n-th record of a partition lies at offset n
            self.realm.send(records)
            for product, record in zip(products, records, strict=True):
                self.sent[record.partition, self._next[record.partition]] = product
                self._next[record.partition] += 1

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.burst(self._rate // 10)

    @contextmanager
    def running(self) -> Iterator[Load]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def check_commits(self) -> None:
        """Fail if anything below a committed offset has not reached the cache."""
        committed = self.realm.committed()
        below = {where: product for where, product in self.sent.items() if where[1] < committed.get(where[0], 0)}
        lost = self.realm.stale(list(below.values())) if below else []
        assert lost == [], f"committed {committed}, not delivered: {[w for w, p in below.items() if p in lost][:10]}"

    def arrives(self, limit_s: float = 40.0) -> None:
        """Wait until all of it is delivered and committed; on failure say whether it is lost or only late."""
        try:
            until(lambda: not self.realm.stale(self.products), "everything is delivered", limit_s)
        except AssertionError:
            self.check_commits()
            raise
        self.realm.all_committed(limit_s=limit_s)


def test_a_worker_killed_hard_is_replaced_in_time_and_nothing_is_lost(realm: Realm) -> None:
    load = Load(realm)
    with load.running():
        first = realm.worker().ready()
        second = realm.worker()
        until(lambda: first.health()[1]["partitions"] == PARTITIONS // 2, "the two share", START_S)
        until(lambda: second.health()[1]["partitions"] == PARTITIONS // 2, "the two share", START_S)
        first.kill()
        load.check_commits()
        killed_at = time.monotonic()
        after = len(load.sent)
        until(
            lambda: len(load.sent) > after and not realm.stale(load.products[after : after + PARTITIONS]),
            "changes made after the kill are delivered, in every partition",
            REPLACED_WITHIN_S,
        )
        assert time.monotonic() - killed_at < REPLACED_WITHIN_S
        assert second.health()[1]["partitions"] == PARTITIONS
    load.arrives()
    load.check_commits()


def test_a_worker_killed_and_started_again_mid_load_loses_nothing(realm: Realm) -> None:
    load = Load(realm)
    with load.running():
        for _ in range(2):
            worker = realm.worker()
            worker.logged("assigned")
            delivered = len(load.sent)
            until(lambda count=delivered: not realm.stale(load.products[:count]), "it delivers", START_S)  # type: ignore[misc]
            load.burst(3_000)
            worker.kill()
            load.check_commits()
        realm.worker()
    load.arrives(START_S)
    load.check_commits()


def test_workers_joining_and_leaving_lose_nothing(realm: Realm) -> None:
    """Five workers, each relieving the one before: a fetch under way at any step of a rebalance must not lose a record."""
    load = Load(realm)
    with load.running():
        on_duty = realm.worker().ready()
        for _ in range(4):
            relief = realm.worker()
            until(lambda new=relief: new.health()[1]["partitions"] == PARTITIONS // 2, "they share", START_S)  # type: ignore[misc]
            load.check_commits()
            on_duty.terminate()
            assert on_duty.ended() == 0
            until(lambda new=relief: new.health()[1]["partitions"] == PARTITIONS, "the relief has all")  # type: ignore[misc]
            load.check_commits()
            on_duty = relief
    load.arrives()
    load.check_commits()


def test_the_end_state_of_versioned_rows_is_the_last_change_of_each(realm: Realm) -> None:
    products = [str(uuid4()) for _ in range(40)]
    rounds = 60
    database = realm.settings.source
    clickhouse = realm.settings.clickhouse
    lsn = 1_000

    def send(numbers: range) -> None:
        nonlocal lsn
        for number in numbers:
            records = []
            for place, product in enumerate(products):
                lsn += 8
                records.append(realm.stock(product, place % PARTITIONS, lsn=lsn, quantity=number, reserved=place))
            realm.send(records)

    client = clickhouse_connect.get_client(host=clickhouse.host, port=clickhouse.port)
    try:
        send(range(20))
        first = realm.worker("analytics", clickhouse__database=database).ready()
        second = realm.worker("analytics", clickhouse__database=database)
        until(lambda: second.health()[1]["partitions"] == PARTITIONS // 2, "the two share", START_S)
        send(range(20, 40))
        first.kill()
        send(range(40, rounds))
        realm.all_committed("analytics", START_S)
        current = client.query(f"SELECT product_id, quantity, reserved FROM {database}.inventory").result_rows
        wanted = sorted((product, rounds - 1, place) for place, product in enumerate(products))
        assert sorted((str(product), *rest) for product, *rest in current) == wanted
        history = client.query(f"SELECT DISTINCT _version FROM {database}.inventory_history").result_rows
        versions = {pack_version(1, each, deleted=False) for each in range(1_008, lsn + 1, 8)}
        assert {version for (version,) in history} == versions
    finally:
        client.command(f"DROP DATABASE IF EXISTS {database}")
        client.close()
