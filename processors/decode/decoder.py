"""The decoder: a record's framing checked, its stamp read cheaply, its rows decoded when a sink needs them.

Any bytes may come in; only Undecodable comes out, or the registry's own "I am away". Thread-safe: what it keeps (plans
by schema id, good for ever) is only ever added to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from processors.change import NOT_SENT, Change, CheckedRecord, Kind, Op, Origin, Record, Row, Stamp, pack_version
from processors.decode.envelope import committed_at, stamp_of
from processors.decode.errors import SchemaLookup, Undecodable
from processors.decode.plan import HEADER, KeyPlan, RowPlan, ValuePlan, key_plan, read, value_plan
from processors.decode.tail import Tail
from processors.decode.values import placeholders
from processors.tables.base import Table
from schemas.registry import UnknownSchema

HEARTBEAT_PREFIX = "__debezium-heartbeat"
HEARTBEAT_TABLE = "public.downriver_heartbeat"
MAX_KEY_BYTES = 64 * 1024
REFUSALS_KEPT = 256
"""Refused schema ids that are remembered for a topic, so that a flood of them is not parsed again and again."""


Plan = TypeVar("Plan", ValuePlan, KeyPlan)


@dataclass(slots=True)
class _Topic:
    """What is known of one topic."""

    name: str
    table: Table
    prefix: str
    values: dict[bytes, ValuePlan] = field(default_factory=dict)
    keys: dict[bytes, KeyPlan] = field(default_factory=dict)
    refusals: dict[tuple[str, bytes], str] = field(default_factory=dict)


class Decoder:
    """Decodes the records of one source's topics."""

    def __init__(
        self,
        source: str,
        epoch: int,
        tables: Sequence[Table],
        registry: SchemaLookup,
        max_bytes: int,
        *,
        placeholder: str = NOT_SENT,
    ) -> None:
        """Make a decoder; nothing is asked yet.

        Args:
            source: names the database, and starts its topics' names.
            epoch: 1..63, see `pack_version`.
            tables: the captured tables; records of other topics are Undecodable.
            max_bytes: a larger record is Undecodable.
            placeholder: the connectors' `unavailable.value.placeholder`.
        """
        self._source = source
        self._epoch = epoch
        self._registry = registry
        self._max_bytes = max_bytes
        self._placeholders = placeholders(placeholder)
        self._placeholder = placeholder.encode()
        topics = {table.topic(source): table for table in tables}
        self._topics = {name: _Topic(name, table, name.removesuffix(f".{table.id}")) for name, table in topics.items()}

    def check(self, record: Record) -> CheckedRecord | None:
        """Check the framing of a record; None if there is nothing to deliver (a tombstone, a heartbeat).

        Raises:
            Undecodable: the record can't be delivered, ever.
            RegistryAway: the registry does not say what its schema is; ask again later.
        """
        topic = self._topics.get(record.topic)
        if topic is None:
            _let_heartbeats_pass(record.topic)
            return None
        value = record.value
        if value is None:
            return None
        if len(value) > self._max_bytes:
            msg = f"the record holds {len(value):,} bytes, over the limit of {self._max_bytes:,} (worker.max_record_bytes)"
            raise Undecodable(msg)
        plan = topic.values.get(value[:HEADER]) or self._new_value_plan(topic, value)
        key = record.key
        if key is None or key[:HEADER] not in topic.keys or len(key) > MAX_KEY_BYTES:
            self._check_key(topic, key)
        return CheckedRecord(record, topic.table.id, plan.schema_id, plan.schema)

    def stamp(self, checked: CheckedRecord) -> Stamp:
        """Return what the rules need of a checked record, in most cases without decoding its rows.

        Raises:
            Undecodable: the record is not the envelope that its schema promises.
        """
        topic, plan, value = self._of(checked)
        if plan.tail is not None:
            stamp = plan.tail.read(value)
            if stamp is not None:
                return stamp
        envelope = read(value, plan.parsed, "value")
        stamp = stamp_of(envelope, topic.table, topic.prefix)
        database = envelope["source"].get("db")
        if plan.learned_from != database:
            plan.learned_from, plan.tail = database, Tail.learn(plan.parsed, envelope["source"])
        return stamp

    def change(self, checked: CheckedRecord) -> Change:
        """Decode a checked record, rows and key.

        Raises:
            Undecodable: the record is not the envelope that its schema promises.
        """
        topic, plan, value = self._of(checked)
        envelope = read(value, plan.parsed, "value")
        stamp = stamp_of(envelope, topic.table, topic.prefix)
        unavailable = self._placeholders if plan.row.holds_int_array or self._placeholder in value else None
        before = self._row(plan.row, envelope["before"], unavailable)
        after = self._row(plan.row, envelope["after"], unavailable)
        _check_rows(stamp.op, before, after)
        record = checked.record
        snapshot = stamp.kind is Kind.SNAPSHOT
        deleted = stamp.op is Op.DELETE
        return Change(
            source=self._source,
            table=topic.table.id,
            op=stamp.op,
            key=self._key(topic, record.key, before if deleted else after),
            before=before,
            after=after,
            version=0 if snapshot else pack_version(self._epoch, stamp.lsn, deleted=deleted),
            committed_at=committed_at(envelope["source"]),
            transaction=stamp.transaction,
            origin=Origin(record.topic, record.partition, record.offset, stamp.kind),
        )

    def keyed(self, checked: CheckedRecord, stamp: Stamp) -> Change:
        """Return the change with its key alone, `before` and `after` left undecoded (None): for a route that reads no more.

        Args:
            stamp: of the same record.

        Raises:
            Undecodable: the record key is not what its schema promises.
        """
        topic, record = self._topics[checked.record.topic], checked.record
        snapshot = stamp.kind is Kind.SNAPSHOT
        return Change(
            source=self._source,
            table=topic.table.id,
            op=stamp.op,
            key=self._key(topic, record.key, None),
            before=None,
            after=None,
            version=0 if snapshot else pack_version(self._epoch, stamp.lsn, deleted=stamp.op is Op.DELETE),
            committed_at=datetime.fromtimestamp(stamp.committed_ms / 1000, UTC),
            transaction=stamp.transaction,
            origin=Origin(record.topic, record.partition, record.offset, stamp.kind),
        )

    def _of(self, checked: CheckedRecord) -> tuple[_Topic, ValuePlan, bytes]:
        topic = self._topics[checked.record.topic]
        value = checked.value
        return topic, topic.values.get(value[:HEADER]) or self._new_value_plan(topic, value), value

    def _new_value_plan(self, topic: _Topic, value: bytes) -> ValuePlan:
        return topic.values.setdefault(bytes(value[:HEADER]), self._plan(topic, value, "value", value_plan))

    def _check_key(self, topic: _Topic, key: bytes | None) -> KeyPlan:
        """Return the plan for a record key, which must be there and framed like a value."""
        if key is None:
            msg = f"the record has no key; the key of {topic.table.id} is {', '.join(topic.table.key)}"
            raise Undecodable(msg)
        if len(key) > MAX_KEY_BYTES:
            msg = f"the record key holds {len(key):,} bytes, over the limit of {MAX_KEY_BYTES:,}"
            raise Undecodable(msg)
        known = topic.keys.get(key[:HEADER])
        if known is not None:
            return known
        return topic.keys.setdefault(bytes(key[:HEADER]), self._plan(topic, key, "key", key_plan))

    def _plan(
        self, topic: _Topic, data: bytes, what: str, make: Callable[[str, Table, int, Mapping[str, Any]], Plan]
    ) -> Plan:
        """Make the plan for framed data, or refuse its schema, and remember that."""
        if len(data) <= HEADER:
            msg = f"the {what} is {len(data)} bytes long: too short for byte 0, a schema id and a body"
            raise Undecodable(msg)
        if data[0] != 0:
            msg = f"the {what} starts with byte {data[0]}, not 0: it is not in the registry's wire format"
            raise Undecodable(msg)
        refusal = topic.refusals.get((what, data[:HEADER]))
        if refusal is not None:
            raise Undecodable(refusal)
        schema_id = int.from_bytes(data[1:HEADER], "big")
        try:
            schema = self._registry.schema(schema_id)
        except UnknownSchema as error:
            msg = f"the registry knows no schema {schema_id}, which the {what} names"
            raise Undecodable(msg) from error
        try:
            return make(topic.name, topic.table, schema_id, schema)
        except Undecodable as error:
            if len(topic.refusals) >= REFUSALS_KEPT:
                topic.refusals.clear()
            topic.refusals[what, bytes(data[:HEADER])] = str(error)
            raise

    def _key(self, topic: _Topic, key: bytes | None, row: Row | None) -> Row:
        """Decode the record key, and hold it against the row: a key that is not the row's would change another row."""
        plan = self._check_key(topic, key)
        decoded = plan.row.finish(read(key or b"", plan.parsed, "key"), None)
        made = {name: decoded[name] for name in topic.table.key}
        for name, value in made.items():
            if row is not None and (name not in row or row[name] != value):
                msg = f"column {name} differs between record key and row"
                raise Undecodable(msg)
        return made

    @staticmethod
    def _row(plan: RowPlan, row: dict[str, Any] | None, unavailable: Sequence[Any] | None) -> Row | None:
        return None if row is None else plan.finish(row, unavailable)


def _let_heartbeats_pass(topic: str) -> None:
    """Refuse a record of a topic that no table has, unless it holds heartbeats."""
    if not topic.startswith(HEARTBEAT_PREFIX) and not topic.endswith(f".{HEARTBEAT_TABLE}"):
        msg = f"topic {topic} is that of no captured table"
        raise Undecodable(msg)


def _check_rows(op: Op, before: Row | None, after: Row | None) -> None:
    """Refuse an envelope whose rows contradict its op."""
    if op is Op.DELETE:
        if after is not None:
            raise Undecodable("op is d (delete), yet there is a row after it")
    elif after is None:
        msg = f"op is {op.value}, yet there is no row after it"
        raise Undecodable(msg)
    elif op is not Op.UPDATE and before is not None:
        msg = f"op is {op.value}, yet there is a row before it"
        raise Undecodable(msg)
