"""What a partition may hold, on a real broker: every compression, poison, aborted transactions, offsets without records."""

from __future__ import annotations

import asyncio
import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.propagation.state import State
from processors.propagation.topic import load_states
from tests.support.avro import Record, encode, envelope_schema, table
from tests.support.columns import COLUMNS, sample
from tests.support.engine import Realm, WorkerProcess, headers_of, realm_on, until

pytestmark = pytest.mark.stack
MAX_RECORD_BYTES = 50_000
UNKNOWN_ID = 2**31 - 1
DEAD = "downriver.dlq."


@pytest.fixture(scope="module")
def realm(settings: Settings) -> Iterator[Realm]:
    with realm_on(settings) as made:
        made.worker(worker__max_record_bytes=MAX_RECORD_BYTES)
        yield made


@pytest.fixture
def worker(realm: Realm) -> WorkerProcess:
    return realm.workers[0].ready()


def delivered(realm: Realm, products: list[str]) -> None:
    until(lambda: not realm.stale(products), "every product's old stock is gone from the cache")


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_consumed(realm: Realm, worker: WorkerProcess, compression: str) -> None:
    products = realm.products(200)
    producer = Producer(confluent_config(realm.settings.kafka) | {"compression.type": compression, "linger.ms": 50})
    before = len(realm.dead())
    realm.send(realm.stocks(products), producer)
    delivered(realm, products)
    realm.all_committed()
    assert len(realm.dead()) == before


def poison(realm: Realm) -> dict[str, tuple[bytes, str]]:
    """Return values that can't be understood, each with a word of its error."""
    good = realm.stock(str(uuid.uuid4())).value or b""
    other_topic = table("products").topic(realm.settings.source)
    schema = envelope_schema(other_topic, COLUMNS["products"])
    other_id = realm.registry.register(schema)
    foreign = encode(schema, {"before": None, "after": None, "op": "u"} | source_of(), other_id)
    return {
        "empty": (b"", "0 bytes long: too short"),
        "magic byte": (b"\x01" + good[1:], "byte 1, not 0"),
        "no room for an id": (good[:4], "4 bytes long: too short"),
        "truncated": (good[:-20], ""),
        "something behind": (good + b"\x00\x00", ""),
        "random": (os.urandom(300), ""),
        "random body": (good[:5] + os.urandom(300), ""),
        "oversized": (good + b"\x00" * MAX_RECORD_BYTES, f"{MAX_RECORD_BYTES:,}"),
        "unknown id": (struct.pack(">bI", 0, UNKNOWN_ID) + good[5:], str(UNKNOWN_ID)),
        "another topic's id": (foreign, other_topic),
    }


def source_of() -> dict[str, object]:
    """Return the required fields of a source block, for a record whose table is not ours."""
    source = {"version": "3.7.0.Final", "connector": "postgresql", "name": "x", "ts_ms": 1, "db": "shop"}
    return {"source": source | {"snapshot": "false", "schema": "public", "table": "products"}}


def test_poison_is_a_dead_letter_as_it_came_and_its_neighbours_are_delivered(
    realm: Realm, worker: WorkerProcess
) -> None:
    products = realm.products(30)
    partition = 3
    bad = poison(realm)
    records, expected = [], {}
    offset = realm.ends().get(partition, 0)
    for number, product in enumerate(products):
        records.append(realm.stock(product, partition))
        if number < len(bad):
            name = list(bad)[number]
            sent = (("origin", name.encode()), ("twice", b"1"), ("twice", b"2"))
            records.append(Record(realm.topic, partition, 0, 1_700_000_000_123, name.encode(), bad[name][0], sent))
            expected[offset + len(records) - 1] = name
        if number % 10 == 0:
            records.append(realm.capture.tombstone("inventory", sample("inventory"), partition=partition))
            records[-1] = Record(realm.topic, partition, 0, 1_700_000_000_123, records[-1].key, None)
    before = len(realm.dead())
    realm.send(records)
    delivered(realm, products)
    realm.all_committed()
    dead = realm.dead()[before:]
    assert {int(headers_of(each)[DEAD + "offset"]): each.key().decode() for each in dead} == expected
    for letter in dead:
        name, headers = letter.key().decode(), headers_of(letter)
        value, word = bad[name]
        assert (letter.value() or b"") == value
        assert letter.headers()[:3] == [("origin", name.encode()), ("twice", b"1"), ("twice", b"2")]
        assert letter.timestamp()[1] == 1_700_000_000_123
        assert word in headers[DEAD + "error"].decode()
        assert headers[DEAD + "error"]
        named = {part: headers[DEAD + part].decode() for part in ("topic", "partition", "sink", "attempt")}
        assert named == {"topic": realm.topic, "partition": str(partition), "sink": "cache", "attempt": "1"}


