"""The shop and the river must mean the same tables, lanes, columns and cache keys."""

from __future__ import annotations

from processors.sinks.cache.route import CacheRoute
from processors.tables import TABLES
from shop.names import EVENTS, LANES, OUTBOX, CaptureNames
from shop.names import TABLES as SHOP_TABLES
from shop.pages import PATTERNS
from shop.sample.rows import COLUMNS


def test_lanes_carry_the_same_tables() -> None:
    declared: dict[str, set[str]] = {}
    for table in TABLES:
        declared.setdefault(table.lane, set()).add(table.id.name)
    assert {lane: set(tables) for lane, tables in LANES.items()} == declared


def test_every_table_but_the_outbox_is_in_exactly_one_lane() -> None:
    assert sorted([*(table for tables in LANES.values() for table in tables), OUTBOX]) == sorted(SHOP_TABLES)
    assert EVENTS not in LANES


def test_tables_have_the_classified_columns() -> None:
    assert {name: set(columns) for name, columns in COLUMNS.items() if name != OUTBOX} == {
        table.id.name: set(table.columns) for table in TABLES
    }


def test_every_page_can_be_invalidated() -> None:
    routes = [route for table in TABLES if isinstance(route := table.route("cache"), CacheRoute)]
    shapes = {_shape(key) for route in routes for key in route.keys}
    tags = {tag for route in routes for tag in route.tags}
    for pattern, page in PATTERNS.items():
        if page.tags:
            assert set(page.tags) <= tags, f"{pattern} is a page of {page.tags}, which no table invalidates"
        else:
            assert _shape(pattern) in shapes, f"no table invalidates {pattern}"


def _shape(template: str) -> str:
    """Return the template without its columns' names: order:{id} and order:{order_id} make the same keys."""
    return ":".join("{}" if part.startswith("{") else part for part in template.split(":"))


def test_publication_is_named_after_the_lane() -> None:
    assert CaptureNames().publication("inventory") == "downriver_inventory"
