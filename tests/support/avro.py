"""Records as the connectors write them: Debezium 3.7 envelopes, Avro in the Confluent wire format.

For tests that need a Kafka record without Kafka. The field order, unions and connect.* attributes are those that the
Avro converter registers; rows come from tests.support.columns: `Capture().record("products", "c", after=sample("products"))`.
Knows the tables, no server.
"""

from __future__ import annotations

import io
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import fastavro
import orjson

from processors.tables import TABLES
from processors.tables.base import Table
from schemas.registry import UnknownSchema
from tests.support.columns import COLUMNS, COMMITTED, named, optional, required

VERSION = "3.7.0.Final"


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record, with the attributes of aiokafka's ConsumerRecord that we use."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class Registry:
    """A schema registry in memory: ids count up from `first`; the same schema keeps its id."""

    def __init__(self, first: int = 1) -> None:
        self._first = first
        self._schemas: list[Mapping[str, Any]] = []
        self.asked: list[int] = []
        """Every id that was looked up, in order."""

    def register(self, schema: Mapping[str, Any]) -> int:
        """Keep the schema and return its id."""
        if schema not in self._schemas:
            self._schemas.append(schema)
        return self._first + self._schemas.index(schema)

    def schema(self, schema_id: int) -> Mapping[str, Any]:
        """Return the schema of that id, or raise UnknownSchema."""
        self.asked.append(schema_id)
        if not 0 <= schema_id - self._first < len(self._schemas):
            msg = f"schema id {schema_id} is not in this test's registry"
            raise UnknownSchema(msg)
        return self._schemas[schema_id - self._first]


SNAPSHOTS = "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"


def table(name: str) -> Table:
    """Return the captured table of that name."""
    return next(table for table in TABLES if table.id.name == name)


def source_schema(*, origin: bool = True) -> dict[str, Any]:
    """Return the schema of Debezium's source block; `origin`: with the fields of replication origins."""
    snapshot = named(
        "string", "io.debezium.data.Enum", **{"connect.parameters": {"allowed": SNAPSHOTS}, "connect.default": "false"}
    )
    optional_long, optional_string = optional("long"), optional("string")
    fields: dict[str, Any] = {
        "version": required("string"),
        "connector": required("string"),
        "name": required("string"),
        "ts_ms": required("long"),
        "snapshot": {"type": [snapshot, "null"], "default": "false"},
        "db": required("string"),
        "sequence": optional_string,
        "ts_us": optional_long,
        "ts_ns": optional_long,
        "schema": required("string"),
        "table": required("string"),
        "txId": optional_long,
        "lsn": optional_long,
        "xmin": optional_long,
    }
    if origin:
        fields |= {"origin": optional_string, "origin_lsn": optional_long}
    return {
        "type": "record",
        "name": "Source",
        "namespace": "io.debezium.connector.postgresql",
        "fields": [{"name": name} | type_ for name, type_ in fields.items()],
        "connect.name": "io.debezium.connector.postgresql.Source",
    }


def envelope_schema(topic: str, columns: Mapping[str, Mapping[str, Any]], *, origin: bool = True) -> dict[str, Any]:
    """Return the value schema of a topic whose rows have `columns` (name → Avro field without the name)."""
    row = {
        "type": "record",
        "name": "Value",
        "fields": [{"name": name} | dict(type_) for name, type_ in columns.items()],
        "connect.name": f"{topic}.Value",
    }
    block = {
        "type": "record",
        "name": "block",
        "namespace": "event",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "total_order", "type": "long"},
            {"name": "data_collection_order", "type": "long"},
        ],
        "connect.version": 1,
        "connect.name": "event.block",
    }
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": topic,
        "fields": [
            {"name": "before", "type": ["null", row], "default": None},
            {"name": "after", "type": ["null", "Value"], "default": None},
            {"name": "source", "type": source_schema(origin=origin)},
            {"name": "transaction", "type": ["null", block], "default": None},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": ["null", "long"], "default": None},
            {"name": "ts_us", "type": ["null", "long"], "default": None},
            {"name": "ts_ns", "type": ["null", "long"], "default": None},
        ],
        "connect.version": 2,
        "connect.name": f"{topic}.Envelope",
    }


