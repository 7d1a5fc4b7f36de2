"""One connector as its file says it, and the few facts in it that others need: slot, publication, tables, secrets.

Pure: nothing here reads a file or connects to anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

POSTGRES_CONNECTOR = "io.debezium.connector.postgresql.PostgresConnector"
PARTITION_ROUTING = "io.debezium.transforms.partitions.PartitionRouting"
EVENT_ROUTER = "io.debezium.transforms.outbox.EventRouter"
EVENT_TOPIC = "outbox.event.${routedByValue}"
"""The topic of an outbox's event: the EventRouter puts the aggregate's type in."""
EVENT_FIELDS = {
    "route.by.field": "aggregatetype",
    "table.field.event.id": "id",
    "table.field.event.key": "aggregateid",
    "table.field.event.payload": "payload",
    "table.field.event.timestamp": "",
    "table.field.event.schema.version": "",
}
"""What an EventRouter names columns by → the column that it takes by itself."""
HEARTBEAT_TABLE = "public.downriver_heartbeat"
"""Where each lane's heartbeat query writes, so that an idle lane's position moves."""

SECRET = re.compile(
    r"password|passwd|secret|token|jaas|private|credential|passphrase|(api|access|ssl\.keystore)[._-]?key$",
    re.IGNORECASE,
)
"""Matches the keys whose values are never shown and never in a file."""
REFERENCE = re.compile(r"\$\{\w+:[^}]+\}")
"""A value that the Connect worker fills in from its environment, a file or a vault."""
IN_ADDRESS = re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
"""User and password inside of an address."""
KEEP_NULL = {
    "org.apache.kafka.connect.json.JsonConverter": ("replace.null.with.default", "false"),
    "io.confluent.connect.avro.AvroConverter": ("ignore.default.for.nullables", "true"),
    "io.confluent.connect.json.JsonSchemaConverter": ("ignore.default.for.nullables", "true"),
    "io.confluent.connect.protobuf.ProtobufConverter": ("ignore.default.for.nullables", "true"),
}
"""Value converters that can tell a NULL from the column's default (KAFKA-8713), and the setting with which they do."""
UNIQUE = ("slot.name", "publication.name", "topic.prefix")


class State(StrEnum):
    """What a file wants its connector to do; Connect's own words."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class Silence:
    """Somebody decided that a lint rule does not hold for one setting of one connector, and says why."""

    rule: str
    key: str
    reason: str
    where: str


@dataclass(frozen=True, slots=True)
class Connector:
    """One connector as its file says it.

    Attributes:
        origin: names the file in messages.
        state: what it is to do; only a Strimzi file says otherwise than RUNNING.
        places: setting → `file:line`, where it was read; empty for a connector that was made in memory.
        silences: lint rules that do not hold for it.
    """

    name: str
    config: Mapping[str, str]
    origin: str
    state: State = State.RUNNING
    places: Mapping[str, str] = field(default_factory=dict, compare=False)
    silences: tuple[Silence, ...] = field(default=(), compare=False)

    @property
    def slot(self) -> str:
        """The replication slot."""
        return self.config["slot.name"]

    @property
    def publication(self) -> str:
        """The publication."""
        return self.config["publication.name"]

    @property
    def prefix(self) -> str:
        """The topic prefix, which is also the name of the connector's partition in the offsets topic."""
        return self.config["topic.prefix"]

    @property
    def tables(self) -> tuple[str, ...]:
        """The captured tables as schema.table, the heartbeat's among them."""
        return listed(self.config, "table.include.list")

    @property
    def outboxes(self) -> frozenset[str]:
        """The captured tables whose new rows leave as events: they meet an EventRouter, and have no topic of their own."""
        return frozenset(table for table in self.tables if any(_meeting(self.config, EVENT_ROUTER, table)))

    @property
    def excluded(self) -> frozenset[str]:
        """The columns left out, as schema.table.column."""
        return frozenset(listed(self.config, "column.exclude.list"))

    @property
    def keeps_null(self) -> bool:
        """Whether its value converter sends a NULL as NULL where the column has a default."""
        key, value = KEEP_NULL.get(self.config.get("value.converter", ""), ("", ""))
        return bool(key) and self.config.get(f"value.converter.{key}") == value


