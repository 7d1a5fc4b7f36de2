"""What the shop's application reads through its cache: for every key pattern of domain.md, the value a cache entry must have.

Readers load with these on a miss, and the verification asks them what a key must hold: same rows, same bytes. A value
is what PostgreSQL prints of one jsonb document (unique keys in jsonb's own order, nothing rounded), made by one
statement, so it shows one snapshot. This module knows nothing of Redis but how keys are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from processors.sinks.cache.keys import fill, template

PAGE_ROWS = 20
_PAGE_NUMBER = re.compile(r"[1-9][0-9]{0,6}")

# Money is text, so that no reader makes a float of it. Times lose their zone first: printed in UTC whatever the session's.
_USER: LiteralString = """
    SELECT jsonb_build_object(
        'id', id, 'email', email, 'name', name, 'phone', phone, 'status', status, 'date_of_birth', date_of_birth,
        'country', country, 'metadata', metadata, 'created_at', created_at AT TIME ZONE 'UTC',
        'updated_at', updated_at AT TIME ZONE 'UTC', 'deleted_at', deleted_at AT TIME ZONE 'UTC',
        'purge_after', purge_after AT TIME ZONE 'UTC')::text
    FROM public.users"""

_ACTIVE_USERS: LiteralString = """
    SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'name', name, 'country', country)
                              ORDER BY created_at, id), '[]')::text
    FROM (SELECT id, name, country, created_at FROM public.users WHERE status = 'active'
          ORDER BY created_at, id LIMIT %(rows)s OFFSET %(skip)s) AS page"""

_PRODUCT: LiteralString = """
    SELECT jsonb_build_object(
        'id', id, 'sku', sku, 'name', name, 'description', description, 'category', category, 'tags', tags,
        'attributes', attributes, 'price', price::text, 'currency', currency, 'status', status,
        'created_at', created_at AT TIME ZONE 'UTC', 'updated_at', updated_at AT TIME ZONE 'UTC',
        'stock', (SELECT coalesce(sum(quantity::bigint - reserved), 0) FROM public.inventory WHERE product_id = p.id),
        'rating', (SELECT jsonb_build_object('average', round(avg(rating), 2)::text, 'count', count(*))
                   FROM public.reviews WHERE product_id = p.id AND status = 'approved'))::text
    FROM public.products AS p WHERE id = %(id)s"""

_CATEGORY: LiteralString = """
    SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'sku', sku, 'name', name, 'price', price::text,
                                                 'currency', currency) ORDER BY created_at, id), '[]')::text
    FROM (SELECT id, sku, name, price, currency, created_at FROM public.products
          WHERE category = %(category)s AND status = 'active'
          ORDER BY created_at, id LIMIT %(rows)s OFFSET %(skip)s) AS page"""

_STOCK: LiteralString = """
    SELECT jsonb_build_object(
        'product_id', product_id, 'available', sum(quantity::bigint - reserved),
        'warehouses', jsonb_agg(jsonb_build_object('id', warehouse_id, 'quantity', quantity, 'reserved', reserved)
                                ORDER BY warehouse_id))::text
    FROM public.inventory WHERE product_id = %(product_id)s GROUP BY product_id"""

_ORDER: LiteralString = """
    SELECT jsonb_build_object(
        'id', id, 'user_id', user_id, 'status', status, 'total', total::text, 'currency', currency,
        'ordered_at', ordered_at AT TIME ZONE 'UTC', 'updated_at', updated_at AT TIME ZONE 'UTC',
        'items', (SELECT coalesce(jsonb_agg(jsonb_build_object('product_id', product_id, 'quantity', quantity,
                                                               'unit_price', unit_price::text) ORDER BY product_id), '[]')
                  FROM public.order_items WHERE order_id = o.id),
        'payments', (SELECT coalesce(jsonb_agg(jsonb_build_object(
                         'id', id, 'method', method, 'amount', amount::text, 'status', status,
                         'created_at', created_at AT TIME ZONE 'UTC') ORDER BY created_at, id), '[]')
                     FROM public.payments WHERE order_id = o.id))::text
    FROM public.orders AS o WHERE id = %(id)s"""

_ORDERS: LiteralString = """
    SELECT coalesce(jsonb_agg(jsonb_build_object('id', id, 'status', status, 'total', total::text, 'currency', currency,
                                                 'ordered_at', ordered_at AT TIME ZONE 'UTC')
                              ORDER BY ordered_at DESC, id), '[]')::text
    FROM public.orders WHERE user_id = %(id)s"""


@dataclass(frozen=True, slots=True)
class Page:
    """One kind of cache entry.

    Attributes:
        ttl_s: how long an entry lives.
        query: gives one row of one text, or no row where there is no such thing.
        tags: templates of the tags that invalidate it, where it is a page of many rows.
    """

    ttl_s: int
    query: LiteralString
    tags: tuple[str, ...] = ()


PATTERNS: Mapping[str, Page] = {
    "user:email:{email}": Page(3600, _USER + " WHERE email = %(email)s"),
    "user:{id}": Page(3600, _USER + " WHERE id = %(id)s"),
    "user:{id}:orders": Page(3600, _ORDERS),
    "users:active:page:{n}": Page(300, _ACTIVE_USERS, ("users:active",)),
    "product:{id}": Page(3600, _PRODUCT),
    "products:category:{category}:page:{n}": Page(300, _CATEGORY, ("products:category:{category}",)),
    "inventory:{product_id}": Page(60, _STOCK),
    "order:{id}": Page(3600, _ORDER),
}
"""Key pattern → what it holds; the patterns and times to live of domain.md."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A key and the pattern that it was filled from; `values` are the decoded parts."""

    pattern: str
    values: Mapping[str, str]

    @property
    def ttl_s(self) -> int:
        """How long the entry lives."""
        return PATTERNS[self.pattern].ttl_s

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that invalidate the entry."""
        return tuple(
            fill(tag, **{name: self.values[name] for name in template(tag).columns})
            for tag in PATTERNS[self.pattern].tags
        )


def parse(key: str) -> Parsed:
    """Find the pattern of a cache key.

    Raises:
        ValueError: the key has none of PATTERNS.
    """
    for pattern in PATTERNS:
        values = template(pattern).match(key)
        if values is not None:
            return Parsed(pattern, values)
    msg = f"cache key {key!r} has none of the shop's patterns: {', '.join(PATTERNS)}"
    raise ValueError(msg)


async def load(key: str, connection: psycopg.AsyncConnection[Any]) -> bytes | None:
    """Return the value that `key` must have now, as UTF-8 JSON; None if there is no such thing.

    A key that spells an id or a page number in an unusual way (capitals, leading zeros) has no value: the worker would
    never invalidate it.

    Raises:
        ValueError: the key has none of PATTERNS.
    """
    parsed = parse(key)
    values = _arguments(parsed.values)
    if values is None:
        return None
    cursor = await connection.execute(PATTERNS[parsed.pattern].query, values)
    row = await cursor.fetchone()
    return None if row is None else str(row[0]).encode()


def _arguments(values: Mapping[str, str]) -> dict[str, object] | None:
    """Return what the query takes, None if a part can't name anything."""
    arguments: dict[str, object] = {"rows": PAGE_ROWS}
    for name, value in values.items():
        if name == "n":
            if not _PAGE_NUMBER.fullmatch(value):
                return None
            arguments["skip"] = (int(value) - 1) * PAGE_ROWS
        elif name in {"id", "product_id"}:
            identity = _uuid(value)
            if identity is None:
                return None
            arguments[name] = identity
        elif any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            return None  # PostgreSQL's text holds neither NUL nor a lone surrogate
        else:
            arguments[name] = value
    return arguments


def _uuid(text: str) -> UUID | None:
    try:
        identity = UUID(text)
    except ValueError:
        return None
    return identity if str(identity) == text else None
