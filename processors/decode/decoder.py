"""The decoder: a record's framing checked, its stamp read cheaply, its rows decoded when a sink needs them.

Any bytes may come in; only Undecodable comes out, or the registry's own "I am away". Thread-safe: what it keeps (plans
by schema id, good for ever) is only ever added to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from processors.change import NOT_SENT, Change, CheckedRecord, Kind, Op, Origin, Record, Row, Stamp, pack_version
from processors.decode.envelope import moment, stamp_of
from processors.decode.errors import SchemaLookup, Undecodable
from processors.decode.glance import SOME
from processors.decode.plan import HEADER, KeyPlan, ValuePlan, key_plan, read, read_row, value_plan
from processors.decode.tail import Tail
from processors.decode.values import placeholders
from processors.tables.base import Table
from schemas.registry import UnknownSchema

HEARTBEAT_PREFIX = "__debezium-heartbeat"
HEARTBEAT_TABLE = "public.downriver_heartbeat"
MAX_KEY_BYTES = 64 * 1024
REFUSALS_KEPT = 256
"""Refused schema ids that are remembered for a topic, so that a flood of them is not parsed again and again."""


NOTHING: frozenset[str] = frozenset()
Plan = TypeVar("Plan", ValuePlan, KeyPlan)


@dataclass(slots=True)
class _Topic:
    """What is known of one topic."""

    name: str
    table: Table
    prefix: str
    values: dict[bytes, ValuePlan] = field(default_factory=dict)
    keys: dict[bytes, KeyPlan] = field(default_factory=dict)
    refusals: dict[tuple[str, bytes], Undecodable] = field(default_factory=dict)


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
        return CheckedRecord(record, topic.table.id, plan.schema_id, plan.schema, plan.shared)

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
        known = envelope["source"].get("db"), envelope["source"].get("version")
        if plan.learned_from != known:
            plan.learned_from, plan.tail = known, Tail.learn(plan.parsed, envelope["source"])
        return stamp

    def glance(self, checked: CheckedRecord, stamp: Stamp, columns: frozenset[str]) -> tuple[Row | None, Row | None]:
        """Return the rows before and after, of which at least `columns` were read, where the record has them.

        Args:
            stamp: of the same record.

        Raises:
            Undecodable: the record is not the envelope that its schema promises.
        """
        _, plan, value = self._of(checked)
        glance = plan.glance(columns)
        if glance is not None and stamp.rows_end and self._placeholder not in value:
            try:
                before, at = _branch(value, HEADER, glance.read)
                after, at = _branch(value, at, glance.read)
            except Exception:  # whatever it is: the long way says it, or gets over it
                at = 0
            if at == stamp.rows_end:
                _check_rows(stamp.op, before, after)
                return before, after
        change = self.change(checked, stamp)
        return change.before, change.after

    def change(self, checked: CheckedRecord, stamp: Stamp, *, before: bool = True) -> Change:
        """Decode a checked record, rows and key.

        Args:
            stamp: of the same record.
            before: whether the row before is wanted; if not, it is None unless the row after lacks something.

        Raises:
            Undecodable: the record is not the envelope that its schema promises.
        """
        _, plan, value = self._of(checked)
        unavailable = self._placeholders if plan.row.holds_int_array or self._placeholder in value else None
        rows = self._rows(plan, value, stamp, before=before or unavailable is not None)
        if rows is None:
            envelope = read(value, plan.parsed, "value")
            rows = envelope["before"], envelope["after"]
        row_before, row_after = (None if row is None else plan.row.finish(row, unavailable) for row in rows)
        _check_rows(stamp.op, row_before, row_after)
        return self._change(checked.record, stamp, row_before, row_after)

    def whole(self, checked: CheckedRecord) -> bool:
        """Return whether the record holds every column, none left out as unchanged; False where that is not certain."""
        _, plan, value = self._of(checked)
        return not plan.row.holds_int_array and self._placeholder not in value

    def partial(self, checked: CheckedRecord, stamp: Stamp, rows: tuple[Row | None, Row | None]) -> Change:
        """Return the change with its key and what is known of its rows: for a route that reads no more.

        Args:
            stamp: of the same record.
            rows: before and after, from `glance`, or None twice.

        Raises:
            Undecodable: the record key is not what its schema promises.
        """
        return self._change(checked.record, stamp, *rows)

    def _change(self, record: Record, stamp: Stamp, before: Row | None, after: Row | None) -> Change:
        topic = self._topics[record.topic]
        deleted = stamp.op is Op.DELETE
        return Change(
            self._source,
            topic.table.id,
            stamp.op,
            self._key(topic, record.key, before if deleted else after),
            before,
            after,
            0 if stamp.kind is Kind.SNAPSHOT else pack_version(self._epoch, stamp.lsn, deleted=deleted),
            moment(stamp.committed_us),
            stamp.transaction,
            Origin(record.topic, record.partition, record.offset, stamp.kind),
        )

    @staticmethod
    def _rows(
        plan: ValuePlan, value: bytes, stamp: Stamp, *, before: bool
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None] | None:
        """Decode the rows alone, the one before only if it is wanted; None if the whole record must be decoded."""
        skim = plan.glance(NOTHING)
        if plan.alone is None or skim is None or not stamp.rows_end:
            return None
        read_it = partial(read_row, parsed=plan.alone)
        try:
            first, at = _branch(value, HEADER, read_it if before else skim.read)
            second, at = _branch(value, at, read_it)
        except Exception:  # whatever it is: the long way says it, or gets over it
            return None
        return (first if before else None, second) if at == stamp.rows_end else None

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
            raise type(refusal)(str(refusal))
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
            topic.refusals[what, bytes(data[:HEADER])] = error
            raise

    def _key(self, topic: _Topic, key: bytes | None, row: Row | None) -> Row:
        """Decode the record key, and hold it against the row: a key that is not the row's would change another row."""
        plan = self._check_key(topic, key)
        made = self._quick_key(plan, key or b"")
        if made is None:
            decoded = plan.row.finish(read(key or b"", plan.parsed, "key"), None)
            made = {name: decoded[name] for name in topic.table.key}
        if row:
            for name, value in made.items():
                if row.get(name, value) != value:
                    msg = f"column {name} differs between record key and row"
                    raise Undecodable(msg)
        return made

    @staticmethod
    def _quick_key(plan: KeyPlan, key: bytes) -> dict[str, Any] | None:
        """Decode an ordinary key; None if the library must."""
        if plan.glance is None:
            return None
        try:
            decoded, end = plan.glance.read(key, HEADER)
        except Exception:
            return None
        return decoded if end == len(key) else None


def _branch(
    value: bytes, start: int, read_it: Callable[[bytes, int], tuple[dict[str, Any], int]]
) -> tuple[dict[str, Any] | None, int]:
    """Read a row that may be null; return it and where it ends. Raises for a branch that the union does not have."""
    branch = value[start]
    if branch == 0:
        return None, start + 1
    if branch != SOME:
        raise ValueError
    return read_it(value, start + 1)


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