def homes(connectors: Iterable[Connector]) -> dict[str, str]:
    """Return which connector captures which table; heartbeats are everybody's."""
    return {table: connector.name for connector in connectors for table in connector.tables if table != HEARTBEAT_TABLE}


def listed(config: Mapping[str, str], key: str) -> tuple[str, ...]:
    """Return the entries of a comma-separated setting, without blanks around them; none if it is not set."""
    return tuple(entry for part in config.get(key, "").split(",") if (entry := part.strip()))


def routing(config: Mapping[str, str], table: str) -> tuple[str, ...]:
    """Return what picks the partition of a table's records, `fields/partitions` for each transform that does; none: the key."""
    found = []
    for of in _meeting(config, PARTITION_ROUTING, table):
        parts = (config.get(f"{of}partition.{part}", "") for part in ("payload.fields", "topic.num", "hash.function"))
        found.append("/".join(part for part in parts if part))
    return tuple(found)


def event_columns(config: Mapping[str, str], table: str) -> frozenset[str]:
    """Return the columns of an outbox that its EventRouter asks for by name."""
    return frozenset(
        column
        for of in _meeting(config, EVENT_ROUTER, table)
        for column in (
            *(config.get(of + key, usual) for key, usual in EVENT_FIELDS.items()),
            *(part.split(":")[0] for part in listed(config, of + "table.fields.additional.placement")),
        )
        if column
    )


def _meeting(config: Mapping[str, str], type_: str, table: str) -> Iterator[str]:
    """Yield `transforms.NAME.` of each transform of that type which the table's records meet."""
    topic = f"{config.get('topic.prefix', '')}.{table}"
    for name in listed(config, "transforms"):
        of = f"transforms.{name}."
        if config.get(of + "type") != type_:
            continue
        pattern = config.get(f"predicates.{config.get(of + 'predicate', '')}.pattern", ".*")
        try:
            meets = bool(re.fullmatch(pattern, topic)) != (config.get(of + "negate") == "true")
        except re.error:
            meets = False  # Connect refuses it
        if meets:
            yield of


def renamed(connector: Connector, source: str, database: str) -> Connector:
    """Return the same connector for another source: `source`_<lane> names connector, slot, publication and topics.

    For sources beside the shop, and for tests on a shared stack. The lane is what follows the last _ of the name. Events of
    its outbox go to `source`.outbox.event.<aggregatetype>.
    """
    name = f"{source}_{connector.name.rpartition('_')[2]}"
    events = {
        key: f"{source}.{value}"
        for key, value in connector.config.items()
        if key.startswith("transforms.") and value == EVENT_TOPIC
    }
    config = dict(connector.config) | dict.fromkeys(UNIQUE, name) | {"database.dbname": database} | events
    return replace(connector, name=name, config=config)


def masked(key: str, value: str) -> str:
    """Return a setting's value as it may be shown: a secret as ***, unless it only says where the worker finds it."""
    if SECRET.search(key) and not REFERENCE.fullmatch(value):
        return "***"
    return IN_ADDRESS.sub("***", value)


def written_out(key: str, value: str) -> bool:
    """Tell whether the setting holds a secret itself, where it should say where the worker finds it."""
    if any(not REFERENCE.search(found[0]) for found in IN_ADDRESS.finditer(value)):
        return True
    if not SECRET.search(key) or not value or REFERENCE.fullmatch(value):
        return False
    if "jaas" in key.lower():  # a sentence that holds a password: it is the password that must be a reference
        passwords = re.findall(r"(?:password|secret)\w*\s*=\s*\"([^\"]*)\"", value, re.IGNORECASE)
        return any(not REFERENCE.fullmatch(password) for password in passwords)
    return True
