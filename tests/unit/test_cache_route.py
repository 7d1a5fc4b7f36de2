"""What a change means for the cache."""

from datetime import UTC, datetime
from typing import Any

import pytest

from processors.change import Change, Kind, Op, Origin, Row, TableId, pack_version
from processors.sinks.base import Route
from processors.sinks.cache.route import CacheRoute, Invalidate

USERS = CacheRoute(keys=("user:{id}", "user:email:{email}"), tags=("users:active",))


def change(before: Row | None, after: Row | None, key: Row, **parts: Any) -> Change:
    op = Op.DELETE if after is None else Op.CREATE if before is None else Op.UPDATE
    fixed: dict[str, Any] = {
        "source": "shop",
        "table": TableId("public", "users"),
        "op": op,
        "key": key,
        "before": before,
        "after": after,
        "version": pack_version(1, 4_096, deleted=after is None),
        "committed_at": datetime(2026, 11, 21, tzinfo=UTC),
        "transaction": 700,
        "origin": Origin("t", 0, 1),
    }
    return Change(**(fixed | parts))


def test_a_changed_column_invalidates_the_old_and_the_new_key() -> None:
    old, new = {"id": "u1", "email": "old@x"}, {"id": "u1", "email": "new@x"}
    assert USERS.commands(change(old, new, {"id": "u1"})) == (
        Invalidate(
            keys=("user:u1", "user:email:old@x", "user:email:new@x"),
            tags=("users:active",),
            transaction=700,
            kind=Kind.STREAMED,
            lsn=4_096,
        ),
    )


def test_tags_are_derived_from_both_rows_too() -> None:
    route = CacheRoute(keys=("product:{id}",), tags=("products:category:{category}",))
    old, new = {"id": "p", "category": "toys"}, {"id": "p", "category": "a:b"}
    (command,) = route.commands(change(old, new, {"id": "p"}))
    assert command.tags == ("products:category:toys", "products:category:a%3Ab")
    assert command.keys == ("product:p",)


def test_a_delete_invalidates_what_the_row_was() -> None:
    (command,) = USERS.commands(change({"id": "u1", "email": "a@x"}, None, {"id": "u1"}))
    assert command.keys == ("user:u1", "user:email:a@x")


def test_a_row_without_the_column_or_with_null_gives_no_key() -> None:
    (command,) = USERS.commands(change({"id": "u1"}, {"id": "u1", "email": None}, {"id": "u1"}))
    assert command.keys == ("user:u1",)


def test_the_record_key_is_enough() -> None:
    (command,) = USERS.commands(change(None, None, {"id": "u1"}, op=Op.DELETE))
    assert command.keys == ("user:u1",)


def test_a_change_that_fills_no_template_is_nothing_to_the_cache() -> None:
    route = CacheRoute(keys=("order:{order_id}",))
    assert route.commands(change(None, {"id": "u1", "order_id": None}, {"id": "u1"})) == ()


def test_a_snapshot_row_is_an_invalidation_without_transaction() -> None:
    snapshot = change(
        None, {"id": "u1"}, {"id": "u1"}, op=Op.READ, version=0, transaction=0, origin=Origin("t", 0, 1, Kind.SNAPSHOT)
    )
    (command,) = USERS.commands(snapshot)
    assert (command.transaction, command.lsn, command.kind) == (0, 0, Kind.SNAPSHOT)


def test_a_template_is_checked_when_the_route_is_written() -> None:
    with pytest.raises(ValueError, match="set each column off"):
        CacheRoute(keys=("user:{id}{email}",))


def test_it_is_a_route_and_names_its_columns() -> None:
    assert isinstance(USERS, Route)
    assert USERS.sink == "cache"
    assert USERS.columns == {"id", "email"}
