"""The topic that a benchmark reads: made and filled once, with real schemas at the real registry.

Nothing is removed here: see bench.names.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx2
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from bench.records import Load
from downriver.exits import DownriverError
from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.tables.base import PARTITIONS


class Registry:
    """Registers schemas under the subjects that the connectors use."""

    def __init__(self, url: str) -> None:
        self._url = url

    def register(self, schema: Mapping[str, Any]) -> int:
        """Keep the schema and return its id."""
        subject = f"{schema['namespace']}-{'key' if schema['name'] == 'Key' else 'value'}"
        answer = httpx2.post(
            f"{self._url}/subjects/{subject}/versions", json={"schema": json.dumps(schema)}, timeout=30
        )
        return int(answer.raise_for_status().json()["id"])


def fill(settings: Settings, load: Load) -> int:
    """Make the load's topic, lz4, and write its records; return how many bytes keys and values have.

    Raises:
        DownriverError: not every record was taken.
    """
    return _write(settings, load, Producer(_config(settings)))


@contextlib.contextmanager
def held(settings: Settings, load: Load) -> Iterator[Callable[[], None]]:
    """Make and fill the load's topic in a transaction; give what ends it, and so shows all records at once.

    Workers can take their partitions before the first record is there for them.
    """
    producer = Producer(
        _config(settings) | {"transactional.id": f"{load.source}-bench", "transaction.timeout.ms": 600_000}
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    try:
        _write(settings, load, producer)
        yield lambda: producer.commit_transaction(60)
    except BaseException:
        with contextlib.suppress(KafkaException):  # it was committed already, or the broker ends it by its timeout
            producer.abort_transaction(10)
        raise


def consume(settings: Settings, load: Load) -> tuple[float, list[bytes]]:
    """Read the topic with the bare client; return the seconds from the first record to the last, and the values."""
    consumer = Consumer(
        confluent_config(settings.kafka)
        | {"group.id": settings.group_prefix, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    values: list[bytes] = []
    began, give_up_at = 0.0, time.monotonic() + 300
    try:
        consumer.assign([TopicPartition(load.topic, number, 0) for number in range(PARTITIONS)])
        while len(values) < load.records:
            messages = consumer.consume(5_000, timeout=0.5)
            began = began or time.perf_counter()
            values.extend(value for message in messages if (value := message.value()) is not None)
            if time.monotonic() > give_up_at:
                msg = f"{load.topic} gave {len(values)} of {load.records} records in 300 s"
                raise DownriverError(msg)
        return time.perf_counter() - began, values
    finally:
        consumer.close()


def _config(settings: Settings) -> dict[str, Any]:
    own = {"compression.type": "lz4", "linger.ms": 50, "batch.size": 200_000}
    return confluent_config(settings.kafka) | own


def _write(settings: Settings, load: Load, producer: Producer) -> int:
    admin = AdminClient(confluent_config(settings.kafka))
    for future in admin.create_topics([NewTopic(load.topic, PARTITIONS, 1)], operation_timeout=10).values():
        future.result(timeout=30)
    failures: list[str] = []

    def delivered(error: object, _: object) -> None:
        if error is not None:
            failures.append(str(error))

    size = 0
    for partition, key, value in load.envelopes(Registry(settings.registry.url)):
        size += len(key) + len(value)
        while True:
            try:
                producer.produce(load.topic, value, key, partition=partition, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(120)
    if failures or len(producer):
        msg = f"{load.topic}: {len(failures) + len(producer)} records were not taken: {failures[:1]}"
        raise DownriverError(msg)
    return size
