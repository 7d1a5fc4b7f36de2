"""What `guard` remembers of connectors between two runs: a compacted topic, one record each. Only the guard writes it.

In Kafka, so that a guard that comes up on another machine knows what the last one saw, and `status` tells it too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, fields

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.health import Remembered
from downriver.exits import DownriverError, ServerAway
from downriver.kafka import confluent_config
from downriver.settings import Settings
from downriver.versions import UnknownVersion, Versions

TIMEOUT_S = 10.0
VERSIONS = Versions("what the guard remembers")


def topic(settings: Settings) -> str:
    """Return the topic's name."""
    return f"{settings.group_prefix}.connectors"


def encode(value: Remembered) -> bytes:
    """Return the record of one connector."""
    return orjson.dumps(asdict(value) | {"version": VERSIONS.newest})


def decode(record: bytes) -> Remembered:
    """Read the record. Raises UnknownVersion where a newer guard wrote it."""
    held = orjson.loads(record)
    document = VERSIONS.cast(held, held.get("version", 1))
    return Remembered(**{each.name: document[each.name] for each in fields(Remembered) if each.name in document})


def recall(settings: Settings) -> dict[str, Remembered]:
    """Return what is remembered, by connector; nothing before the first guard.

    Raises:
        ServerAway: Kafka does not answer, or not to the end of the topic.
        DownriverError: a newer guard wrote what this program can't read.
    """
    config = confluent_config(settings.kafka) | {
        "log_level": 0,
        "group.id": topic(settings),
        "enable.auto.commit": False,
    }
    consumer = Consumer(config | {"enable.partition.eof": True})
    found: dict[str, Remembered] = {}
    try:
        if consumer.list_topics(topic(settings), timeout=TIMEOUT_S).topics[topic(settings)].error is not None:
            return {}
        consumer.assign([TopicPartition(topic(settings), 0, 0)])
        give_up_at = time.monotonic() + TIMEOUT_S
        while time.monotonic() < give_up_at:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if (error := message.error()) is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    return found
                break
            name = (message.key() or b"").decode()
            if message.value() is None:
                found.pop(name, None)
            else:
                found[name] = decode(message.value() or b"")
    except UnknownVersion as error:
        msg = f"{topic(settings)}: {error}"
        raise DownriverError(msg) from None
    except KafkaException as error:
        msg = f"Kafka at {settings.kafka.bootstrap} does not tell what the guard remembers: {error.args[0].str()}"
        raise ServerAway(msg) from None
    finally:
        consumer.close()
    msg = f"Kafka at {settings.kafka.bootstrap} does not tell all that the guard remembers"
    raise ServerAway(msg)


def remember(settings: Settings, changed: Mapping[str, Remembered | None]) -> None:
    """Write what changed; None forgets a connector.

    Raises:
        ServerAway: Kafka does not take it.
    """
    config = confluent_config(settings.kafka) | {"log_level": 0}
    failures: list[str] = []
    try:
        _ensure(settings, AdminClient(config))
        producer = Producer(config | {"acks": "all", "message.timeout.ms": int(TIMEOUT_S * 1000)})
        for name, value in changed.items():
            producer.produce(
                topic(settings),
                key=name.encode(),
                value=None if value is None else encode(value),
                on_delivery=lambda error, _: failures.append(error.str()) if error else None,
            )
        if producer.flush(TIMEOUT_S):
            failures.append("time is over")
    except KafkaException as error:
        failures.append(error.args[0].str())
    if failures:
        msg = f"Kafka at {settings.kafka.bootstrap} does not keep what the guard remembers: {failures[0]}"
        raise ServerAway(msg)


def _ensure(settings: Settings, admin: AdminClient) -> None:
    if topic(settings) in admin.list_topics(timeout=TIMEOUT_S).topics:
        return
    new = NewTopic(topic(settings), 1, settings.kafka.replication_factor, config={"cleanup.policy": "compact"})
    for made in admin.create_topics([new]).values():
        try:
            made.result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
