"""The rows that break things: longest values, NULL wherever allowed, special characters, numeric and timestamp extremes.

Each entry replaces columns of an ordinary sample row. The times of `USERS` to `ORDERS` lie within 1900 and 2299, which
every store holds exactly; `FAR_USERS` has times that only PostgreSQL holds, and is filled in when asked for.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from random import Random
from typing import Any

Edge = dict[str, Any]
"""Column → text as COPY takes it, or None."""

INT_MAX = 2**31 - 1
MONEY_MAX = "99999999.99"
FIRST, LAST = "1900-01-01 00:00:00+00", "2299-12-31 23:59:59.999999+00"
BEFORE_EPOCH = "1969-12-31 23:59:59.999999+00"
WEIRD = "tab\t newline\n return\r backslash\\ 'single' \"double\" `tick` $$ ; -- /* */ <script>&amp;</script> %s {} \\N"
UNICODE = "Ünïcödé 日本語 العربية עברית 👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200b\ufeff\u202e \U0001f680\U0010ffff"
JSON_EDGE = (
    '{"": "empty key", "nested": {"deep": [1, [2, [3, {"x": null}]]]}, "big": 12345678901234567890.123456789, '
    '"small": 1e-300, "text": "quote \\" backslash \\\\ tab \\t é 🚀 </script>", "yes": true, "none": null}'
)


def incompressible(length: int, seed: int) -> str:
    """Return text of `length` characters that neither pglz nor lz4 makes shorter, so that PostgreSQL must TOAST it."""
    drawn = Random(seed).randbytes(length)  # noqa: S311 - sample data
    return b64encode(drawn).decode()[:length]


def users(seed: int) -> Sequence[Edge]:
    """Return the edge rows of users; e-mails carry the seed, for they are unique."""
    return (
        {"name": None, "phone": None, "password_hash": None, "date_of_birth": None, "country": None, "metadata": None,
         "purge_after": None},
        {"email": f"{{curly}}.{{brace}}.{seed}@example.com", "name": "{}"},
        {"email": f"user:email:{seed}%20colon@example.com", "name": WEIRD},
        {"email": f'"quoted local part {seed}"@example.com', "name": UNICODE},
        {"email": f"Päivi.Ünï.{seed}+tag@example.com", "metadata": JSON_EDGE},
        {"email": f"{'x' * 290}.{seed}@example.com"[-320:], "name": "N" * 500, "phone": "0" * 50},
        {"email": f"MiXeD.CaSe.{seed}@Example.COM", "name": "", "phone": "", "metadata": "{}"},
        {"date_of_birth": "0001-01-01", "created_at": FIRST, "metadata": "[]"},
        {"date_of_birth": "9999-12-31", "purge_after": LAST, "metadata": "null"},
        {"created_at": BEFORE_EPOCH, "updated_at": BEFORE_EPOCH, "metadata": '"just a string"'},
    )  # fmt: skip


FAR_USERS: Sequence[Edge] = (
    {"created_at": "4714-11-24 00:00:00+00 BC", "purge_after": "infinity"},
    {"created_at": "0001-01-01 00:00:00+00", "purge_after": "294276-12-31 23:59:59.999999+00"},
    {"created_at": "-infinity", "date_of_birth": "infinity", "purge_after": "9999-12-31 23:59:59.999999+00"},
)


def products(seed: int) -> Sequence[Edge]:
    """Return the edge rows of products; SKUs carry the seed, for they are unique."""
    return (
        {"description": None, "tags": None, "attributes": None},
        {"description": "", "tags": "{}", "attributes": "{}"},
        {"description": incompressible(100_000, seed), "name": "N" * 500},
        {"name": WEIRD, "description": WEIRD, "category": 'Home: {new} "50%" / ü*?'},
        {"name": UNICODE, "description": UNICODE, "category": "🚀 日本語"},
        {"sku": f"{seed:x}".ljust(64, "S")[:64], "category": "C" * 200},
        {"tags": '{"a,b","say \\"hi\\"","back\\\\slash","{brace}","NULL","","ünï 🚀"," spaced "}'},
        {"tags": "{NULL,one,NULL}", "attributes": JSON_EDGE},
        {"price": MONEY_MAX, "currency": "JPY", "attributes": "[]"},
        {"price": "0.00", "status": "draft", "attributes": "null"},
        {"price": "0.01", "created_at": FIRST, "updated_at": BEFORE_EPOCH},
        {"created_at": BEFORE_EPOCH, "updated_at": LAST},
    )


INVENTORY: Sequence[Edge] = (
    {"quantity": INT_MAX, "reserved": 0},
    {"quantity": INT_MAX, "reserved": 0},
    {"quantity": 0, "reserved": 0},
    {"quantity": INT_MAX, "reserved": INT_MAX, "updated_at": FIRST},
    {"quantity": 1, "reserved": 1, "updated_at": LAST},
)
"""The first two belong to one product: its stock does not fit 32 bits."""

REVIEWS: Sequence[Edge] = (
    {"user_id": None, "title": None, "body": None, "status": "approved"},
    {"title": "", "body": "", "rating": 1, "status": "approved"},
    {"title": UNICODE, "body": WEIRD, "rating": 5, "status": "approved"},
    {"body": incompressible(20_000, 0), "created_at": FIRST, "updated_at": LAST},
)

ADDRESSES: Sequence[Edge] = (
    {"street": None, "city": None, "zip": None, "country": None},
    {"street": WEIRD, "city": UNICODE, "zip": ""},
)

ORDERS: Sequence[Edge] = (
    {"total": MONEY_MAX, "currency": "JPY", "ordered_at": FIRST},
    {"total": "0.00", "updated_at": LAST},
)

PAYMENTS: Sequence[Edge] = (
    {"amount": MONEY_MAX, "provider_ref": None},
    {"amount": "0.00", "provider_ref": UNICODE, "created_at": BEFORE_EPOCH},
)

OUTBOX: Sequence[Edge] = (
    {"payload": None, "correlation_id": None, "causation_id": None, "user_id": None},
    {"payload": JSON_EDGE, "aggregateid": "A" * 255},
)
