"""The compacted topic that holds the states: its name and settings, and a reader that follows it.

It moves bytes by key and knows nothing of rules or figures, but that a visible offset can't be past a partition's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

import aiokafka.errors
import stamina
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from downriver.exits import BadInput, DownriverError, ServerAway
from downriver.kafka import aiokafka_config, confluent_config
from downriver.settings import Settings
from downriver.versions import UnknownVersion
from processors.propagation.state import State, StateKey

TIMEOUT_S = 10.0
TOPIC_CONFIG = {
    "cleanup.policy": "compact",
    # a state is published about each second, and every worker reads the topic at its start: compact soon and often
    "segment.bytes": str(16 * 2**20),
    "segment.ms": str(10 * 60 * 1000),
    "min.cleanable.dirty.ratio": "0.2",
}


def topic_name(settings: Settings) -> str:
    """Return the name of the topic that holds the states."""
    return f"{settings.group_prefix}.propagation"


async def ensure_topics(settings: Settings) -> None:
    """Create the topic if it is missing: one partition, so that one read to its end has seen everything.

    Raises:
        BadInput: it exists, with several partitions or without compaction.
        ServerAway: Kafka did not answer.
    """
    await asyncio.to_thread(_ensure, settings)


def _ensure(settings: Settings) -> None:
    name = topic_name(settings)
    admin = AdminClient(confluent_config(settings.kafka) | {"log_level": 0})
    topic = NewTopic(name, 1, settings.kafka.replication_factor, config=TOPIC_CONFIG)
    try:
        if name not in admin.list_topics(timeout=TIMEOUT_S).topics and _created(admin, topic):
            return
        for attempt in stamina.retry_context(on=_unheard_of, attempts=None, timeout=TIMEOUT_S):
            with attempt:
                policy, partitions = _described(admin, name)
    except KafkaException as error:
        msg = f"Kafka at {settings.kafka.bootstrap} did not answer for the topic {name}: {error.args[0].str()}"
        raise ServerAway(msg) from None
    if policy != "compact" or partitions != 1:
        msg = (
            f"the topic {name} has cleanup.policy={policy} and {partitions} partition(s); it needs compact and 1: "
            "delete it (the figures start anew) or set another group_prefix"
        )
        raise BadInput(msg)


def _created(admin: AdminClient, topic: NewTopic) -> bool:
    """Create the topic; False if another worker was faster: what it made is then checked like any other."""
    try:
        admin.create_topics([topic], operation_timeout=TIMEOUT_S)[topic.topic].result(timeout=TIMEOUT_S * 2)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
        return False
    return True


def _described(admin: AdminClient, name: str) -> tuple[str, int]:
    """Return the topic's cleanup policy and number of partitions."""
    described = admin.describe_topics(TopicCollection([name]), request_timeout=TIMEOUT_S)[name]
    partitions = len(described.result(timeout=TIMEOUT_S * 2).partitions)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    config = admin.describe_configs([resource], request_timeout=TIMEOUT_S)[resource].result(timeout=TIMEOUT_S * 2)
    return str(config["cleanup.policy"].value), partitions


def _unheard_of(error: Exception) -> bool:
    """Whether the broker that was asked has not heard yet of a topic that was just made."""
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def away(settings: Settings, error: aiokafka.errors.KafkaError) -> str:
    """Return the sentence that tells a person that Kafka is away."""
    connecting = isinstance(error, aiokafka.errors.KafkaConnectionError)
    said = "no broker answers" if connecting else str(error) or type(error).__name__
    return f"Kafka at {settings.kafka.bootstrap} is away: {said}"


class StateReader:
    """Reads the topic from its start and follows it, without a consumer group. Use as an async context manager.

    Every method raises aiokafka's KafkaError when Kafka is away.
    """

    def __init__(self, settings: Settings) -> None:
        self._topic = topic_name(settings)
        self._partition = TopicPartition(self._topic, 0)
        self._states: dict[StateKey, bytes] = {}
        self._assigned = False
        self.consumer = AIOKafkaConsumer(
            **aiokafka_config(settings.kafka),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=int(TIMEOUT_S * 1000),
        )

    async def __aenter__(self) -> Self:
        try:
            await self.consumer.start()
        except BaseException:
            await self.consumer.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.consumer.stop()

    async def read(self) -> Mapping[StateKey, bytes]:
        """Read what was written up to now; return the newest value of every key. Empty while there is no topic.

        Raises:
            DownriverError: a record in the topic is not ours.
        """
        if not self._assigned:
            if self._topic not in await self.consumer.topics():
                return {}
            self.consumer.assign([self._partition])
            self._assigned = True
        end = (await self.consumer.end_offsets([self._partition]))[self._partition]
        while await self.consumer.position(self._partition) < end:
            for records in (await self.consumer.getmany(timeout_ms=500, max_records=1000)).values():
                for record in records:
                    self._take(record.offset, record.key, record.value)
        return dict(self._states)

    def _take(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        try:
            whose = StateKey.decode(key)
        except ValueError as error:
            msg = f"{self._topic}, offset {offset}: {error}; the topic belongs to Downriver alone"
            raise DownriverError(msg) from None
        if value is None:
            self._states.pop(whose, None)
        else:
            self._states[whose] = value


def decoded(settings: Settings, key: StateKey, value: bytes) -> State:
    """Return the state in the topic's record.

    Raises:
        DownriverError: it is no state, or one of another version.
    """
    try:
        return State.decode(value)
    except UnknownVersion as error:
        msg = f"{topic_name(settings)}, key {key.encode().decode()}: {error}"
        raise DownriverError(msg) from None
    except ValueError as error:
        msg = (
            f"{topic_name(settings)}, key {key.encode().decode()}: {error}; delete the topic to start the figures anew"
        )
        raise DownriverError(msg) from None


async def end_offsets(consumer: AIOKafkaConsumer, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return the end offset of each of the partitions that exist; those of unknown topics are left out."""
    known = await consumer.topics()
    wanted = [TopicPartition(topic, partition) for topic, partition in partitions if topic in known]
    ends = await consumer.end_offsets(wanted) if wanted else {}
    return {(partition.topic, partition.partition): end for partition, end in ends.items()}


async def disbelieve_lost_topics(
    consumer: AIOKafkaConsumer, states: Mapping[StateKey, State], ends: Mapping[tuple[str, int], int]
) -> None:
    """Set the visible offset to 0 where it is past the partition's end: the topic was made anew, none of it is seen.

    The figures stay: they tell of changes that readers did see.

    Args:
        ends: known end offsets; where they are not enough, the brokers are asked again, as a state may be newer.
    """
    ahead = {key[1:] for key, state in states.items() if state.visible > ends.get(key[1:], 0)}
    newer = await end_offsets(consumer, ahead) if ahead else {}
    for key, state in states.items():
        if key[1:] in ahead and state.visible > newer.get(key[1:], 0):
            state.visible = 0


async def load_states(settings: Settings, sink: str) -> dict[tuple[str, int], bytes]:
    """Return the stored state of every partition at that sink, as of now.

    Raises:
        KafkaError: Kafka is away (aiokafka's).
        DownriverError: the topic holds what is no state.
    """
    async with StateReader(settings) as reader:
        stored = await reader.read()
        states = {key: decoded(settings, key, value) for key, value in stored.items() if key.sink == sink}
        await disbelieve_lost_topics(reader.consumer, states, {})
    return {(key.topic, key.partition): state.encode() for key, state in states.items()}
