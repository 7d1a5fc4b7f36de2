"""What every table file promises. A new entry of TABLES is covered by being there; nothing is written for it here.

The changes that routes are tried with are made from the table's own columns, so they need no sample of it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from processors import tables
from processors.change import NOT_SENT, Change, CheckedRecord, Kind, Op, Origin, TableId, pack_version
from processors.sinks import SINKS
from processors.sinks.base import RawRoute, Route
from processors.sinks.cache.keys import template
from processors.sinks.cache.route import CacheRoute, Invalidate
from processors.tables import TABLES
from processors.tables.base import Class, Lane, Table
from tests.support.avro import Record

CONNECTORS = Path(__file__).parents[2] / "connectors"
every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id.name)
ROUTED = [(table, route) for table in TABLES for route in table.routes if isinstance(route, Route)]
every_route = pytest.mark.parametrize(
    ("table", "route"), ROUTED, ids=[f"{table.id.name}-{route.sink}" for table, route in ROUTED]
)


def row(table: Table, mark: str = "") -> dict[str, Any]:
    """Return a row with a text in every captured column; `mark` makes it another row."""
    return {name: f"{name}{mark}" for name in table.columns if name not in table.excluded}


def change(
    table: Table, op: Op, *, mark: str = "", kind: Kind = Kind.STREAMED, values: dict[str, Any] | None = None
) -> Change:
    """Return a change of the row `mark`, with `values` as they are after it."""
    before = row(table, mark) if op in {Op.UPDATE, Op.DELETE} else None
    after = None if op is Op.DELETE else row(table, mark) | (values or {})
    return Change(
        source="shop",
        table=table.id,
        op=op,
        key={name: f"{name}{mark}" for name in table.key},
        before=before,
        after=after,
        version=0 if kind is Kind.SNAPSHOT else pack_version(1, 8, deleted=op is Op.DELETE),
        committed_at=datetime(2026, 11, 21, tzinfo=UTC),
        transaction=0 if kind is Kind.SNAPSHOT else 771,
        origin=Origin(table.topic("shop"), 0, 0, kind),
    )


EVERY_OP = [
    (Op.CREATE, Kind.STREAMED),
    (Op.UPDATE, Kind.STREAMED),
    (Op.DELETE, Kind.STREAMED),
    (Op.READ, Kind.SNAPSHOT),
]


def texts(command: Any) -> str:
    """Return everything a command holds, as text."""
    return repr(command)


def test_every_file_is_in_tables_and_the_reverse() -> None:
    folder = Path(tables.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    assert files == {table.id.name for table in TABLES}
    for table in TABLES:
        module = importlib.import_module(f"processors.tables.{table.id.name}")
        assert getattr(module, table.id.name.upper()) is table
    assert len({table.id for table in TABLES}) == len(TABLES)


def test_topics_differ() -> None:
    topics = [table.topic("shop") for table in TABLES]
    assert len(set(topics)) == len(topics)
    assert "shop_inventory.public.inventory" in topics


@every_table
def test_the_key_is_there_classified_and_captured(table: Table) -> None:
    assert table.key
    assert len(set(table.key)) == len(table.key)
    for name in table.key:
        assert table.columns[name] in Class
        assert name not in table.excluded


@every_table
def test_only_a_restricted_column_is_an_exception(table: Table) -> None:
    restricted = {name for name, class_ in table.columns.items() if class_ is Class.RESTRICTED}
    assert table.captured_restricted <= restricted
    assert set(table.excluded) == restricted - table.captured_restricted
    assert set(table.shared) == set(table.columns) - restricted


def test_an_unclassified_column_is_not_shared() -> None:
    table = Table(TableId("public", "new"), Lane.ACCOUNTS, ("id",), {"id": Class.INTERNAL}, ())
    assert table.shared == ("id",)
    assert table.columns.get("shoe_size", Class.RESTRICTED) is Class.RESTRICTED


@every_table
def test_it_feeds_each_kind_of_sink_at_most_once_and_only_known_ones(table: Table) -> None:
    kinds = [route.sink for route in table.routes]
    assert len(set(kinds)) == len(kinds)
    assert set(kinds) <= set(SINKS)
    assert "analytics" in kinds, "the analytics store has every table"
    for kind in kinds:
        route = table.route(kind)
        assert isinstance(route, Route) != isinstance(route, RawRoute), "a route is decoded or raw, not both"
    assert table.route("a sink of tomorrow") is None


@every_table
def test_nothing_restricted_is_passed_on_raw(table: Table) -> None:
    raw = [route for route in table.routes if isinstance(route, RawRoute)]
    assert not (raw and table.captured_restricted)
    record = Record(table.topic("shop"), 0, 0, 0, b"", b"\0\0\0\0\1body")
    checked = CheckedRecord(record, table.id, 1, {})
    for route in raw:
        assert len(route.raw(checked)) == 1
        assert route.raw(checked) == route.raw(checked)


@every_route
def test_a_captured_restricted_column_goes_to_the_cache_alone(table: Table, route: Route) -> None:
    for op, kind in EVERY_OP:
        made = change(table, op, mark="-MARK", kind=kind)
        shown = " ".join(texts(command) for command in route.commands(made))
        for name in table.captured_restricted:
            assert (f"{name}-MARK" in shown) == (route.sink == "cache")


@every_route
def test_every_op_gives_commands_and_the_same_ones_each_time(table: Table, route: Route) -> None:
    for op, kind in EVERY_OP:
        made = change(table, op, kind=kind)
        commands = route.commands(made)
        assert commands, f"{op.name} of {table.id} means nothing to {route.sink}"
        assert list(commands) == list(route.commands(made))
        assert made == change(table, op, kind=kind), "the route changed the change"


@every_route
def test_a_key_change_touches_the_old_and_the_new_row(table: Table, route: Route) -> None:
    # the connector says it as a delete of the old key and a create of the new one
    halves = [
        *route.commands(change(table, Op.DELETE, mark="-OLD")),
        *route.commands(change(table, Op.CREATE, mark="-NEW")),
    ]
    shown = " ".join(texts(command) for command in halves)
    some_key = table.key[0]
    assert f"{some_key}-OLD" in shown
    assert f"{some_key}-NEW" in shown


def invalidated(commands: Sequence[Invalidate]) -> set[str]:
    return {name for command in commands for name in (*command.keys, *command.tags)}


CACHED = [table for table in TABLES if table.route("cache")]


@pytest.mark.parametrize("table", CACHED, ids=lambda table: table.id.name)
def test_cache_templates_name_captured_columns_and_old_and_new_values_of_each(table: Table) -> None:
    route = table.route("cache")
    assert isinstance(route, CacheRoute)
    assert route.columns <= set(table.columns) - set(table.excluded)
    for text in (*route.keys, *route.tags):
        for column in template(text).columns:
            names = invalidated(route.commands(change(table, Op.UPDATE, values={column: "changed"})))
            old = template(text).fill(row(table))
            new = template(text).fill(row(table) | {column: "changed"})
            assert {old, new} <= names


@pytest.mark.parametrize("table", CACHED, ids=lambda table: table.id.name)
def test_a_column_that_was_not_sent_still_invalidates_by_the_row_before(table: Table) -> None:
    route = table.route("cache")
    assert isinstance(route, CacheRoute)
    whole = change(table, Op.UPDATE)
    assert whole.after is not None
    cut = whole._replace(after={name: value for name, value in whole.after.items() if name in table.key})
    assert invalidated(route.commands(cut)) == invalidated(route.commands(whole))


def test_joined_tables_are_routed_alike() -> None:
    joined = [table for table in TABLES if table.route("search")]
    assert {table.id.name: table.routed_by for table in joined} == {
        table.id.name: "id" if table.id.name == "products" else "product_id" for table in joined
    }
    for table in TABLES:
        assert table.routed_by is None or table.routed_by in table.key, "rows of one key must meet in one partition"


@pytest.mark.parametrize("path", sorted(CONNECTORS.glob("*.json")), ids=lambda path: path.stem)
def test_the_connectors_say_not_sent_as_the_decoder_expects(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))["config"]
    assert config["unavailable.value.placeholder"] == NOT_SENT


GOVERNANCE = {
    # domain.md, "Governance": what is Restricted, table by table; everything else there is named as something less
    "users": {"email", "name", "phone", "password_hash", "date_of_birth", "metadata"},
    "addresses": {"street", "city", "zip"},
    "payments": {"provider_ref"},
}


@every_table
def test_governance_is_as_the_domain_says(table: Table) -> None:
    restricted = {name for name, class_ in table.columns.items() if class_ is Class.RESTRICTED}
    assert restricted == GOVERNANCE.get(table.id.name, set())
