"""The offsets topic of Kafka Connect, read directly: what a connector that Connect no longer lists would go on from.

Connect's API tells offsets only of connectors that exist; a deleted one keeps its own, and one made again under its name
takes them up.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

from downriver.exits import ServerAway
from downriver.kafka import confluent_config
from downriver.settings import Settings

TIMEOUT_S = 30.0


def offsets(settings: Settings, names: Collection[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the newest stored offset by connector and topic prefix; none for what was never stored or was reset.

    Raises:
        ServerAway: Kafka does not answer, or not to the end of the topic in time.
    """
    topic = settings.connect.offsets_topic
    found: dict[tuple[str, str], dict[str, Any] | None] = {}
    quiet = {"group.id": "downriver-plan", "enable.auto.commit": False, "enable.partition.eof": False, "log_level": 0}
    consumer = Consumer(confluent_config(settings.kafka) | quiet)
    try:
        metadata = consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
        if metadata.error is not None:
            return {}  # no connector was ever started here
        ends = {}
        for number in metadata.partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_S)
            if high > low:
                ends[number] = high
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        give_up_at = time.monotonic() + TIMEOUT_S
        while ends:
            if time.monotonic() > give_up_at:
                msg = f"Kafka at {settings.kafka.bootstrap} did not give {topic} to its end within {TIMEOUT_S:g} s"
                raise ServerAway(msg)
            for message in consumer.consume(2_000, timeout=0.2):
                if message.error() is None:
                    _take(message.key(), message.value(), names, found)
            where = consumer.position([TopicPartition(topic, number) for number in ends])
            ends = {at.partition: ends[at.partition] for at in where if at.offset < ends[at.partition]}
    except KafkaException as error:
        msg = f"Kafka at {settings.kafka.bootstrap} does not give {topic}: {error.args[0].str()}"
        raise ServerAway(msg) from None
    finally:
        consumer.close()
    return {key: offset for key, offset in found.items() if offset}


def _take(
    key: bytes | None, value: bytes | None, names: Collection[str], found: dict[tuple[str, str], dict[str, Any] | None]
) -> None:
    """Note one record; a key of another connector, or of another kind than Debezium's, is none of ours."""
    try:
        name, partition = orjson.loads(key or b"")
        server = partition["server"]
    except (orjson.JSONDecodeError, TypeError, ValueError, KeyError):
        return
    if name in names:
        found[name, server] = orjson.loads(value) if value else None
