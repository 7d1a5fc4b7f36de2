"""The worker as a process: what it prints and serves, how it ends, and that plain Faust starts one, too."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import httpx2
import psutil
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from downriver.exits import Exit
from downriver.settings import Settings
from processors.tables.base import PARTITIONS
from tests.support.avro import table
from tests.support.engine import START_S, Realm, WorkerProcess, realm_on, until

pytestmark = pytest.mark.stack


@pytest.fixture
def realm(settings: Settings) -> Iterator[Realm]:
    with realm_on(settings) as made:
        yield made


def listens_on(worker: WorkerProcess) -> dict[int, str]:
    """Return the ports that the process listens on, and the address of each."""
    connections = psutil.Process(worker.process.pid).net_connections("inet")
    return {each.laddr.port: each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


def test_what_a_worker_prints_and_serves(realm: Realm) -> None:
    worker = realm.worker().ready()
    products = realm.products(80)
    realm.send(realm.stocks(products))
    until(lambda: not realm.stale(products), "delivered")
    until(lambda: worker.metrics("downriver_consumer_lag_records").get((str(0), realm.topic)) == 0, "measured")
    assert worker.health() == (
        200,
        {
            "ready": True,
            "sink": "cache",
            "group": f"{realm.settings.group_prefix}-cache",
            "lanes": ["inventory"],
            "partitions": PARTITIONS,
            "lag": 0,
            "waiting_s": {},
            "stopped": {},
        },
    )
    assert httpx2.get(f"{worker.url}/health/live", timeout=10).json() == {"live": True}
    assert worker.metrics("downriver_records_total") == {(realm.topic,): 80}
    assert worker.metrics("downriver_commands_total") == {("applied",): 80}
    assert worker.metrics("downriver_buffered_bytes") == {(): 0}
    assert worker.metrics("downriver_assigned_partitions") == {(): PARTITIONS}
    assert worker.metrics("downriver_waiting_seconds") == {(): 0}
    assert worker.metrics("downriver_dead_letters_total") == {}
    lag = {(str(number), realm.topic): 0.0 for number in range(PARTITIONS)}
    assert worker.metrics("downriver_consumer_lag_records") == lag
    port = int(worker.url.rpartition(":")[2])
    assert listens_on(worker) == {port: "127.0.0.1"}
    worker.process.send_signal(signal.SIGINT)
    assert worker.ended() == Exit.OK
    assert worker.printed == []
    assert all({"event", "level", "logger", "timestamp"} <= set(line) for line in worker.events)
    names = [line["event"] for line in worker.events if line["logger"].startswith("processors.")]
    assert [*names[:2], names[-1]] == ["worker_starts", "worker_up", "worker_down"]
    assert set(names) == {"worker_starts", "worker_up", "sink_open", "assigned", "revoked", "worker_down"}
    assert len(worker.events) == len(names), "the libraries keep quiet"


def test_a_worker_that_starts_with_nothing_left_to_do_tells_no_lag(realm: Realm) -> None:
    """Lag without progress ends a worker: a shop that is quiet must not look like one that stands still."""
    products = realm.products(80)
    realm.send(realm.stocks(products))
    first = realm.worker().ready()
    realm.all_committed()
    first.terminate()
    assert first.ended() == Exit.OK
    second = realm.worker().ready()
    for _ in range(3):  # each commit takes a second: by now the client has asked where every partition ends
        realm.send([realm.stock(realm.product(), partition=0)])
        realm.all_committed()
    every = {(str(number), realm.topic): 0.0 for number in range(PARTITIONS)}
    until(lambda: second.metrics("downriver_consumer_lag_records") == every, "no partition has lag", 10)
    assert second.health()[1]["lag"] == 0


def test_what_kafka_removed_before_it_was_read_is_told_and_counted(settings: Settings) -> None:
    """A retention that is too short loses changes: the one thing that a worker must not pass over in silence."""
    with realm_on(settings, **{"cleanup.policy": "delete"}) as realm:
        realm.send(realm.stocks(realm.products(10 * PARTITIONS)))
        first = realm.worker().ready()
        realm.all_committed()
        first.terminate()
        assert first.ended() == Exit.OK
        realm.send(realm.stocks(realm.products(2 * PARTITIONS)))
        gone = TopicPartition(realm.topic, 3, 12)
        assert realm.admin.delete_records([gone])[gone].result(10).low_watermark == 12
        second = realm.worker().ready()
        told = second.logged("removed_unread")
        assert {name: told[name] for name in ("topic", "partition", "committed", "first", "level")} == {
            "topic": realm.topic,
            "partition": 3,
            "committed": 10,
            "first": 12,
            "level": "error",
        }
        realm.all_committed()
        assert second.metrics("downriver_removed_unread_offsets_total") == {(realm.topic,): 2.0}
        until(lambda: set(second.metrics("downriver_consumer_lag_records").values()) == {0.0}, "what is gone is no lag")
        assert len(second.named("removed_unread")) == 1


def test_bad_settings_are_told_all_at_once(realm: Realm) -> None:
    worker = realm.worker(worker__port=99_999, kafka__security_protocol="TLS")
    assert worker.ended(START_S) == Exit.BAD_INPUT
    said = " ".join(" ".join(worker.lines).split())
    assert "2 setting(s) can't be used" in said
    assert "worker.port = '99999'" in said
    assert "kafka.security_protocol = 'TLS'" in said
    assert worker.printed == []


def test_a_table_with_records_that_the_registry_does_not_know_is_refused_by_name(realm: Realm) -> None:
    realm.send(realm.stocks(realm.products(1)))
    subject = f"{realm.topic}-value"
    httpx2.delete(f"{realm.settings.registry.url}/subjects/{subject}", timeout=10).raise_for_status()
    realm.registry.subjects.remove(subject)
    worker = realm.worker()
    assert worker.ended(START_S) == Exit.BAD_INPUT
    assert f"does not know: public.inventory (subject {subject})" in worker.named("worker_ends")[0]["reason"]
    assert realm.committed() == {}


def test_a_topic_with_another_number_of_partitions_is_refused_by_name(realm: Realm) -> None:
    topic = table("products").topic(realm.settings.source)
    for done in realm.admin.create_topics([NewTopic(topic, 3, 1)]).values():
        done.result(30)
    worker = realm.worker("cache", "--lane", "catalog")
    assert worker.ended(START_S) == Exit.BAD_INPUT
    said = worker.named("worker_ends")[0]["reason"]
    assert f"{topic} has 3 partitions, the table public.products needs 8" in said


def test_kafka_away_at_the_start_longer_than_the_limit_is_told(realm: Realm) -> None:
    worker = realm.worker(kafka__bootstrap="127.0.0.1:1", worker__max_wait_s=1)
    assert worker.ended(START_S) == Exit.SERVER_AWAY
    assert "Kafka at 127.0.0.1:1 was away for" in worker.named("worker_ends")[0]["reason"]


def test_plain_faust_starts_a_worker_whose_web_server_shows_nothing_to_others(realm: Realm) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ("-A", "processors.engine.app:cache", "worker", "-l", "info")
    worker = realm.command(*arguments, "--web-port", str(port), module="faust")
    products = realm.products(16)
    realm.send(realm.stocks(products))
    until(lambda: not realm.stale(products), "a plain Faust worker delivers", START_S)
    realm.all_committed()
    addresses = listens_on(worker)
    assert port in addresses
    assert set(addresses.values()) == {"127.0.0.1"}
    answers = {path: httpx2.get(f"http://127.0.0.1:{port}{path}", timeout=10) for path in ("/table/", "/tables/")}
    assert {path: answer.status_code for path, answer in answers.items()} == {"/table/": 404, "/tables/": 404}
    worker.terminate()
    assert worker.ended() == Exit.OK


def test_plain_faust_without_web_listens_for_health_alone(realm: Realm) -> None:
    worker = realm.command("-A", "processors.engine.app:cache", "worker", "--without-web", module="faust")
    products = realm.products(16)
    realm.send(realm.stocks(products))
    until(lambda: not realm.stale(products), "a plain Faust worker delivers", START_S)
    assert list(listens_on(worker).values()) == ["127.0.0.1"]


def test_a_worker_that_waits_at_its_start_says_for_whom_and_stops_when_asked(realm: Realm) -> None:
    worker = realm.worker(registry__url="http://127.0.0.1:1", kafka__bootstrap="127.0.0.1:1")
    until(lambda: "Kafka at 127.0.0.1:1" in worker.health()[1]["waiting_s"], "health names Kafka", START_S)
    assert worker.health()[0] == 503
    worker.terminate()
    assert worker.ended() == Exit.OK
    assert {line["event"] for line in worker.events} == {"worker_starts", "waiting", "worker_down"}