def key_schema(topic: str, columns: Mapping[str, Mapping[str, Any]], key: Sequence[str]) -> dict[str, Any]:
    """Return the key schema of a topic whose record key is `key`, columns of `columns`."""
    return {
        "type": "record",
        "name": "Key",
        "namespace": topic,
        "fields": [{"name": name} | dict(columns[name]) for name in key],
        "connect.name": f"{topic}.Key",
    }


def encode(schema: Mapping[str, Any], value: Mapping[str, Any], schema_id: int) -> bytes:
    """Return byte 0, the 4-byte id and the Avro body."""
    body = io.BytesIO()
    body.write(struct.pack(">bI", 0, schema_id))
    fastavro.schemaless_writer(body, fastavro.parse_schema(dict(schema)), dict(value))
    return body.getvalue()


def wire(value: Any) -> Any:
    """Return a column's Python value as the connector hands it to the converter."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return (value - date(1970, 1, 1)).days
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return value


def _wired(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {name: wire(value) for name, value in row.items()}


@dataclass
class Capture:
    """Makes records as the connectors of one source would: ids from `registry`, offsets rising per partition."""

    source: str = "shop"
    registry: Registry = field(default_factory=Registry)
    database: str = "shop"
    origin_fields: bool = True
    columns: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: dict(COLUMNS))
    _offsets: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))

    def record(
        self,
        table_name: str,
        op: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        lsn: int | None = 24_023_128,
        transaction: int | None = 771,
        committed_at: datetime = COMMITTED,
        snapshot: str | None = "false",
        origin: str | None = None,
        version: str = VERSION,
        block: Mapping[str, Any] | None = None,
        partition: int = 0,
        offset: int | None = None,
        **source: Any,
    ) -> Record:
        """Return one record of the table. `source` replaces fields of the source block, for records gone wrong."""
        made = table(table_name)
        topic, columns = made.topic(self.source), self.columns[table_name]
        committed_us = (committed_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        block_of_source: dict[str, Any] = {
            "version": version,
            "connector": "postgresql",
            "name": topic.removesuffix(f".{made.id}"),
            "ts_ms": committed_us // 1000,
            "snapshot": snapshot,
            "db": self.database,
            "sequence": None if lsn is None else f'["{lsn - 8}","{lsn}"]',
            "ts_us": committed_us,
            "ts_ns": committed_us * 1000,
            "schema": made.id.schema,
            "table": made.id.name,
            "txId": transaction,
            "lsn": lsn,
            "xmin": None,
        }
        if self.origin_fields:
            block_of_source |= {"origin": origin, "origin_lsn": None}
        schema = envelope_schema(topic, columns, origin=self.origin_fields)
        value = {
            "before": _wired(before),
            "after": _wired(after),
            "source": block_of_source | source,
            "transaction": block,
            "op": op,
            "ts_ms": committed_us // 1000 + 12,
            "ts_us": committed_us + 12_345,
            "ts_ns": committed_us * 1000 + 12_345_678,
        }
        row = after if after is not None else before
        return self._placed(
            topic,
            partition,
            offset,
            key=self.key(table_name, row or {}),
            value=encode(schema, value, self.registry.register(schema)),
            timestamp=committed_us // 1000 + 20,
        )

    def key(self, table_name: str, row: Mapping[str, Any]) -> bytes | None:
        """Return the framed record key of a row; None if the row lacks a key column."""
        made = table(table_name)
        if not set(made.key) <= set(row):
            return None
        schema = key_schema(made.topic(self.source), self.columns[table_name], made.key)
        return encode(schema, _wired({name: row[name] for name in made.key}) or {}, self.registry.register(schema))

    def tombstone(self, table_name: str, row: Mapping[str, Any], *, partition: int = 0) -> Record:
        """Return the record without a value that compaction needs after a delete."""
        topic = table(table_name).topic(self.source)
        return self._placed(topic, partition, None, key=self.key(table_name, row), value=None, timestamp=0)

    def _placed(
        self, topic: str, partition: int, offset: int | None, *, key: bytes | None, value: bytes | None, timestamp: int
    ) -> Record:
        if offset is None:
            offset = self._offsets[topic, partition]
        self._offsets[topic, partition] = offset + 1
        return Record(topic, partition, offset, timestamp, key, value)
