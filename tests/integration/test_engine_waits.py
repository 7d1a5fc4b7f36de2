"""Servers that are away, on a real broker: the worker waits and says for whom, or ends with its own exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from downriver.exits import Exit
from downriver.settings import Settings
from processors.engine.batch import Batch, Partition
from processors.tables.base import PARTITIONS
from tests.support.columns import optional
from tests.support.engine import START_S, Realm, WorkerProcess, realm_on, until
from tests.support.proxy import Proxy, proxied

pytestmark = pytest.mark.stack


@pytest.fixture
def realm(settings: Settings) -> Iterator[Realm]:
    with realm_on(settings) as made:
        yield made


@contextmanager
def in_front_of(url: str) -> Iterator[tuple[Proxy, str]]:
    """Give a proxy in front of the server at `url`, and its own URL."""
    parts = urlsplit(url)
    with proxied(parts.hostname or "", parts.port or 0) as proxy:
        yield proxy, url.replace(parts.netloc, f"127.0.0.1:{proxy.port}")


def waits_for(worker: WorkerProcess, who: str) -> None:
    """Wait until the health page says that the worker waits for `who`, and that it is not ready."""

    def waiting() -> bool:
        status, body = worker.health()
        return status == 503 and not body["ready"] and any(who in name for name in body["waiting_s"])

    until(waiting, f"health says that it waits for {who}")
    assert who in worker.logged("waiting")["on"]


def test_a_registry_that_is_away_is_waited_for(realm: Realm) -> None:
    with in_front_of(realm.settings.registry.url) as (proxy, url):
        worker = realm.worker(registry__url=url, registry__timeout_s=0.5).ready()
        for fault in (proxy.down, proxy.hang):
            fault()
            columns = realm.capture.columns["inventory"]
            new = {f"new_{fault.__name__}": optional("int")}  # a schema that the worker has not asked for yet
            realm.capture.columns["inventory"] = columns | new
            products, before = realm.products(50), realm.committed()
            realm.send(realm.stocks(products))
            waits_for(worker, "the schema registry")
            until(lambda: worker.metrics("downriver_waiting_seconds").get((), 0) > 0, "the metric shows it, too")
            assert realm.stale(products) == products
            assert realm.committed() == before
            proxy.up()
            until(lambda sent=products: not realm.stale(sent), "delivered once it is back")  # type: ignore[misc]
            realm.all_committed()
            until(lambda: worker.health()[0] == 200, "ready again")
            assert worker.health()[1]["waiting_s"] == {}
        assert realm.dead() == []


def test_a_sink_away_longer_than_the_limit_ends_the_worker_with_nothing_committed(realm: Realm) -> None:
    with in_front_of(realm.settings.redis.url) as (proxy, url):
        worker = realm.worker(redis__url=url, redis__timeout_s=0.5, worker__max_wait_s=3).ready()
        proxy.hang()
        products = realm.products(50)
        realm.send(realm.stocks(products))
        assert worker.ended() == Exit.SERVER_AWAY
        reason = worker.logged("worker_ends")["reason"]
        assert "cache was away for" in reason
        assert "longer than the limit of 3 s" in reason
        assert realm.committed() == {}
        assert realm.stale(products) == products


def test_a_worker_that_makes_no_progress_and_knows_no_reason_ends_as_stalled(realm: Realm) -> None:
    with in_front_of(realm.settings.redis.url) as (proxy, url):
        worker = realm.worker(redis__url=url, redis__timeout_s=120, worker__stall_s=3).ready()
        proxy.hang()
        products = realm.products(50)
        realm.send(realm.stocks(products))
        assert worker.ended() == Exit.STALLED
        assert "50 records lag and nothing was delivered for" in worker.logged("worker_ends")["reason"]
        assert realm.committed() == {}
        assert realm.stale(products) == products
        realm.worker()
        until(lambda: not realm.stale(products), "a new worker takes over", START_S)


def test_a_sink_away_at_the_start_is_waited_for_and_then_delivers(realm: Realm) -> None:
    products = realm.products(20)
    realm.send(realm.stocks(products))
    with in_front_of(realm.settings.redis.url) as (proxy, url):
        proxy.down()
        worker = realm.worker(redis__url=url, redis__timeout_s=0.5)
        worker.logged("waiting")
        waits_for(worker, "cache")
        assert realm.committed() == {}
        proxy.up()
        until(lambda: not realm.stale(products), "delivered once it is there")
        realm.all_committed()


def test_a_stuck_sink_holds_memory_flat_while_records_wait(realm: Realm) -> None:
    limit, fetched = 8 * 2**20, 500
    with in_front_of(realm.settings.redis.url) as (proxy, url):
        proxy.hang()
        bounds: dict[str, Any] = {"worker__max_buffered_bytes": limit, "worker__max_batch": fetched}
        worker = realm.worker(redis__url=url, redis__timeout_s=2, **bounds)
        waits_for(worker, "cache")
        few = realm.products(2_000)
        records = realm.stocks(few)
        for _ in range(100):
            realm.send(records)
        held: list[float] = []
        rss: list[int] = []
        process = psutil.Process(worker.process.pid)

        def full() -> bool:
            held.append(worker.metrics("downriver_buffered_bytes")[()])
            rss.append(process.memory_info().rss)
            return len(held) > 30 and len(set(held[-20:])) == 1

        until(full, "the buffers are full and stay so", START_S)
        one_fetch = Batch.of(Partition(realm.topic, 0), records[:1]).size * fetched
        assert limit / 2 < max(held) <= limit * 1.25 + one_fetch, "see Backlog: the first lane may hold a quarter more"
        assert rss[-1] - rss[-20] < limit
        assert realm.committed() == {}
        assert realm.ends() == dict.fromkeys(range(PARTITIONS), 25_000)
        proxy.up()
        until(lambda: not realm.stale(few), "it goes on", START_S)


def test_an_asked_stop_under_load_commits_what_it_delivered(realm: Realm) -> None:
    worker = realm.worker().ready()
    products = realm.products(20_000)
    records = realm.stocks(products)
    realm.send(records)
    until(lambda: len(realm.stale(products)) < len(products), "it delivers")
    worker.terminate()
    assert worker.ended() == Exit.OK
    assert worker.named("worker_down")
    committed = realm.committed()
    delivered = [n // PARTITIONS < committed.get(n % PARTITIONS, 0) for n in range(len(products))]
    below = [product for product, done in zip(products, delivered, strict=True) if done]
    above = [product for product, done in zip(products, delivered, strict=True) if not done]
    assert realm.stale(below) == []
    assert realm.stale(above) == above, "what was written was committed, too: nothing is delivered a second time"
    realm.worker()
    until(lambda: not realm.stale(products), "the next worker delivers the rest", START_S)
    realm.all_committed()
