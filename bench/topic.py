"""The topic that a benchmark reads: Debezium envelopes of products, made once a run and removed after it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from downriver.kafka import confluent_config
from downriver.settings import Settings
from tests.support.avro import Capture
from tests.support.columns import sample

DISTINCT = 1_000
PARTITIONS = 4


def envelopes() -> list[tuple[bytes, bytes]]:
    """Return DISTINCT keys and values as the connectors write them, a product each."""
    capture = Capture()
    made = []
    for number in range(DISTINCT):
        row = sample("products") | {"id": str(uuid.UUID(int=number)), "sku": f"SKU-{number}"}
        record = capture.record("products", "c", after=row)
        assert record.key is not None
        assert record.value is not None
        made.append((record.key, record.value))
    return made


@contextlib.contextmanager
def filled(settings: Settings, count: int) -> Iterator[str]:
    """Make a topic of `count` envelopes, lz4, over PARTITIONS partitions; remove it at the end, whatever happens."""
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    config = confluent_config(settings.kafka)
    admin = AdminClient(config)
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        future.result(timeout=30)
    try:
        producer = Producer(config | {"compression.type": "lz4", "linger.ms": 50, "batch.size": 200_000})
        made = envelopes()
        for index in range(count):
            key, value = made[index % DISTINCT]
            while True:
                try:
                    producer.produce(topic, value, key, partition=index % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush(60)
        yield topic
    finally:
        for future in admin.delete_topics([topic]).values():
            future.result(timeout=30)
