"""The work: Debezium envelopes of products, made from a formula, so that what a sink must hold in the end is known.

Record i is about product i % distinct; its first is a create, every further one an update with the row before and after.
Knows the wire format by the builders that the tests use; knows no server.
"""

from __future__ import annotations

import io
import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol

import fastavro

from processors.change import pack_version
from processors.tables.base import PARTITIONS
from tests.support.avro import Capture, envelope_schema, key_schema, table, wire
from tests.support.columns import COLUMNS, COMMITTED, sample

TABLE = "products"
CATEGORIES = 20
FIRST_LSN = 1 << 24
TRANSACTION = 3
"""The first ordinary transaction id there is: it has always ended, so that the primary shows it."""
_ANY = sample(TABLE)


class Schemas(Protocol):
    """Who knows schemas by id."""

    def register(self, schema: Mapping[str, Any]) -> int:
        """Keep the schema and return its id."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is in a topic.

    Attributes:
        partitions: how many of the topic's partitions hold records.
    """

    source: str
    records: int
    distinct: int
    partitions: int = PARTITIONS

    @property
    def topic(self) -> str:
        """Where the records are."""
        return table(TABLE).topic(self.source)

    def row(self, number: int, turn: int) -> dict[str, Any]:
        """Return product `number` as it is after its `turn`-th record, from 0."""
        return _ANY | {
            "id": str(uuid.UUID(int=number)),
            "sku": f"SKU-{number}",
            "name": f"Headphones {number}",
            "category": f"category-{number % CATEGORIES}",
            "price": Decimal((number * 7 + turn * 13) % 10_000_000).scaleb(-2),
            "updated_at": COMMITTED + timedelta(milliseconds=turn),
        }

    def last_turn(self, number: int) -> int:
        """Return the turn of the product's last record."""
        return (self.records - 1 - number) // self.distinct

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every product as it is in the end."""
        for number in range(min(self.distinct, self.records)):
            yield self.row(number, self.last_turn(number))

    def version(self, record: int, epoch: int) -> int:
        """Return the version that the record's change must have."""
        return pack_version(epoch, FIRST_LSN + 8 * record, deleted=False)

    def envelopes(self, schemas: Schemas) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield partition, key and value of every record, in order."""
        columns = COLUMNS[TABLE]
        of_key, of_value = key_schema(self.topic, columns, ("id",)), envelope_schema(self.topic, columns)
        key_head = struct.pack(">bI", 0, schemas.register(of_key))
        value_head = struct.pack(">bI", 0, schemas.register(of_value))
        parsed_key, parsed_value = fastavro.parse_schema(of_key), fastavro.parse_schema(of_value)
        template = self._template()
        for record in range(self.records):
            turn, number = divmod(record, self.distinct)
            before = _wired(self.row(number, turn - 1)) if turn else None
            after = _wired(self.row(number, turn))
            lsn = FIRST_LSN + 8 * record
            source = template["source"] | {"lsn": lsn, "sequence": f'["{lsn - 8}","{lsn}"]'}
            value = template | {"before": before, "after": after, "source": source, "op": "u" if turn else "c"}
            yield (
                number % self.partitions,
                _framed(key_head, parsed_key, {"id": after["id"]}),
                _framed(value_head, parsed_value, value),
            )

    def _template(self) -> dict[str, Any]:
        """Return an envelope as the tests' builder makes it, whose rows and position are then replaced."""
        capture = Capture(source=self.source)
        made = capture.record(TABLE, "c", after=self.row(0, 0), lsn=FIRST_LSN, transaction=TRANSACTION)
        schema = fastavro.parse_schema(envelope_schema(self.topic, COLUMNS[TABLE]))
        decoded: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO((made.value or b"")[5:]), schema, schema)
        return decoded


def _wired(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: wire(value) for name, value in row.items()}


def _framed(head: bytes, schema: Any, value: Mapping[str, Any]) -> bytes:
    body = io.BytesIO()
    body.write(head)
    fastavro.schemaless_writer(body, schema, value)
    return body.getvalue()
