"""Cache keys of the shop: which pattern, which values, and which spellings name nothing."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.sinks.cache.keys import fill
from shop.pages import PATTERNS, load, parse

SOME = "6816e01e-ae83-45b7-8541-4a76c3717a43"


class Unused:
    """A connection that must not be asked."""

    def __getattr__(self, name: str) -> object:
        msg = f"the database was asked ({name})"
        raise AssertionError(msg)


NOBODY = cast("psycopg.AsyncConnection[Any]", Unused())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_is_found_again(pattern: str) -> None:
    values = {"email": "a@example.com", "n": "1", "category": "Books", "id": SOME, "product_id": SOME}
    used = {name: value for name, value in values.items() if "{" + name + "}" in pattern}
    parsed = parse(fill(pattern, **used))
    assert (parsed.pattern, dict(parsed.values)) == (pattern, used)
    assert parsed.ttl_s == PATTERNS[pattern].ttl_s


@given(st.text(min_size=1), st.integers(1, 10**6))
def test_any_category_comes_back(category: str, page: int) -> None:
    parsed = parse(fill("products:category:{category}:page:{n}", category=category, n=page))
    assert parsed.values == {"category": category, "n": str(page)}
    assert parsed.tags == (fill("products:category:{category}", category=category),)


@given(st.text(min_size=1))
def test_any_email_comes_back(email: str) -> None:
    parsed = parse(fill("user:email:{email}", email=email))
    assert (parsed.pattern, parsed.values["email"]) == ("user:email:{email}", email)


@pytest.mark.parametrize("key", ["", "user", "session:1", "user:1:2:3", "products:category:x", "lease:{user:1}"])
def test_a_key_of_no_pattern_is_refused_by_name(key: str) -> None:
    with pytest.raises(ValueError, match="none of the shop's patterns"):
        parse(key)


@pytest.mark.parametrize(
    "key",
    [
        "product:1",
        f"product:{SOME.upper()}",
        f"product:{SOME.replace('-', '')}",
        f"user:%7B{SOME}%7D",
        "users:active:page:0",
        "users:active:page:01",
        "users:active:page:-1",
        "users:active:page:%D9%A1",
        "users:active:page:99999999999999999999",
        "user:email:nul%00@example.com",
    ],
)
async def test_an_unusual_spelling_names_nothing(key: str) -> None:
    assert await load(key, NOBODY) is None


@given(st.uuids())
def test_ids_are_spelt_as_postgresql_spells_them(identity: UUID) -> None:
    assert parse(fill("order:{id}", id=identity)).values == {"id": str(identity)}


async def test_a_proper_key_does_ask() -> None:
    with pytest.raises(AssertionError, match="the database was asked"):
        await load(f"product:{uuid4()}", NOBODY)
