"""The analytics sink against the running stack: its registry resolves the schema, its ClickHouse stores the row."""

from __future__ import annotations

import uuid
from decimal import Decimal

import clickhouse_connect
import orjson
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from downriver.settings import Settings
from processors.change import CheckedRecord, pack_version
from processors.sinks.analytics.route import AnalyticsRecord
from processors.sinks.analytics.sink import AnalyticsSink
from processors.sinks.base import APPLIED
from tests.support.avro import Capture, Record, table
from tests.support.columns import COMMITTED, sample

pytestmark = pytest.mark.stack


async def test_a_record_reaches_clickhouse_through_the_real_registry(settings: Settings) -> None:
    database = f"t_{uuid.uuid4().hex}"
    own = settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update={"database": database})})
    capture = Capture()
    row = sample("products", name="Łódka 🚀", price=Decimal("459.38"), tags=["a", None])
    record = capture.record("products", "c", after=row, lsn=4_711)
    schema = capture.registry.schema(int.from_bytes((record.value or b"")[1:5], "big"))
    registry = SchemaRegistryClient({"url": settings.registry.url})
    subject = f"{database}-value"
    sink = AnalyticsSink(own)
    reader = clickhouse_connect.get_client(
        host=settings.clickhouse.host, port=settings.clickhouse.port, tz_mode="aware", autogenerate_session_id=False
    )
    try:
        schema_id = registry.register_schema(subject, Schema(orjson.dumps(schema).decode(), "AVRO"))
        value = b"\0" + schema_id.to_bytes(4, "big") + (record.value or b"")[5:]
        sent = Record(record.topic, 0, 0, 0, record.key, value)
        await sink.open()
        command = AnalyticsRecord(CheckedRecord(sent, table("products").id, schema_id, schema))
        assert await sink.write([command, command]) == [APPLIED, APPLIED]
        await sink.shown()
        assert list(reader.query(f"SELECT * FROM {database}.products").named_results()) == [
            row | {"id": uuid.UUID(row["id"])}
        ]
        history = f"SELECT _op, _kind, _version, _committed_at FROM {database}.products_history FINAL"
        version = pack_version(own.epoch, 4_711, deleted=False)
        assert reader.query(history).result_rows == [("c", "streamed", version, COMMITTED)]
    finally:
        await sink.close()
        reader.command(f"DROP DATABASE IF EXISTS {database}")
        reader.close()
        registry.delete_subject(subject)
