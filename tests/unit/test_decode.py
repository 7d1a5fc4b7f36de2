"""The decoder on whole records: what passes, what is a dead letter and why, what waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from processors.change import NOT_SENT, Change, CheckedRecord, Kind, Op, Origin, Stamp, pack_version
from processors.decode import Decoder, Undecodable
from processors.tables import TABLES
from processors.tables.base import Class
from schemas.registry import RegistryAway
from tests.support.avro import Capture, Record, encode, envelope_schema, key_schema, table
from tests.support.columns import COLUMNS, COMMITTED, optional, sample

LSN = 24_023_128
MAX_BYTES = 1 << 20


class Away:
    """A registry that does not answer."""

    def schema(self, schema_id: int) -> dict[str, Any]:
        msg = f"no answer for schema {schema_id}"
        raise RegistryAway(msg)


@pytest.fixture
def capture() -> Capture:
    return Capture()


@pytest.fixture
def decoder(capture: Capture) -> Decoder:
    return decoder_of(capture)


def decoder_of(capture: Capture, **options: Any) -> Decoder:
    return Decoder("shop", 1, TABLES, capture.registry, MAX_BYTES, **options)


def checked(decoder: Decoder, record: Record) -> CheckedRecord:
    found = decoder.check(record)
    assert found is not None
    return found


def change(decoder: Decoder, record: Record) -> Change:
    found = checked(decoder, record)
    return decoder.change(found, decoder.stamp(found))


@pytest.mark.parametrize("name", COLUMNS)
def test_an_update_of_every_table_comes_back_as_it_was_written(name: str, capture: Capture, decoder: Decoder) -> None:
    before, after = sample(name), sample(name, **({"status": "changed"} if "status" in COLUMNS[name] else {}))
    record = capture.record(name, "u", before=before, after=after, lsn=LSN, transaction=771, partition=3, offset=42)
    assert change(decoder, record) == Change(
        source="shop",
        table=table(name).id,
        op=Op.UPDATE,
        key={column: after[column] for column in table(name).key},
        before=before,
        after=after,
        version=pack_version(1, LSN, deleted=False),
        committed_at=COMMITTED,
        transaction=771,
        origin=Origin(record.topic, 3, 42, Kind.STREAMED),
    )


def test_the_key_is_in_declared_order(capture: Capture, decoder: Decoder) -> None:
    assert list(change(decoder, capture.record("reviews", "c", after=sample("reviews"))).key) == ["product_id", "id"]


def test_a_delete_has_its_row_before_and_a_lower_version_than_a_create_at_the_same_position(
    capture: Capture, decoder: Decoder
) -> None:
    row = sample("orders")
    gone = change(decoder, capture.record("orders", "d", before=row, lsn=LSN))
    made = change(decoder, capture.record("orders", "c", after=row, lsn=LSN))
    assert (gone.op, gone.before, gone.after, gone.version) == (
        Op.DELETE,
        row,
        None,
        pack_version(1, LSN, deleted=True),
    )
    assert gone.version < made.version


@pytest.mark.parametrize("snapshot", ["true", "first", "first_in_data_collection", "last", "incremental"])
def test_a_snapshot_row_has_version_0_and_no_transaction(snapshot: str, capture: Capture, decoder: Decoder) -> None:
    record = checked(decoder, capture.record("orders", "r", after=sample("orders"), snapshot=snapshot, lsn=LSN))
    read = decoder.change(record, decoder.stamp(record))
    assert (read.version, read.transaction, read.origin.kind) == (0, 0, Kind.SNAPSHOT)
    committed_us = int(COMMITTED.timestamp() * 1_000_000)
    assert decoder.stamp(record)._replace(rows_end=0) == Stamp(Op.READ, Kind.SNAPSHOT, committed_us, 0, LSN)


def test_an_incremental_snapshot_row_has_no_lsn(capture: Capture, decoder: Decoder) -> None:
    read = change(
        decoder,
        capture.record("orders", "r", after=sample("orders"), snapshot="incremental", lsn=None, transaction=None),
    )
    assert (read.version, read.origin.kind) == (0, Kind.SNAPSHOT)


def test_an_update_under_a_replication_origin_is_a_repair_with_an_ordinary_version(
    capture: Capture, decoder: Decoder
) -> None:
    row = sample("orders")
    record = checked(decoder, capture.record("orders", "u", before=row, after=row, origin="downriver_repair", lsn=LSN))
    read = decoder.change(record, decoder.stamp(record))
    assert (read.origin.kind, read.version) == (Kind.REPAIR, pack_version(1, LSN, deleted=False))
    assert decoder.stamp(record).kind is Kind.REPAIR


def test_a_missing_snapshot_mark_means_streamed(capture: Capture, decoder: Decoder) -> None:
    record = checked(decoder, capture.record("orders", "c", after=sample("orders"), snapshot=None))
    assert decoder.change(record, decoder.stamp(record)).origin.kind is Kind.STREAMED
    assert decoder.stamp(record) == decoder.stamp(record)


def test_tombstones_and_heartbeats_are_nothing_to_deliver(capture: Capture, decoder: Decoder) -> None:
    assert decoder.check(capture.tombstone("orders", sample("orders"))) is None
    for topic in ("__debezium-heartbeat.shop_inventory", "shop_inventory.public.downriver_heartbeat"):
        assert decoder.check(Record(topic, 0, 0, 0, b"", b"anything")) is None


def test_an_unclassified_or_restricted_column_goes_no_further(capture: Capture, decoder: Decoder) -> None:
    capture.columns["users"] = COLUMNS["users"] | {"password_hash": optional("string"), "shoe_size": optional("int")}
    row = sample("users") | {"password_hash": "x", "shoe_size": 43}
    read = change(decoder, capture.record("users", "c", after=row))
    assert read.after == sample("users")


def test_a_column_that_was_not_sent_is_absent(capture: Capture, decoder: Decoder) -> None:
    before, after = sample("products", description="long"), sample("products", description=NOT_SENT)
    after["tags"] = [NOT_SENT]
    read = change(decoder, capture.record("products", "u", before=before, after=after))
    assert read.before == before
    assert read.after == {name: value for name, value in after.items() if name not in {"description", "tags"}}


def test_the_placeholder_is_a_setting_and_may_come_as_bytes_or_numbers(capture: Capture) -> None:
    columns = {"blob": optional("bytes"), "sizes": optional({"type": "array", "items": ["null", "int"]})}
    capture.columns["products"] = COLUMNS["products"] | columns
    known = replace(table("products"), columns=dict(table("products").columns) | dict.fromkeys(columns, Class.PUBLIC))
    decoder = Decoder("shop", 1, [known], capture.registry, MAX_BYTES, placeholder="absent")
    rows = [sample("products", blob=b"absent", sizes=list(b"absent")), sample("products", blob=b"abs", sizes=[1, None])]
    read = change(decoder, capture.record("products", "u", before=rows[1], after=rows[0]))
    assert read.before == rows[1]
    assert read.after == sample("products")
    only_numbers = change(
        decoder, capture.record("products", "c", after=sample("products", blob=None, sizes=list(b"absent")))
    )
    assert only_numbers.after == sample("products", blob=None)


def test_a_quoted_placeholder_is_a_value(capture: Capture, decoder: Decoder) -> None:
    row = sample("products", description=f"about {NOT_SENT}")
    assert change(decoder, capture.record("products", "c", after=row)).after == row


BROKEN: dict[str, tuple[Callable[[Capture, Record], Record], str]] = {
    "no value left": (lambda _, r: replace(r, value=b""), "too short"),
    "a header alone": (lambda _, r: replace(r, value=r.value[:5] if r.value else None), "too short"),
    "another magic byte": (lambda _, r: replace(r, value=b"\x01" + (r.value or b"")[1:]), "byte 1, not 0"),
    "text": (lambda _, r: replace(r, value=b'{"before": null}'), "byte 123, not 0"),
    "an unknown id": (lambda _, r: replace(r, value=b"\0\0\0\x27\x0f" + (r.value or b"")[5:]), "no schema 9999"),
    "a key's schema": (lambda _, r: replace(r, value=r.key), r"orders\.Key, and this topic holds .*orders\.Envelope"),
    "trailing bytes": (lambda _, r: replace(r, value=(r.value or b"") + b"\0"), "1 bytes behind its end"),
    "a missing byte": (lambda _, r: replace(r, value=(r.value or b"")[:-1]), "not Avro of its schema"),
    "no key": (lambda _, r: replace(r, key=None), "no key; the key of public.orders is id"),
    "an unframed key": (lambda _, r: replace(r, key=b'{"id": 1}'), "the key starts with byte 123"),
    "a value for a key": (
        lambda _, r: replace(r, key=r.value),
        r"orders\.Envelope, and this topic holds .*orders\.Key",
    ),
    "another row's key": (
        lambda c, r: replace(r, key=c.key("orders", sample("orders", id="00000000-0000-4000-8000-00000000dead"))),
        "column id differs between record key and row",
    ),
    "a large key": (lambda _, r: replace(r, key=(r.key or b"") + bytes(70_000)), "the record key holds 70,"),
    "another table's record": (
        lambda c, r: replace(r, value=c.record("payments", "c", after=sample("payments")).value),
        r"payments\.Envelope, and this topic holds .*orders\.Envelope",
    ),
    "a topic of nobody": (lambda _, r: replace(r, topic="shop_accounts.public.sessions"), "no captured table"),
    "too large": (lambda _, r: replace(r, value=(r.value or b"") + bytes(MAX_BYTES)), "over the limit of 1,048,576"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_a_dead_letter_that_says_why(name: str, capture: Capture, decoder: Decoder) -> None:
    breaking, reason = BROKEN[name]
    record = breaking(capture, capture.record("orders", "c", after=sample("orders")))
    for _ in range(2):  # the second time the refusal is remembered
        with pytest.raises(Undecodable, match=reason):
            change(decoder, record)
    assert change(decoder, capture.record("orders", "c", after=sample("orders"))).after == sample("orders")


SOURCES: dict[str, tuple[dict[str, Any], str]] = {
    "truncated": ({"op": "t"}, "public.orders was truncated.*use DELETE"),
    "an unknown op": ({"op": "m"}, "op is none of c, u, d, r and t"),
    "a create without its row": (
        {"op": "c", "before": sample("orders"), "after": None},
        "op is c, yet there is no row after it",
    ),
    "a create with a row before": ({"op": "c", "before": sample("orders")}, "op is c, yet there is a row before it"),
    "a delete with a row after": ({"op": "d"}, r"op is d \(delete\), yet there is a row after it"),
    "no position": ({"op": "c", "lsn": None}, "source.lsn is missing"),
    "position 0": ({"op": "c", "lsn": 0}, "source.lsn is out of range"),
    "a position beyond 56 bits": ({"op": "c", "lsn": 1 << 56}, "source.lsn is out of range"),
    "a negative transaction": ({"op": "c", "txId": -1}, "source.txId is out of range"),
    "a time beyond the calendar": ({"op": "c", "ts_ms": 1 << 60}, "source.ts_ms is out of range"),
    "two times": ({"op": "c", "ts_us": 5}, "different times"),
    "another table": ({"op": "c", "table": "payments"}, "source.table is not orders"),
    "another schema": ({"op": "c", "schema": "private"}, "source.schema is not public"),
    "another connector": ({"op": "c", "name": "shop_catalog"}, "source.name is not shop_accounts"),
    "another database system": ({"op": "c", "connector": "mysql"}, "source.connector is not postgresql"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_envelope_that_can_not_be_is_a_dead_letter_that_says_why(
    name: str, capture: Capture, decoder: Decoder
) -> None:
    fields, reason = SOURCES[name]
    whole = {"before": None, "after": sample("orders"), "op": "c"} | fields
    with pytest.raises(Undecodable, match=reason):
        change(decoder, capture.record("orders", **whole))


@pytest.mark.parametrize("name", [name for name in SOURCES if "row" not in name and name != "two times"])
def test_its_stamp_is_refused_too(name: str, capture: Capture, decoder: Decoder) -> None:
    decoder.stamp(checked(decoder, capture.record("orders", "c", after=sample("orders"))))  # the short way is learned
    fields, reason = SOURCES[name]
    record = checked(decoder, capture.record("orders", **({"after": sample("orders")} | fields)))
    with pytest.raises(Undecodable, match=reason):
        decoder.stamp(record)


def test_a_reason_repeats_no_value(capture: Capture, decoder: Decoder) -> None:
    row = sample("users", email="someone@example.com", created_at="yesterday")
    with pytest.raises(Undecodable) as caught:
        change(decoder, capture.record("users", "c", after=row))
    assert (
        str(caught.value) == "column created_at holds what its type does not allow (a timestamp that is not ISO 8601)"
    )


def test_a_registry_that_is_away_is_not_the_records_fault(capture: Capture) -> None:
    record = capture.record("orders", "c", after=sample("orders"))
    with pytest.raises(RegistryAway):
        Decoder("shop", 1, TABLES, Away(), MAX_BYTES).check(record)


def test_each_schema_is_asked_for_once(capture: Capture, decoder: Decoder) -> None:
    for number in range(3):
        change(decoder, capture.record("orders", "c", after=sample("orders", total=Decimal(number))))
    assert len(capture.registry.asked) == 2
    assert len(set(capture.registry.asked)) == 2


def refused(capture: Capture, schema: dict[str, Any]) -> str:
    """Return why a record whose id stands for `schema` is refused."""
    good = capture.record("orders", "c", after=sample("orders"))
    bad = b"\0" + capture.registry.register(schema).to_bytes(4, "big") + b"\0\0\0"
    with pytest.raises(Undecodable) as caught:
        decoder_of(capture).check(replace(good, value=bad))
    return str(caught.value)


def test_schemas_that_could_blow_up_are_refused(capture: Capture) -> None:
    topic = table("orders").topic("shop")

    def with_column(type_: Any) -> dict[str, Any]:
        return envelope_schema(topic, COLUMNS["orders"] | {"extra": {"type": type_}})

    empty = {"type": "record", "name": "Empty", "fields": [{"name": "nothing", "type": "null"}]}
    node = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    assert "items take no bytes" in refused(capture, with_column({"type": "array", "items": "null"}))
    assert "items take no bytes" in refused(capture, with_column({"type": "array", "items": empty}))
    assert "Node holds itself" in refused(capture, with_column(node))
    deep: Any = "string"
    for _ in range(5_000):
        deep = {"type": "array", "items": deep}
    assert "not an Avro record" in refused(capture, with_column(deep))
    assert "not an Avro record" in refused(capture, {"type": "record", "fields": 7})
    assert "lacks before" in refused(capture, {"type": "record", "name": f"{topic}.Envelope", "fields": []})


def test_a_key_of_other_columns_is_refused(capture: Capture, decoder: Decoder) -> None:
    good = capture.record("reviews", "c", after=sample("reviews"))
    schema = key_schema(good.topic, COLUMNS["reviews"], ["id"])
    wrong = encode(schema, {"id": sample("reviews")["id"]}, capture.registry.register(schema))
    with pytest.raises(Undecodable, match=r"the record key holds id; the key of public\.reviews is product_id, id"):
        decoder.check(replace(good, key=wrong))


def test_microseconds_of_the_commit_are_kept(capture: Capture, decoder: Decoder) -> None:
    at = datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=UTC)
    record = checked(decoder, capture.record("orders", "c", after=sample("orders"), committed_at=at))
    assert decoder.change(record, decoder.stamp(record)).committed_at == at
    assert decoder.stamp(record).committed_ms == int(at.timestamp()) * 1000 + 999
