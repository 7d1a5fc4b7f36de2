"""The local ClickHouse, checked with clickhouse-connect's own features, sync and async; it starts a front of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import clickhouse_connect
import cramjam
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData

from tests.support.avro import Capture
from tests.support.clickhouse import Front, running_front, served
from tests.support.columns import sample

MOMENT = datetime(2026, 3, 29, 1, 30, 0, 123_456, tzinfo=UTC)
TYPES = """
    id UInt64, name String, price Decimal(10, 2), at DateTime64(6, 'UTC'), tags Array(Nullable(String)),
    kind LowCardinality(String), maybe Nullable(Int32), key UUID, flag Bool, old Map(LowCardinality(String), Nullable(String))
"""
ROW: list[Any] = [
    2**63,
    "ü \t\n'\"\\ \x00 🚀",
    Decimal("-12345678.90"),
    MOMENT,
    ["a", None, ""],
    "k",
    None,
    uuid.UUID("6ec0bd7f-11c0-43da-975e-2a8ad9ebae0b"),
    True,
    {"a": None, "b": "c"},
]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A front under a zone with an odd offset, in a folder with a space."""
    with running_front(tmp_path_factory.mktemp("with space") / "click house", TZ="Asia/Kathmandu") as running:
        yield running


@pytest.fixture
def client(front: Front, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client with a database of its own."""
    name = f"t_{uuid.uuid4().hex}"
    with clickhouse_connect.get_client(port=front.port, host="127.0.0.1", tz_mode="aware") as made:
        made.command(f"CREATE DATABASE {name}")
        made.database = name
        yield made
        made.command(f"DROP DATABASE {name}")


def test_who_it_is(client: Client) -> None:
    assert client.ping()
    assert client.server_version is not None
    assert int(client.server_version.split(".")[0]) >= 26
    assert client.command("SELECT version()") == client.server_version


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_every_type_comes_back_as_it_was_inserted(front: Front, client: Client, compress: bool | str) -> None:
    client.command(f"CREATE TABLE t ({TYPES}) ENGINE = MergeTree ORDER BY id")
    with clickhouse_connect.get_client(
        host="127.0.0.1", port=front.port, database=client.database, compress=compress, tz_mode="aware"
    ) as other:
        summary = other.insert("t", [ROW, [1, *ROW[1:]]])
        assert summary.written_rows == 2
        assert other.query("SELECT * FROM t ORDER BY id DESC").result_rows == [tuple(ROW), (1, *ROW[1:])]


def test_parameters_settings_and_formats(client: Client) -> None:
    text = "it's \\ \n\t {x:Int32} ü"
    got = client.query(
        """SELECT {n:Int32} + 1 AS n, {s:String} AS s, {a:Array(String)} AS a, {i:Identifier}
           FROM (SELECT 7 AS q) WHERE {d:DateTime64(6)} = toDateTime64('2026-03-29 01:30:00.123456', 6, 'UTC')""",
        parameters={"n": 4, "s": text, "d_64": MOMENT, "a": ["x", "y'"], "i": "q"},
    )
    assert got.result_rows == [(5, text, ["x", "y'"], 7)]
    assert client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 4711}).result_rows == [
        (4711,)
    ]
    assert client.query("SELECT getSetting('max_block_size')").result_rows != [(4711,)]
    assert client.raw_query("SELECT 1 AS a, 'x' AS b", fmt="JSONEachRow") == b'{"a":1,"b":"x"}\n'
    assert client.raw_query("SELECT 1 AS a FORMAT CSVWithNames") == b'"a"\n1\n'
    assert client.command("SELECT 1, 'a'") == ["1", "a"]
    assert client.query("SELECT 'x' AS a WHERE 0").column_names == ("a",)
    assert client.query("SELECT 'x' AS a LIMIT 0").column_names == ("a",)


def test_long_parameters_travel_as_a_form(front: Front) -> None:
    words = [f"wört {number}" for number in range(5_000)]
    with clickhouse_connect.get_client(host="127.0.0.1", port=front.port, form_encode_query_params=True) as client:
        query = "SELECT arrayStringConcat({words:Array(String)}, ',')"
        assert client.query(query, parameters={"words": words}).result_rows == [(",".join(words),)]


def test_external_data_is_a_table_for_one_query(client: Client) -> None:
    data = ExternalData(
        file_name="people.csv", data=b"1,ann\n2,b\xc3\xb6b\n", fmt="CSV", structure="id Int32, name String"
    )
    query = "SELECT name FROM people ORDER BY id DESC"
    assert client.query(query, external_data=data).result_rows == [("böb",), ("ann",)]
    with pytest.raises(DatabaseError):
        client.query(query)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd", "gzip"])
def test_raw_inserts_in_any_format(client: Client, compression: str | None) -> None:
    client.command("CREATE TABLE t (a Int32, b String) ENGINE = MergeTree ORDER BY a")
    bodies = {
        "CSV": b'1,"x, y"\n',
        "TabSeparated": b"2\tx\\ty\n",
        "JSONEachRow": b'{"a": 3, "b": "FORMAT CSV"}\n',
        "Values": "(4, 'ü')".encode(),
        "RowBinary": b"\x05\x00\x00\x00\x01z",
    }
    for format_, body in bodies.items():
        packed = body if compression is None else bytes(getattr(cramjam, compression).compress(body))
        written = client.raw_insert("t", ["a", "b"], packed, fmt=format_, compression=compression).written_rows
        assert written == 1, format_
    rows = client.query("SELECT a, b FROM t ORDER BY a").result_rows
    assert [row[0] for row in rows] == [1, 2, 3, 4, 5]
    assert [row[1] for row in rows] == ["x, y", "x\ty", "FORMAT CSV", "ü", "z"]


def test_confluent_avro_with_and_without_input(client: Client) -> None:
    capture = Capture()
    row = sample("order_items", quantity=3, unit_price=Decimal("0.10"))
    body = b"".join(capture.record("order_items", "c", after=row, lsn=8 * n).value or b"" for n in (1, 2))
    with served(capture.registry) as registry:
        settings = {"format_avro_schema_registry_url": registry, "input_format_avro_allow_missing_fields": "0"}
        client.command("CREATE TABLE direct (op String, `source.lsn` Nullable(Int64)) ENGINE = MergeTree ORDER BY op")
        assert client.raw_insert("direct", insert_block=body, fmt="AvroConfluent", settings=settings).written_rows == 2
        assert client.query("SELECT * FROM direct ORDER BY ALL").result_rows == [("c", 8), ("c", 16)]
        client.command("CREATE TABLE typed (price Decimal(10, 2), quantity Int32) ENGINE = MergeTree ORDER BY quantity")
        after = "after Nullable(Tuple(order_id String, product_id String, quantity Int32, unit_price Decimal(10, 2)))"
        insert = (
            f"INSERT INTO typed SELECT after.unit_price, after.quantity FROM input('{after}') FORMAT AvroConfluent\n"
        )
        client.raw_insert("", insert_block=insert.encode() + body, settings=settings)
        # the same with the statement in the URL and the data alone in the body
        client.command(insert.strip(), data=body, settings=settings)
        assert client.query("SELECT * FROM typed").result_rows == [(Decimal("0.10"), 3)] * 4


def test_arrow_and_pandas(client: Client) -> None:
    client.command("CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a")
    client.insert_arrow("t", pa.table({"a": [1, 2], "b": ["x", "ü"]}))
    client.insert_df("t", pd.DataFrame({"a": [3], "b": ["z"]}))
    assert client.query_arrow("SELECT * FROM t ORDER BY a", use_strings=True).to_pylist() == [
        {"a": 1, "b": "x"},
        {"a": 2, "b": "ü"},
        {"a": 3, "b": "z"},
    ]
    assert client.query_df("SELECT * FROM t ORDER BY a").to_dict("list") == {"a": [1, 2, 3], "b": ["x", "ü", "z"]}


@pytest.mark.parametrize("compress", [False, "lz4", "zstd"])
def test_streaming_reads(front: Front, compress: bool | str) -> None:
    count = 300_000
    with clickhouse_connect.get_client(host="127.0.0.1", port=front.port, compress=compress) as client:
        query = f"SELECT number, toString(number) FROM numbers({count})"
        with client.query_row_block_stream(query) as blocks:
            lengths = [len(block) for block in blocks]
        assert len(lengths) > 1
        assert sum(lengths) == count
        with client.query_rows_stream(query) as rows:
            assert all(row == (number, str(number)) for number, row in enumerate(rows))
        with client.raw_stream(f"SELECT number FROM numbers({count})", fmt="TabSeparated") as stream:
            assert stream.read() == b"".join(b"%d\n" % number for number in range(count))
        with client.query_rows_stream(query) as rows:  # given up halfway
            next(iter(rows))
        assert client.command("SELECT 1") == 1


def test_errors_have_their_code(client: Client) -> None:
    for query, code, name in (
        ("SELECT * FROM nowhere", 60, "UNKNOWN_TABLE"),
        ("SELEC 1", 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 62, "SYNTAX_ERROR"),
        ("SELECT throwIf(1, 'on purpose')", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT {missing:Int32}", 456, "UNKNOWN_QUERY_PARAMETER"),
    ):
        with pytest.raises(DatabaseError) as error:
            client.query(query)
        assert (error.value.code, error.value.name) == (code, name), query
    client.command("CREATE TABLE t (a Int32) ENGINE = MergeTree ORDER BY a")
    with pytest.raises(DatabaseError) as error:
        client.raw_insert("t", insert_block=b'{"a": "x"}', fmt="JSONEachRow")
    assert error.value.code == 27
    with pytest.raises(DatabaseError) as error:
        client.command("SELECT 1", settings={"role": "admin"})
    assert error.value.code == 48


def test_an_error_in_the_middle_of_a_stream_is_an_error(client: Client) -> None:
    query = (
        "SELECT throwIf(number = 250000, 'late') FROM numbers(300000) SETTINGS max_block_size = 1000, max_threads = 1"
    )
    with pytest.raises(StreamFailureError, match="late"), client.query_rows_stream(query) as rows:
        for _ in rows:
            pass
    assert client.command("SELECT 1") == 1


def test_a_session_keeps_its_settings_and_temporary_tables(front: Front, client: Client) -> None:
    client.command("SET max_block_size = 1234")
    client.command("CREATE TEMPORARY TABLE mine (a Int32)")
    client.command("INSERT INTO mine VALUES (7)")
    assert client.query("SELECT a FROM mine").result_rows == [(7,)]
    with clickhouse_connect.get_client(host="127.0.0.1", port=front.port) as other:
        assert other.query("SELECT getSetting('max_block_size')").result_rows != [(1234,)]
        with pytest.raises(DatabaseError):
            other.query("SELECT a FROM mine")
    assert client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 99}).result_rows == [(99,)]
    assert client.query("SELECT getSetting('max_block_size')").result_rows == [(1234,)]


def test_one_session_runs_one_query_at_a_time(front: Front) -> None:
    clients = [
        clickhouse_connect.get_client(host="127.0.0.1", port=front.port, session_id="shared session") for _ in range(2)
    ]
    with clients[0].query_rows_stream("SELECT number FROM numbers(100000000)") as rows:
        assert next(iter(rows)) == (0,)
        with pytest.raises(DatabaseError) as error:
            clients[1].query("SELECT 1")
        assert error.value.code == 373


def test_many_clients_at_once(front: Front, client: Client) -> None:
    client.command("CREATE TABLE t (thread Int32, n Int32) ENGINE = MergeTree ORDER BY (thread, n)")

    def work(thread: int) -> list[Any]:
        with clickhouse_connect.get_client(host="127.0.0.1", port=front.port, database=client.database) as own:
            for number in range(5):
                own.insert("t", [[thread, number]], ["thread", "n"])
            return list(
                own.query("SELECT n FROM t WHERE thread = {t:Int32} ORDER BY n", {"t": thread}).result_columns[0]
            )

    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(work, range(12))) == [[0, 1, 2, 3, 4]] * 12


async def test_the_async_client(front: Front) -> None:
    name = f"t_{uuid.uuid4().hex}"
    async with await clickhouse_connect.get_async_client(host="127.0.0.1", port=front.port, tz_mode="aware") as client:
        await client.command(f"CREATE DATABASE {name}")
        client.database = name
        await client.command(f"CREATE TABLE t ({TYPES}) ENGINE = MergeTree ORDER BY id")
        assert (await client.insert("t", [ROW])).written_rows == 1
        got = await client.query("SELECT * FROM t WHERE id = {id:UInt64}", parameters={"id": 2**63})
        assert got.result_rows == [tuple(ROW)]
        async with await client.query_rows_stream("SELECT number FROM numbers(100000)") as rows:
            assert sum([row[0] async for row in rows]) == 4_999_950_000
        with pytest.raises(DatabaseError) as error:
            await client.query("SELECT * FROM nowhere")
        assert error.value.code == 60
        await client.command(f"DROP DATABASE {name}")


def test_data_survive_a_restart_and_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with running_front(path) as front:
        with clickhouse_connect.get_client(host="127.0.0.1", port=front.port) as client:
            client.command(f"CREATE TABLE t ({TYPES}) ENGINE = MergeTree ORDER BY id")
            client.insert("t", [ROW])
        front.process.kill()
        front.process.wait()
    with running_front(path) as front:
        client = clickhouse_connect.get_client(host="127.0.0.1", port=front.port, tz_mode="aware")
        assert client.query("SELECT * FROM t").result_rows == [tuple(ROW)]
