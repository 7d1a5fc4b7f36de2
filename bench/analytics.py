"""Analytics under measurement: what the tables must hold after a replay, compared by content, and other ways to fill them."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import clickhouse_connect
import fastavro
import httpx2
from clickhouse_connect.driver.client import Client

from bench.records import TRANSACTION, Load
from downriver.settings import Settings
from processors.sinks.analytics import avro, raw
from processors.sinks.analytics.migrate import migrate, read
from tests.support.avro import envelope_schema, wire
from tests.support.columns import COLUMNS, COMMITTED

CHUNK = 50_000
NAMES = (*COLUMNS["products"], *raw.BOOKKEEPING)


@contextlib.contextmanager
def prepared(settings: Settings) -> Iterator[Client]:
    """Give a client on the run's database, made and migrated as the sink would."""
    where = settings.clickhouse
    client = clickhouse_connect.get_client(host=where.host, port=where.port, autogenerate_session_id=False)
    try:
        client.command(f"CREATE DATABASE IF NOT EXISTS {where.database}")
        client.database = where.database
        migrate(client, read())
        yield client
    finally:
        client.close()


def unequal(settings: Settings, load: Load) -> list[str]:
    """Compare every column of every row of history and current state with what the load says; tell what differs.

    The expected rows are written by the ordinary client from Python values, which never were Avro.
    """
    with prepared(settings) as client:
        client.command(
            "CREATE OR REPLACE TABLE expected AS products_history ENGINE = MergeTree ORDER BY (id, _version)"
        )
        rows = _expected(load, settings.epoch)
        while chunk := [row for _, row in zip(range(CHUNK), rows, strict=False)]:
            client.insert("expected", chunk, column_names=NAMES)
        newest = "(SELECT * FROM expected ORDER BY _version DESC LIMIT 1 BY id)"
        pairs = {
            "products_history": ("products_history FINAL", "expected", NAMES),
            "products": ("products", newest, tuple(COLUMNS["products"])),
        }
        wrong = []
        for name, (found, wanted, columns) in pairs.items():
            got, must = _content(client, found, columns), _content(client, wanted, columns)
            if got != must:
                wrong.append(f"{name}: rows, sum and exclusive or of hashes are {got}, not {must}")
        return wrong


def parse(settings: Settings, load: Load, values: Sequence[bytes]) -> float:
    """Return the seconds that the engine takes to read the records from a file into sums, in a process of its own."""
    read_as = avro.envelope(envelope_schema(load.topic, COLUMNS["products"]))
    with tempfile.TemporaryDirectory() as folder:
        blob = Path(folder) / "records.avro"
        blob.write_bytes(b"".join(values))
        columns = avro.structure(read_as, ["lsn"]).replace("'", "\\'")
        selected = "count(), sum(after.price), max(`source.lsn`)"
        query = (
            f"SELECT {selected} FROM file('{blob}', 'AvroConfluent', '{columns}') "  # noqa: S608
            f"SETTINGS format_avro_schema_registry_url='{settings.registry.url}'"
        )
        script = (
            "import sys, time, chdb; q = sys.stdin.read(); chdb.query('SELECT 1'); t = time.perf_counter(); "
            "r = chdb.query(q, 'JSONCompact'); print(time.perf_counter() - t); print(r)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], input=query, capture_output=True, text=True, timeout=600, check=True
        )
    seconds, _, answer = done.stdout.partition("\n")
    assert int(json.loads(answer)["data"][0][0]) == len(values), answer
    return float(seconds)


def one_insert(settings: Settings, load: Load, values: Sequence[bytes]) -> float:
    """Return the seconds of the sink's own statement with all records behind it, with nothing before or around it."""
    settings_of_insert = {
        "format_avro_schema_registry_url": settings.clickhouse.registry_url,
        "input_format_null_as_default": "1",
        "async_insert": "0",
    }
    with prepared(settings) as client:
        rows = client.query(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = 'products_history'"
        ).result_rows
        columns = {str(name): str(type_) for name, type_ in rows}
        envelope = avro.envelope(envelope_schema(load.topic, COLUMNS["products"]))
        statement = raw.insert("products", columns, envelope, settings.epoch)
        body = b"".join((statement.encode(), *values))
        began = time.perf_counter()
        client.raw_insert("", insert_block=body, settings=settings_of_insert)
        return time.perf_counter() - began


def rows_in_python(settings: Settings, load: Load, values: Sequence[bytes]) -> float:
    """Return the seconds of decoding the records, building rows and inserting them with the ordinary client, CHUNK each."""
    (schema_id,) = {value[1:5] for value in values}
    answer = httpx2.get(f"{settings.registry.url}/schemas/ids/{int.from_bytes(schema_id, 'big')}", timeout=30)
    schema = fastavro.parse_schema(json.loads(answer.raise_for_status().json()["schema"]))
    with prepared(settings) as client:
        began = time.perf_counter()
        for place in range(0, len(values), CHUNK):
            rows = []
            for value in values[place : place + CHUNK]:
                envelope: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, schema)
                rows.append(_row(envelope))
            client.insert("products_history", rows, column_names=NAMES)
        return time.perf_counter() - began


def _row(envelope: Any) -> list[Any]:
    row, source = envelope["after"], envelope["source"]
    committed_at = datetime.fromisoformat(row["updated_at"])
    return [
        UUID(row["id"]),
        *(row[name] for name in NAMES[1:5]),
        row["tags"] or [],
        *(row[name] for name in NAMES[6:10]),
        datetime.fromisoformat(row["created_at"]),
        datetime.fromisoformat(row["updated_at"]),
        *(envelope["op"], "streamed", source["lsn"], 0, committed_at, source["txId"], {}),
    ]


def _expected(load: Load, epoch: int) -> Iterator[list[Any]]:
    for record in range(load.records):
        turn, number = divmod(record, load.distinct)
        row = load.row(number, turn)
        before: dict[str, Any] = {}
        if turn:
            old = load.row(number, turn - 1)
            before = {name: str(wire(old[name])) for name in row if old[name] != row[name]}
        values = [UUID(row["id"]), *(row[name] for name in NAMES[1 : len(row)])]
        version = load.version(record, epoch)
        yield [*values, "u" if turn else "c", "streamed", version, 0, COMMITTED, TRANSACTION, before]


def _content(client: Client, table: str, columns: Sequence[str]) -> tuple[int, ...]:
    """Return count, sum and exclusive or of a hash over all columns: two tables with equal rows have equal ones."""
    hashed = f"cityHash64({', '.join(f'toString({name})' for name in columns)})"
    (found,) = client.query(f"SELECT count(), sum({hashed}), groupBitXor({hashed}) FROM {table}").result_rows  # noqa: S608
    return tuple(int(value) for value in found)
