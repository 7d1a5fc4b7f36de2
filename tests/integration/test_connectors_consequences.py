"""Each consequence on a real database, what `apply` refuses without leave, and whether what the plan said then happens.

One lane of our own, captured once; every test leaves it as it found it, or the next one says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from connectors.apply import Action, apply
from connectors.consequences import Weight
from connectors.files import HEARTBEAT_TABLE, Connector
from connectors.plan import Step
from downriver.exits import BadInput
from downriver.settings import Settings
from tests.support.lane import OwnLane
from tests.support.planning import WAIT_S, captured_lane, changed, live, planned, read, stopped, told

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with captured_lane(settings) as made:
        yield made


SOURCE = [
    (
        "ALTER TABLE reviews REPLICA IDENTITY DEFAULT",
        "ALTER TABLE reviews REPLICA IDENTITY FULL",
        {
            "replica-identity": (
                Weight.BLOCKS,
                "public.reviews lacks REPLICA IDENTITY FULL: updates and deletes arrive",
            ),
            "toast": (
                Weight.WARNING,
                "public.reviews: an update that leaves title, body, status alone sends a placeholder",
            ),
        },
    ),
    (
        "ALTER TABLE reviews DROP CONSTRAINT reviews_pkey",
        "ALTER TABLE reviews ADD PRIMARY KEY (id)",
        {"no-key": (Weight.BLOCKS, "public.reviews has no primary key: its records have no key")},
    ),
    (
        "ALTER PUBLICATION {name} DROP TABLE public.downriver_heartbeat",
        "ALTER PUBLICATION {name} ADD TABLE public.downriver_heartbeat",
        {
            "heartbeat-unpublished": (
                Weight.BLOCKS,
                "lacks public.downriver_heartbeat: heartbeats are written and never",
            )
        },
    ),
    (
        "ALTER PUBLICATION {name} DROP TABLE reviews",
        "ALTER PUBLICATION {name} ADD TABLE reviews",
        {"not-ready": (Weight.BLOCKS, "lacks public.reviews")},
    ),
    (
        "ALTER TABLE reviews ADD weight numeric",
        "ALTER TABLE reviews DROP weight",
        {"unbounded-numeric": (Weight.WARNING, "public.reviews: weight is numeric without precision")},
    ),
    (
        "ALTER TABLE reviews ADD height int DEFAULT 7, ADD told boolean NOT NULL DEFAULT true, ADD tags text[] DEFAULT '{{}}'",
        "ALTER TABLE reviews DROP height, DROP told, DROP tags",
        {"null-as-default": (Weight.ALLOW, "public.reviews: height may be NULL and has a default")},
    ),
    (
        "UPDATE products SET description = (SELECT string_agg(gen_random_uuid()::text, '') FROM generate_series(1, 900))"
        " WHERE sku = 's7'",
        "UPDATE products SET description = '' WHERE sku = 's7'",
        {"toast": (Weight.NOTE, "out of line (TOAST: sku, name, description,")},
    ),
]


@pytest.mark.parametrize(
    ("broken", "mended", "expected"), SOURCE, ids=[", ".join(expected) for _, _, expected in SOURCE]
)
def test_what_the_source_lacks_is_a_consequence(
    lane: OwnLane, broken: str, mended: str, expected: dict[str, tuple[Weight, str]]
) -> None:
    """Of a connector that is to be made, which says each once; without the fault it says none of them."""
    new = replace(lane.connector, name=f"{lane.name}_n")
    lane.execute(broken.format(name=f'"{lane.connector.publication}"'))
    try:
        item = planned(lane, new)
    finally:
        lane.execute(mended.format(name=f'"{lane.connector.publication}"'))
    found = told(item)
    for name, (weight, text) in expected.items():
        assert found[name][0] is weight, found
        assert text in found[name][1]
    ways_out = [each.way_out for each in item.consequences if each.way_out and each.name != "toast"]
    assert len(ways_out) == len(set(ways_out)), "preflight and plan tell the same thing twice"
    without = {
        "unbounded-numeric",
        "null-as-default",
        "replica-identity",
        "no-key",
        "heartbeat-unpublished",
        "not-ready",
    }
    assert without.isdisjoint(told(planned(lane, new)))


def test_a_first_snapshot_is_counted_by_the_statistics(lane: OwnLane) -> None:
    new = replace(
        changed(lane.connector, topic__prefix=f"{lane.name}_n", slot__name=f"{lane.name}_n"), name=f"{lane.name}_n"
    )
    lane.execute("ANALYZE products")
    found = told(planned(lane, new))
    (products,) = lane.execute("SELECT reltuples::int FROM pg_class WHERE oid = 'products'::regclass")[0]
    assert products >= 40
    assert found["snapshot"][0] is Weight.NOTE
    assert found["snapshot"][1].startswith(f"a first snapshot of about {products:,} rows (")
    assert " in 2 tables) " in found["snapshot"][1]
    weight, text = found["wal-headroom"]
    assert weight is Weight.NOTE
    assert "may let pg_wal grow to about" in text
    assert "more must be free on its disk" in text


def other_settings(connector: Connector) -> list[tuple[Connector, str, Weight, str]]:
    """Every change of settings with the consequence that names it."""
    tables = connector.config["table.include.list"]
    return [
        (changed(connector, topic__prefix=f"{connector.name}2"), "new-prefix", Weight.ALLOW, "a second history"),
        (changed(connector, slot__name=f"{connector.name}2"), "new-slot", Weight.ALLOW, "stays and holds WAL"),
        (changed(connector, publication__name=f"{connector.name}2"), "new-publication", Weight.ALLOW, "are skipped"),
        (changed(connector, database__dbname="postgres"), "other-database", Weight.ALLOW, "never compare"),
        (
            changed(connector, message__key__columns="public.reviews:id"),
            "new-key",
            Weight.ALLOW,
            "message.key.columns: the same row gets another record key",
        ),
        (
            changed(connector, transforms__routeProducts__partition__payload__fields="change.category"),
            "moves-keys",
            Weight.ALLOW,
            "rows of public.products (by change.id/8, from now on by change.category/8) move",
        ),
        (
            changed(connector, transforms="routeProducts"),
            "moves-keys",
            Weight.ALLOW,
            "rows of public.reviews (by change.product_id/8, from now on by its key) move",
        ),
        (
            changed(connector, table__include__list=f"{tables},public.orders"),
            "unread-table",
            Weight.ALLOW,
            "public.orders: captured from now on; about",
        ),
        (
            changed(connector, table__include__list=f"public.products,{HEARTBEAT_TABLE}"),
            "dropped-table",
            Weight.ALLOW,
            "public.reviews: not captured any more",
        ),
        (
            changed(connector, column__exclude__list="public.reviews.body"),
            "hidden-column",
            Weight.WARNING,
            "public.reviews.body: left out from now on",
        ),
        (
            changed(connector, unavailable__value__placeholder="another"),
            "new-format",
            Weight.ALLOW,
            "unavailable.value.placeholder: records before and after",
        ),
        (changed(connector, snapshot__mode="always"), "snapshot-again", Weight.ALLOW, "may read about"),
        (
            changed(connector, topic__creation__default__partitions="16"),
            "partitions",
            Weight.BLOCKS,
            "has 8 partition(s) and needs 16",
        ),
    ]


@pytest.mark.parametrize("number", range(13))
def test_what_loses_or_reads_again_has_a_name_and_is_refused_without_it(lane: OwnLane, number: int) -> None:
    connector, name, weight, text = other_settings(lane.connector)[number]
    assert len(other_settings(lane.connector)) == 13
    before = live(lane)
    found = told(planned(lane, connector))
    assert found[name][0] is weight
    assert text in found[name][1]
    if weight is Weight.WARNING:
        assert not any(each is Weight.ALLOW for each, _ in found.values())
        return
    with pytest.raises(BadInput) as caught:
        apply(lane.settings, [connector], WAIT_S, allow=["no-such-name"])
    if weight is Weight.ALLOW and "not ready" not in str(caught.value):
        assert f"--allow {name}" in str(caught.value)
        assert "nothing was changed" in str(caught.value)
    assert live(lane) == before
    assert planned(lane, lane.connector).step is Step.NONE


def test_a_column_that_is_let_out_again_has_a_name(lane: OwnLane) -> None:
    hidden = changed(lane.connector, column__exclude__list="public.reviews.body")
    apply(lane.settings, [hidden], WAIT_S)
    weight, text = told(planned(lane, lane.connector))["released-column"]
    assert (weight, "public.reviews.body: leaves the source from now on" in text) == (Weight.ALLOW, True)
    with pytest.raises(BadInput, match="--allow released-column"):
        apply(lane.settings, [lane.connector], WAIT_S)
    (result,) = apply(lane.settings, [lane.connector], WAIT_S, allow=["released-column"])
    assert (result.action, result.state, result.error) == (Action.UPDATED, "RUNNING", "")


def test_a_second_snapshot_needs_leave_and_is_one(lane: OwnLane) -> None:
    """A connector whose offset was reset, over topics that hold records."""
    stopped(lane)
    with lane.client() as client:
        client.reset_offsets(lane.name)
    weight, text = told(planned(lane, lane.connector))["second-snapshot"]
    assert weight is Weight.ALLOW
    assert "its topics already hold about" in text
    with pytest.raises(BadInput, match="--allow second-snapshot"):
        apply(lane.settings, [lane.connector], WAIT_S)
    assert lane.state() == {"STOPPED"}
    before = [kind for kind, _ in read(lane, bool)].count("r")
    (result,) = apply(lane.settings, [lane.connector], WAIT_S, allow=["second-snapshot"])
    assert (result.action, result.state, result.error) == (Action.STARTED, "RUNNING", "")
    rows = lane.execute("SELECT count(*) FROM products")[0][0]
    read(lane, lambda seen: [kind for kind, _ in seen].count("r") == before + rows)


def test_a_new_publication_skips_what_was_written_before_it(lane: OwnLane) -> None:
    """What the plan says of PostgreSQL 18, tried: the rows in between never come."""
    new = f"{lane.name}2"
    stopped(lane)
    lane.products(3, first=2000)
    lane.execute(
        f'CREATE PUBLICATION "{new}" FOR TABLE products, reviews, {HEARTBEAT_TABLE}'
        " WITH (publish = 'insert, update, delete')"
    )
    (result,) = apply(
        lane.settings, [changed(lane.connector, publication__name=new)], WAIT_S, allow=["new-publication"]
    )
    assert (result.action, result.state, result.error) == (Action.UPDATED, "RUNNING", "")
    lane.products(1, first=3000)
    seen = read(lane, lambda seen: "s3000" in {sku for _, sku in seen})
    assert {"s2000", "s2001", "s2002"}.isdisjoint(sku for _, sku in seen)
    apply(lane.settings, [lane.connector], WAIT_S, allow=["new-publication"])


def test_a_lost_slot_blocks_and_a_new_one_is_refused_by_the_task(lane: OwnLane) -> None:
    """What the plan says of both, tried: Debezium would not start either."""
    other = changed(lane.connector, slot__name=f"{lane.name}2")
    (result,) = apply(lane.settings, [other], WAIT_S, allow=["new-slot"])
    assert (result.action, result.state) == (Action.UPDATED, "FAILED")
    assert "no longer available on the server" in result.error
    item = planned(lane, other)
    assert (item.step, item.live_state) == (Step.STATE, "FAILED")
    assert "no longer available on the server" in told(item)["failed"][1]
    (result,) = apply(lane.settings, [lane.connector], WAIT_S, allow=["new-slot"])
    assert (result.state, result.error) == ("RUNNING", "")  # the old slot had stayed
    stopped(lane)
    lane.drop_slot()
    assert told(planned(lane, lane.connector))["lost-slot"][0] is Weight.BLOCKS
    with pytest.raises(BadInput, match=r"slot \S+ is gone.*\[lost-slot\]"):
        apply(lane.settings, [lane.connector], WAIT_S, allow=["new-slot", "second-snapshot"])
