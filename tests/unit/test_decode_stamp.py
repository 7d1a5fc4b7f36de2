"""The short way to a stamp is the long way's equal, whatever users wrote into the rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.change import Kind, Op, Stamp
from processors.decode import Decoder, Undecodable
from processors.decode.plan import read
from processors.decode.tail import Tail, number
from processors.tables import TABLES
from tests.support.avro import VERSION, Capture, Record, encode, envelope_schema, table
from tests.support.columns import COLUMNS, sample

NAME = "shop_catalog"
START = f"\x14postgresql\x18{NAME}"
"""What the short way looks for, as a user could write it."""


def whole_source_block(text: str) -> str:
    """Return the bytes of a complete, matching end of an envelope, as far as text can hold it, with `text` before it."""
    record = Capture().record("products", "u", after=sample("products"), lsn=8, transaction=1)
    value = record.value or b""
    return text + value[value.rfind(START.encode()) :].decode("latin-1")


hostile = st.one_of(
    st.text(),
    st.builds(lambda before, after: f"{before}{START}{after}", st.text(), st.text()),
    st.builds(whole_source_block, st.text()),
    st.sampled_from([f"\x16{VERSION}{START}", START * 3, "\x14postgresql", NAME]),
)
instants = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2262, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone
records = st.fixed_dictionaries(
    {
        "op": st.sampled_from("cud"),
        "text": hostile,
        "lsn": st.integers(1, (1 << 56) - 1),
        "transaction": st.none() | st.integers(0, (1 << 32) - 1),
        "committed_at": instants,
        "snapshot": st.sampled_from([None, "false", "true", "first", "last", "incremental", "of a later release"]),
        "origin": st.none() | hostile,
        "version": st.just(VERSION) | st.text(),
        "database": st.just("shop") | st.text(max_size=20) | st.just("postgresql"),
        "block": st.none() | st.just({"id": "771:24023128", "total_order": 1, "data_collection_order": 1}),
        "sequence": st.none() | hostile | st.just('["24","24"]') | st.just('[null,"24"]'),
    }
)


def made(capture: Capture, drawn: dict[str, Any]) -> Record:
    """Return the record of what was drawn; its text stands at the end of the row, next to the source block."""
    row = sample("products", name=drawn["text"], description=drawn["text"], status=drawn["text"])
    op = "r" if drawn["snapshot"] not in {None, "false"} else drawn["op"]
    capture.database = drawn["database"]
    options = {name: drawn[name] for name in ("lsn", "transaction", "committed_at", "snapshot", "version", "block")}
    source = {"sequence": drawn["sequence"]}
    if capture.origin_fields:
        options["origin"] = drawn["origin"]
    before, after = (row if op in "ud" else None), (row if op != "d" else None)
    return capture.record("products", op, before=before, after=after, **options, **source)


def meant(drawn: dict[str, Any], *, origins: bool) -> Stamp:
    """Return the stamp by definition."""
    snapshot = drawn["snapshot"] not in {None, "false"}
    kind = Kind.SNAPSHOT if snapshot else Kind.REPAIR if origins and drawn["origin"] else Kind.STREAMED
    return Stamp(
        op=Op.READ if snapshot else Op(drawn["op"]),
        kind=kind,
        committed_us=(drawn["committed_at"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),
        transaction=0 if snapshot else drawn["transaction"] or 0,
        lsn=drawn["lsn"],
    )


@pytest.mark.parametrize("origins", [False, True])
@given(st.lists(records, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_short_way_says_what_the_long_way_says(origins: bool, drawn: list[dict[str, Any]]) -> None:
    capture = Capture(origin_fields=origins)
    decoder = Decoder("shop", 1, TABLES, capture.registry, 1 << 20)
    for _ in range(2):  # the second round finds the short way learned
        for each in drawn:
            checked = decoder.check(made(capture, each))
            assert checked is not None
            assert decoder.stamp(checked)._replace(rows_end=0) == meant(each, origins=origins)


def learned(capture: Capture, record: Record) -> Tail:
    """Return the short way for the record's schema."""
    schema = capture.registry.schema(int.from_bytes((record.value or b"")[1:5], "big"))
    from fastavro import parse_schema

    parsed = parse_schema(dict(schema))
    tail = Tail.learn(parsed, read(record.value or b"", parsed, "value")["source"])
    assert tail is not None
    return tail


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("origins", [False, True])
def test_ordinary_records_of_every_table_take_the_short_way(name: str, origins: bool) -> None:
    capture = Capture(origin_fields=origins)
    row = sample(name)
    for op, before, after, snapshot in (
        ("c", None, row, "false"),
        ("u", row, row, "false"),
        ("d", row, None, "false"),
        ("r", None, row, "first_in_data_collection"),
    ):
        record = capture.record(name, op, before=before, after=after, snapshot=snapshot)
        stamp = learned(capture, record).read(record.value or b"")
        assert stamp is not None
        assert stamp.op is Op(op)