def test_aborted_records_are_not_delivered_and_markers_leave_no_lag(realm: Realm, worker: WorkerProcess) -> None:
    kept, aborted = realm.products(40), realm.products(40)
    before = len(realm.dead())
    config = confluent_config(realm.settings.kafka) | {"transactional.id": realm.settings.source}
    producer = Producer(config)
    producer.init_transactions(30)
    for part in range(0, 40, 20):
        for products, end in ((kept, producer.commit_transaction), (aborted, producer.abort_transaction)):
            producer.begin_transaction()
            realm.send([realm.stock(each, n % 2) for n, each in enumerate(products[part : part + 20])], producer)
            end(30)
    delivered(realm, kept)
    realm.all_committed()
    assert realm.stale(aborted) == aborted
    assert len(realm.dead()) == before
    until(lambda: worker.health()[1]["lag"] == 0, "no lag")
    published = asyncio.run(load_states(realm.settings, "cache"))
    seen = {number: State.decode(state).visible for (_, number), state in published.items()}
    assert seen == realm.ends(), "whoever waits for the end offsets to be visible must not wait for markers"


def test_an_open_transaction_is_no_lag_and_holds_back_what_follows(realm: Realm, worker: WorkerProcess) -> None:
    inside, behind, other = realm.products(3)
    producer = Producer(confluent_config(realm.settings.kafka) | {"transactional.id": f"{realm.settings.source}-open"})
    producer.init_transactions(30)
    producer.begin_transaction()
    realm.send([realm.stock(inside, 5)], producer)
    realm.send([realm.stock(behind, 5), realm.stock(other, 6)])
    delivered(realm, [other])
    until(lambda: worker.health()[1]["lag"] == 0, "no lag")
    assert realm.stale([inside, behind]) == [inside, behind]
    producer.commit_transaction(30)
    delivered(realm, [inside, behind])
    realm.all_committed()


def test_a_compacted_topic_with_holes_is_committed_to_its_end(settings: Settings) -> None:
    compaction = {"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.001"}
    with realm_on(settings, **compaction, **{"max.compaction.lag.ms": "1000"}) as realm:
        again, once = realm.products(9), realm.products(20)
        products = again + once
        for second, product in enumerate(once):  # segments roll by the records' own time
            realm.send([replace(realm.stock(each), timestamp=second * 2_000 + 1) for each in [product, *again]])
        until(lambda: len(offsets_held(realm)) < 150, "the cleaner has been there", 60)
        held = offsets_held(realm)
        worker = realm.worker().ready()
        delivered(realm, products)
        realm.all_committed()
        assert held != list(range(held[0], held[0] + len(held)))
        assert worker.health()[1]["lag"] == 0


def offsets_held(realm: Realm) -> list[int]:
    """Return the offsets that hold a record in the topic's partition 0."""
    consumer = Consumer(confluent_config(realm.settings.kafka) | {"group.id": realm.settings.source})
    held: list[int] = []
    try:
        end = realm.ends()[0]
        consumer.assign([TopicPartition(realm.topic, 0, 0)])
        while not held or held[-1] < end - 1:
            held += [message.offset() for message in consumer.consume(500, timeout=1) if message.error() is None]
    finally:
        consumer.close()
    return held
