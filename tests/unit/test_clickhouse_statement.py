"""What a client sends to the local ClickHouse, split into statement, format and data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.clickhouse.statement import quoted, split


@pytest.mark.parametrize(
    ("text", "sql", "format_", "data"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2\n", b"INSERT INTO t", "CSV", b"1,2\n"),
        (b"insert into t (a, `format`) format Native\n\x00\x01", b"insert into t (a, `format`)", "Native", b"\x00\x01"),
        (b"INSERT INTO t FORMAT Native\n\n\x02", b"INSERT INTO t", "Native", b"\n\x02"),
        (b'INSERT INTO t FORMAT JSONEachRow {"a": 1}', b"INSERT INTO t", "JSONEachRow", b'{"a": 1}'),
        (b"INSERT INTO t FORMAT CSV", b"INSERT INTO t", "CSV", b""),
        (b"-- FORMAT TSV\nINSERT /* FORMAT X */ INTO t SETTINGS a='FORMAT CSV' FORMAT TSV\nx", None, "TSV", b"x"),
    ],
)
def test_an_insert_ends_where_its_data_begins(text: bytes, sql: bytes | None, format_: str, data: bytes) -> None:
    statement = split(text)
    assert (statement.format, statement.data, statement.verb) == (format_, data, "INSERT")
    if sql is not None:
        assert statement.sql == sql


@pytest.mark.parametrize("text", [b"INSERT INTO t VALUES (1, 'FORMAT CSV')", b"INSERT INTO t SELECT 1 AS a"])
def test_what_the_engine_reads_itself_stays_whole(text: bytes) -> None:
    statement = split(text)
    assert (statement.sql, statement.format, statement.data) == (text, None, None)


@pytest.mark.parametrize(
    ("text", "format_", "without"),
    [
        (b"SELECT 1", None, b"SELECT 1"),
        (b"SELECT 1;\n", None, b"SELECT 1"),
        (b"SELECT 1\n FORMAT Native", "Native", b"SELECT 1"),
        (b"SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "JSON", b"SELECT 1  SETTINGS max_threads = 1"),
        (b"SELECT format FROM t", None, b"SELECT format FROM t"),
        (b"SELECT 'FORMAT CSV'", None, b"SELECT 'FORMAT CSV'"),
        (b"SELECT * FROM (SELECT 1 FORMAT CSV)", None, b"SELECT * FROM (SELECT 1 FORMAT CSV)"),
        (b"SHOW TABLES FORMAT TSV;", "TSV", b"SHOW TABLES"),
    ],
)
def test_a_query_names_its_format_at_its_end(text: bytes, format_: str | None, without: bytes) -> None:
    statement = split(text)
    assert (statement.sql, statement.format, statement.without_format) == (text, format_, without)


def test_input_becomes_the_file_that_holds_the_body() -> None:
    statement = split(b"INSERT INTO t SELECT a.b FROM input('a Tuple(b Int8)') WHERE 1 FORMAT AvroConfluent\n\x00data")
    assert statement.data == b"\x00data"
    assert (
        statement.reading("/tmp/it's here")  # noqa: S108 - a name, no file
        == rb"INSERT INTO t SELECT a.b FROM file('/tmp/it\'s here', 'AvroConfluent', 'a Tuple(b Int8)') WHERE 1"
    )


def test_a_column_called_input_is_no_call() -> None:
    assert split(b"INSERT INTO t (input) SELECT input FROM u FORMAT CSV\n").input_call is None


@given(st.binary(max_size=200))
def test_no_text_breaks_it(text: bytes) -> None:
    statement = split(text)
    assert statement.sql in text or statement.sql == text


@given(st.binary(max_size=200))
def test_data_arrives_as_it_was_sent(data: bytes) -> None:
    assert split(b"INSERT INTO t FORMAT RowBinary\n" + data).data == data


@given(st.text(max_size=50))
def test_a_quoted_text_is_one_literal(text: str) -> None:
    literal = quoted(text)
    assert split(b"SELECT " + literal + b" FORMAT CSV").format == "CSV"
    assert literal[1:-1].replace(b"\\\\", b"").replace(b"\\'", b"").count(b"'") == 0