def test_a_whole_forged_end_in_a_row_is_not_taken_for_the_true_one() -> None:
    capture = Capture()
    forged = whole_source_block("")
    for version in (VERSION, "4.0.0.Final"):
        record = capture.record(
            "products", "u", after=sample("products", status=forged), lsn=800, transaction=5, version=version
        )
        stamp = learned(capture, record).read(record.value or b"")
        assert stamp is not None
        assert stamp.committed_ms == 1_795_262_400_123
        assert stamp._replace(committed_us=0, rows_end=0) == Stamp(Op.UPDATE, Kind.STREAMED, 0, 5, 800)
        assert stamp.rows_end == (record.value or b"").rindex(version.encode()) - 1


@pytest.mark.parametrize("database", ["postgresql", "my_postgresql_shop"])
def test_a_name_that_could_be_taken_for_the_connectors_rules_the_short_way_out(database: str) -> None:
    capture = Capture(database=database)
    record = capture.record("products", "c", after=sample("products"))
    with pytest.raises(AssertionError):
        learned(capture, record)
    decoder = Decoder("shop", 1, TABLES, capture.registry, 1 << 20)
    checked = decoder.check(record)
    assert checked is not None
    assert decoder.stamp(checked).lsn == 24_023_128


def test_another_order_of_fields_takes_the_long_way() -> None:
    capture = Capture()
    topic = table("orders").topic("shop")
    schema = envelope_schema(topic, COLUMNS["orders"])
    schema["fields"].append(schema["fields"].pop(0))  # the row before comes last: user data behind the source block
    good = capture.record("orders", "c", after=sample("orders"))
    original = capture.registry.schema(int.from_bytes((good.value or b"")[1:5], "big"))
    from fastavro import parse_schema

    envelope = read(good.value or b"", parse_schema(dict(original)), "value")
    assert Tail.learn(parse_schema(dict(original)), envelope["source"]) is not None
    # Avro defines a name where it first stands: move the definition along
    schema["fields"][0]["type"], schema["fields"][-1]["type"] = schema["fields"][-1]["type"], ["null", "Value"]
    parsed = parse_schema(schema)
    assert Tail.learn(parsed, envelope["source"]) is None
    assert read(encode(schema, envelope, 1), parsed, "value") == envelope


@given(st.integers(-(1 << 62), (1 << 62) - 1))
def test_numbers_are_read_as_avro_writes_them(value: int) -> None:
    data = encode({"type": "record", "name": "N", "fields": [{"name": "n", "type": "long"}]}, {"n": value}, 0)[5:]
    assert number(data) == value


def test_a_cut_record_has_no_stamp() -> None:
    capture = Capture()
    decoder = Decoder("shop", 1, TABLES, capture.registry, 1 << 20)
    good = capture.record("orders", "u", before=sample("orders"), after=sample("orders"))
    value = good.value or b""
    for cut in range(6, len(value)):
        checked = decoder.check(Record(good.topic, 0, 0, 0, good.key, value[:cut]))
        assert checked is not None
        with pytest.raises(Undecodable):
            decoder.stamp(checked)
