"""What real connectors write decodes to what the source holds: every table, snapshot and stream, every edge value."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from downriver.settings import Settings
from processors.change import Change, Kind, Op, Stamp
from processors.decode import Decoder
from processors.tables import TABLES
from processors.tables.base import Table
from processors.verify.source import InstantLoader
from schemas.registry import SchemaRegistry
from shop.sample.fill import fill
from shop.sample.rows import Plan
from tests.support.avro import Record
from tests.support.avro import table as named
from tests.support.captured import CapturedShop, captured_shop

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
FIRST, SECOND = Plan(size=100, seed=1, far_times=True), Plan(size=100, seed=2, far_times=True)
every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id.name)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A captured shop, and the way from its topics to changes."""

    shop: CapturedShop
    registry: SchemaRegistry
    decoder: Decoder

    def read(self, table: Table, count: int) -> list[tuple[Record, Stamp, Change]]:
        """Read at least `count` changes of a table, in the order of each partition."""
        records = self.shop.records(table, lambda read: len(self._checked(read)) >= count)
        checked = [(each, self.decoder.stamp(each)) for each in self._checked(records)]
        return [(each.record, stamp, self.decoder.change(each, stamp)) for each, stamp in checked]

    def _checked(self, records: list[Record]) -> list[Any]:
        return [checked for record in records if (checked := self.decoder.check(record)) is not None]

    def rows(self, table: Table) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        """Return the rows that the source holds, key → captured columns as the decoder gives them."""
        columns = [name for name in table.columns if name not in table.excluded]
        options = "-c timezone=UTC -c datestyle=ISO"
        with psycopg.connect(self.shop.settings.postgres.dsn(options=options), row_factory=dict_row) as connection:
            connection.adapters.register_loader("timestamptz", InstantLoader)
            for name in ("uuid", "jsonb"):
                connection.adapters.register_loader(name, TextLoader)
            found = connection.execute(f"SELECT {', '.join(columns)} FROM {table.id}").fetchall()
        return {tuple(row[name] for name in table.key): row for row in found}

    def run(self, *statements: str) -> None:
        """Commit the statements, in one transaction."""
        with psycopg.connect(self.shop.settings.postgres.dsn()) as connection:
            for statement in statements:
                connection.execute(statement)


@pytest.fixture(scope="module")
def decoded(settings: Settings) -> Iterator[Decoded]:
    with captured_shop(settings, lambda own: fill(own, FIRST)) as shop:
        fill(shop.settings, SECOND, append=True)
        registry = SchemaRegistry(settings.registry)
        yield Decoded(shop, registry, Decoder(shop.settings.source, 1, TABLES, registry, 1 << 24))
        registry.close()


@every_table
def test_snapshot_and_stream_hold_the_rows_of_the_source(decoded: Decoded, table: Table) -> None:
    rows = decoded.rows(table)
    read = decoded.read(table, len(rows))
    changes = [change for _, _, change in read]
    assert {tuple(change.key.values()): change.after for change in changes} == rows
    snapshot = [change for change in changes if change.origin.kind is Kind.SNAPSHOT]
    streamed = [change for change in changes if change.origin.kind is Kind.STREAMED]
    assert len(snapshot) == FIRST.counts()[table.id.name]
    assert len(streamed) == SECOND.counts()[table.id.name]
    assert {(change.op, change.version, change.transaction) for change in snapshot} == {(Op.READ, 0, 0)}
    assert {change.op for change in streamed} == {Op.CREATE}
    assert len({change.transaction for change in streamed}) == 1
    # rows that one COPY writes to one page share a position; of one row, no two changes do
    assert all(change.version > 0 for change in streamed)


@every_table
def test_the_short_way_to_the_stamp_serves_real_records(decoded: Decoded, table: Table) -> None:
    read = decoded.read(table, len(decoded.rows(table)))
    for record, stamp, change in read:
        assert (stamp.op, stamp.kind, stamp.transaction) == (change.op, change.origin.kind, change.transaction)
        assert stamp.committed_ms == int(change.committed_at.timestamp() * 1000)
        # a new decoder has learned no short way yet
        long_way = Decoder(decoded.shop.settings.source, 1, [table], decoded.registry, 1 << 24)
        checked = long_way.check(record)
        assert checked is not None
        long_stamp = long_way.stamp(checked)
        assert long_stamp == stamp._replace(rows_end=0)
        assert stamp.rows_end
        assert long_way.change(checked, long_stamp) == change


def test_updates_deletes_and_key_changes_of_a_review_come_as_they_were_made(decoded: Decoded) -> None:
    orders, reviews = named("orders"), named("reviews")
    order = sorted(decoded.rows(orders).values(), key=lambda row: str(row["id"]))[0]
    review = sorted(decoded.rows(reviews).values(), key=lambda row: str(row["id"]))[0]
    product = next(key[0] for key in decoded.rows(named("products")) if key[0] != review["product_id"])
    counts = {table.id: len(decoded.rows(table)) for table in (orders, reviews)}
    decoded.run(f"UPDATE orders SET total = 12.34, currency = 'USD' WHERE id = '{order['id']}'")
    after = decoded.rows(orders)[order["id"],]
    decoded.run(f"UPDATE reviews SET product_id = '{product}' WHERE id = '{review['id']}'")

    (update,) = [change for _, _, change in decoded.read(orders, counts[orders.id] + 1) if change.op is Op.UPDATE]
    assert (update.before, update.after) == (order, after)

    moved = [
        change for _, _, change in decoded.read(reviews, counts[reviews.id] + 2) if change.key["id"] == review["id"]
    ]
    gone = next(change for change in moved if change.op is Op.DELETE)
    made = next(change for change in moved if change.key["product_id"] == product)
    assert dict(gone.key) == {"product_id": review["product_id"], "id": review["id"]}
    assert gone.before == review
    assert made.after == decoded.rows(reviews)[product, review["id"]]
    assert gone.version == made.version - 1, "both halves share a position; the create wins"


def test_an_update_that_leaves_a_long_text_alone_still_has_it_before(decoded: Decoded) -> None:
    products = named("products")
    rows = decoded.rows(products)
    long = max(rows.values(), key=lambda row: len(row["description"] or ""))
    assert len(long["description"]) > 8_000
    decoded.run(f"UPDATE products SET price = 1.23 WHERE id = '{uuid.UUID(long['id'])}'")
    (update,) = [change for _, _, change in decoded.read(products, len(rows) + 1) if change.op is Op.UPDATE]
    assert update.before == long
    assert update.after is not None
    assert update.after.get("description", update.before["description"]) == long["description"]
