"""What a worker checks before it consumes: the topics it reads, their subjects, the topics it writes.

A server that is away is waited for. What is wrong is refused by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from confluent_kafka import Consumer as KafkaConsumer
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from downriver.exits import BadInput, ServerAway
from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.engine.deadletter import SUFFIX
from processors.engine.waiting import Waits
from processors.propagation.topic import ensure_topics
from processors.tables.base import PARTITIONS, Table
from schemas.registry import RegistryAway, SchemaRegistry

log = structlog.get_logger(__name__)
TIMEOUT_S = 5.0
"""Of one question to Kafka. A worker that is asked to stop meanwhile stops after it."""


async def check(settings: Settings, tables: Mapping[str, Table], waits: Waits, registry: SchemaRegistry) -> None:
    """Check the topics and subjects of the tables; create the dead-letter topics and the topic of the figures.

    Args:
        tables: by topic.

    Raises:
        BadInput: a topic with another number of partitions than its table's joins need, or a table with records whose
            subject the registry does not know.
        WaitedTooLong: a server was away past the limit.
    """
    wait = waits.begin(f"Kafka at {settings.kafka.bootstrap}")
    while True:
        try:
            filled = await asyncio.to_thread(_topics, settings, tables)
            await ensure_topics(settings)
            break
        except KafkaException as error:
            await wait.failed(error.args[0].str())
        except ServerAway as error:
            await wait.failed(str(error))
    wait.over()
    wait = waits.begin(f"the schema registry at {settings.registry.url}")
    while True:
        try:
            unknown = await asyncio.to_thread(_unknown_subjects, registry, filled)
            break
        except RegistryAway as error:
            await wait.failed(str(error))
    wait.over()
    if unknown:
        listed = ", ".join(f"{tables[topic].id} (subject {topic}-value)" for topic in unknown)
        msg = (
            f"the schema registry at {settings.registry.url} does not know: {listed}; is it the one Connect writes to?"
        )
        raise BadInput(msg)


def _topics(settings: Settings, tables: Mapping[str, Table]) -> list[str]:
    """Return the topics that hold records; create our own topics."""
    admin = AdminClient(confluent_config(settings.kafka) | {"log_level": 0})
    known = admin.list_topics(timeout=TIMEOUT_S).topics
    for topic, table in tables.items():
        if topic in known and (count := len(known[topic].partitions)) != PARTITIONS:
            msg = (
                f"{topic} has {count} partitions, the table {table.id} needs {PARTITIONS}: joined topics must be "
                "partitioned alike; recreate it with the connector's topic.creation settings"
            )
            raise BadInput(msg)
    missing = [topic for topic in tables if topic not in known]
    if missing:
        log.info("topics_missing", topics=missing, effect="read as soon as the connectors make them")
    replication = settings.kafka.replication_factor
    wanted = [
        NewTopic(topic + SUFFIX, 1, replication, config={"cleanup.policy": "delete", "retention.ms": "-1"})
        for topic in tables
    ]
    _create(admin, [topic for topic in wanted if topic.topic not in known])
    return _filled(settings, [topic for topic in tables if topic in known])


def _create(admin: AdminClient, topics: list[NewTopic]) -> None:
    from confluent_kafka import KafkaError

    if not topics:
        return
    for future in admin.create_topics(topics, operation_timeout=TIMEOUT_S).values():
        try:
            future.result(timeout=TIMEOUT_S)
        except KafkaException as error:  # another worker was faster
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def _filled(settings: Settings, topics: list[str]) -> list[str]:
    """Return those of the topics that ever held a record."""
    consumer = KafkaConsumer(
        confluent_config(settings.kafka) | {"group.id": "downriver-start", "enable.auto.commit": False}
    )
    try:
        return [
            topic
            for topic in topics
            if any(
                consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)[1] > 0
                for partition in range(PARTITIONS)
            )
        ]
    finally:
        consumer.close()


def _unknown_subjects(registry: SchemaRegistry, topics: list[str]) -> list[str]:
    return [topic for topic in topics if not registry.has_subject(f"{topic}-value")]
