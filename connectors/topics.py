"""The captured tables' topics, made before the connectors run, as the files' `topic.creation.*` settings say.

Connect makes a topic only with its first record. A worker that subscribed before would see it with its next refresh of
metadata, minutes later: too late for a rule of one minute. So they are made first, and wrong ones are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from connectors.connector import Connector
from downriver.exits import BadInput, ServerAway
from downriver.kafka import confluent_config
from downriver.settings import Kafka

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic that is there: its partitions, and how many offsets lie between its beginning and its end."""

    partitions: int
    records: int


def present(kafka: Kafka, names: Sequence[str]) -> dict[str, TopicFacts]:
    """Return those of the topics that exist.

    Raises:
        ServerAway: the brokers don't answer.
    """
    admin = AdminClient(confluent_config(kafka) | {"log_level": 0})
    try:
        found = admin.list_topics(timeout=TIMEOUT_S).topics
        places = [TopicPartition(name, number) for name in names if name in found for number in found[name].partitions]
        count = dict.fromkeys((place.topic for place in places), 0)
        for spec, sign in ((OffsetSpec.earliest(), -1), (OffsetSpec.latest(), 1)):
            asked = admin.list_offsets(dict.fromkeys(places, spec), request_timeout=TIMEOUT_S) if places else {}
            for place, answer in asked.items():
                count[place.topic] += sign * answer.result(TIMEOUT_S).offset
    except KafkaException as error:
        msg = f"Kafka at {kafka.bootstrap} does not say what the topics hold: {error.args[0].str()}"
        raise ServerAway(msg) from None
    return {name: TopicFacts(len(found[name].partitions), records) for name, records in count.items()}


def wanted(connector: Connector) -> Iterator[NewTopic]:
    """Yield the topics of a connector's tables with partitions, replication and settings as Connect would make them.

    Raises:
        BadInput: the partitions or the replication of a group are missing, or no number.
    """
    groups = [name for name in connector.config.get("topic.creation.groups", "").split(",") if name]
    for table in connector.tables:
        if table in connector.outboxes:
            continue  # Connect makes the topics of events: the aggregates' types are the application's
        topic = f"{connector.prefix}.{table}"
        group = next((name for name in groups if _includes(connector, name, topic)), "default")
        settings = _settings(connector, "default") | _settings(connector, group)
        partitions, replicas = (
            _number(connector, group, settings, key) for key in ("partitions", "replication.factor")
        )
        yield NewTopic(topic, partitions, replicas, config=settings)


def ensure(kafka: Kafka, connectors: Sequence[Connector]) -> list[str]:
    """Create the topics that are missing and return their names.

    Raises:
        BadInput: a topic exists with another number of partitions, or the broker refuses to make one.
        ServerAway: the brokers don't answer.
    """
    admin = AdminClient(confluent_config(kafka) | {"log_level": 0})
    try:
        present = {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=TIMEOUT_S).topics.items()}
    except KafkaException as error:
        msg = f"Kafka at {kafka.bootstrap} does not say which topics there are: {error.args[0].str()}"
        raise ServerAway(msg) from None
    topics = [topic for connector in connectors for topic in wanted(connector)]
    different = [
        f"\n  {topic.topic}: has {present[topic.topic]} partition(s), needs {topic.num_partitions}"
        for topic in topics
        if present.get(topic.topic, topic.num_partitions) != topic.num_partitions
    ]
    if different:
        msg = f"rows would meet in the wrong partitions; delete these topics or correct topic.creation:{''.join(different)}"
        raise BadInput(msg)
    missing = [topic for topic in topics if topic.topic not in present]
    for name, made in admin.create_topics(missing, operation_timeout=TIMEOUT_S).items() if missing else ():
        try:
            made.result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else applies at the same time
                msg = f"Kafka at {kafka.bootstrap} refuses to make the topic {name}: {error.args[0].str()}"
                raise BadInput(msg) from None
    return [topic.topic for topic in missing]


def _number(connector: Connector, group: str, settings: dict[str, str], key: str) -> int:
    value = settings.pop(key, None)
    try:
        return int(value or "")
    except ValueError:
        msg = (
            f"{connector.origin}: topic.creation.{group}.{key} = {value!r}: must be a number, "
            "for the topics are made before the connector runs"
        )
        raise BadInput(msg) from None


def _includes(connector: Connector, group: str, topic: str) -> bool:
    patterns = connector.config.get(f"topic.creation.{group}.include", "").split(",")
    return any(re.fullmatch(pattern, topic) for pattern in patterns)


def _settings(connector: Connector, group: str) -> dict[str, str]:
    prefix = f"topic.creation.{group}."
    return {
        key.removeprefix(prefix): value
        for key, value in connector.config.items()
        if key.startswith(prefix) and key not in {f"{prefix}include", f"{prefix}exclude"}
    }
