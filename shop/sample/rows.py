"""Sample rows of every table, one after the other. Pure: no database, no clock; a row depends on seed and number alone.

A row is a tuple of what COPY's text format takes, in the order of COLUMNS; keys of other rows are derived from their
numbers, so that nothing has to be remembered and a million products need no more memory than a hundred.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from shop.sample import edges
from shop.sample import vocabulary as words

Row = tuple[Any, ...]

COLUMNS: dict[str, tuple[str, ...]] = {
    "users": ("id", "email", "name", "phone", "password_hash", "status", "date_of_birth", "country", "metadata",
              "created_at", "updated_at", "deleted_at", "purge_after"),
    "addresses": ("id", "user_id", "kind", "street", "city", "zip", "country", "is_default"),
    "products": ("id", "sku", "name", "description", "category", "tags", "attributes", "price", "currency", "status",
                 "created_at", "updated_at"),
    "inventory": ("product_id", "warehouse_id", "quantity", "reserved", "updated_at"),
    "reviews": ("id", "product_id", "user_id", "rating", "title", "body", "status", "created_at", "updated_at"),
    "orders": ("id", "user_id", "status", "total", "currency", "ordered_at", "updated_at"),
    "order_items": ("order_id", "product_id", "quantity", "unit_price"),
    "payments": ("id", "order_id", "method", "amount", "status", "provider_ref", "created_at"),
    "outbox": ("id", "aggregatetype", "aggregateid", "type", "payload", "correlation_id", "causation_id", "user_id"),
}  # fmt: skip
"""The columns of each table, in the order of its rows here."""

LONG_EVERY = 200
"""One product in so many has a description that PostgreSQL must TOAST."""
EDGES_FROM = 100
"""A shop of at least so many products has the edge rows, in place of its first ordinary ones."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rows of what.

    Attributes:
        size: the number of products; everything else is in proportion, at least one of each, nothing for 0.
        far_times: also users with times that only PostgreSQL holds (BC, infinity).
    """

    size: int
    seed: int
    far_times: bool = False

    @property
    def users(self) -> int:
        """One for two products; as many orders, each with its payment and its event."""
        return (self.size + 1) // 2

    @property
    def each(self) -> int:
        """Warehouses and reviews of a product."""
        return 3 if self.size > 1 else self.size

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        users = self.users
        return {
            "users": users,
            "addresses": users + users // 4,
            "products": self.size,
            "inventory": self.size * self.each,
            "reviews": self.size * self.each,
            "orders": users,
            "order_items": users // 3 * 6 + (0, 1, 3)[users % 3],
            "payments": users,
            "outbox": users,
        }

    def key(self, kind: str, number: int) -> str:
        """Return the id of the row of that kind and number: a UUID without hyphens."""
        digest = hashlib.blake2b(f"{self.seed}:{kind}:{number}".encode(), digest_size=16).hexdigest()
        return f"{digest[:12]}4{digest[13:16]}8{digest[17:]}"


def items(order: int) -> int:
    """Return how many items the order of that number has: 1, 2 or 3, in turns."""
    return 1 + order % 3


def item(plan: Plan, order: int, position: int) -> tuple[int, int, int]:
    """Return product number, quantity and unit price in cents of an order's item."""
    product = (order * 7919 + position) % plan.size
    return product, 1 + (order + position) % 3, price_cents(product)


def price_cents(product: int) -> int:
    """Return the price of the product of that number, between 0.99 and 499.98."""
    return 99 + product * 7907 % 49_900


def money(cents: int) -> str:
    """Return cents as a numeric."""
    return f"{cents // 100}.{cents % 100:02d}"


class Sample:
    """The rows of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.words = words.vocabulary(plan.seed)
        self._makers: dict[str, Callable[[int, Random], Row]] = {
            "users": self._user,
            "addresses": self._address,
            "products": self._product,
            "inventory": self._inventory,
            "reviews": self._review,
            "orders": self._order,
            "payments": self._payment,
            "outbox": self._event,
        }
        self._edges: dict[str, Sequence[edges.Edge]] = {}
        if plan.size >= EDGES_FROM:
            self._edges = {
                "users": (*edges.users(plan.seed), *(edges.FAR_USERS if plan.far_times else ())),
                "addresses": edges.ADDRESSES,
                "products": edges.products(plan.seed),
                "inventory": edges.INVENTORY,
                "reviews": edges.REVIEWS,
                "orders": edges.ORDERS,
                "payments": edges.PAYMENTS,
                "outbox": edges.OUTBOX,
            }

    def rows(self, table: str) -> Iterator[Row]:
        """Yield all rows of the table, always the same ones in the same order."""
        if table == "order_items":
            yield from self._items()
            return
        make, edge, columns = self._makers[table], self._edges.get(table, ()), COLUMNS[table]
        stream = Random(f"{self.plan.seed}:{table}")  # noqa: S311 - sample data
        for number in range(self.plan.counts()[table]):
            row = make(number, stream)
            if number < len(edge):
                row = tuple(edge[number].get(column, value) for column, value in zip(columns, row, strict=True))
            yield row

    def _user(self, number: int, stream: Random) -> Row:
        name = stream.choice(self.words.names)
        status = stream.choices(("active", "inactive", "suspended", "deleted"), (90, 6, 1, 3))[0]
        if number < len(self._edges.get("users", ())):
            status = "active"  # the edge rows set no deleted_at
        day = 1 + stream.randrange(28)
        return (
            self.plan.key("user", number),
            f"user{number}.{self.plan.seed}@example.com",
            name,
            f"+00 {stream.randrange(10**9):09d}",
            f"$argon2id$v=19$m=65536,t=3,p=4${stream.getrandbits(128):032x}",
            status,
            f"{1930 + stream.randrange(85)}-{1 + stream.randrange(12):02d}-{day:02d}",
            stream.choice(words.COUNTRIES),
            f'{{"newsletter": {"true" if stream.random() < 0.5 else "false"}, "visits": {stream.randrange(500)}}}',
            f"2025-{1 + number % 12:02d}-{day:02d} 08:{number % 60:02d}:00+00",
            f"2026-02-{day:02d} 09:00:00.{stream.randrange(10**6):06d}+00",
            f"2026-03-{day:02d} 10:00:00+00" if status == "deleted" else None,
            f"2027-03-{day:02d} 10:00:00+00" if status == "deleted" else None,
        )

    def _address(self, number: int, stream: Random) -> Row:
        first = number < self.plan.users  # the first address of each user, then second ones
        return (
            self.plan.key("address", number),
            self.plan.key("user", number % self.plan.users),
            "home" if first else stream.choice(("work", "other")),
            stream.choice(self.words.streets),
            stream.choice(self.words.cities),
            stream.choice(self.words.zips),
            stream.choice(words.COUNTRIES),
            "t" if first else "f",
        )

    def _product(self, number: int, stream: Random) -> Row:
        category = stream.choice(words.CATEGORIES)
        colour, maker = stream.choice(words.COLOURS), stream.choice(words.MAKERS)
        noun = stream.choice(words.NOUNS[category])
        description = " ".join(stream.sample(words.SENTENCES, 1 + number % 4))
        if number % LONG_EVERY == LONG_EVERY // 2:
            description += "\n" + edges.incompressible(12_000, number)
        return (
            self.plan.key("product", number),
            f"SKU-{self.plan.seed}-{number:07d}",
            f"{maker} {stream.choice(words.ADJECTIVES)} {noun}, {colour}",
            description,
            category,
            stream.choice(words.TAGS),
            words.attributes(colour, stream.randrange(10_000), maker),
            money(price_cents(number)),
            stream.choices(("EUR", "USD", "GBP"), (90, 6, 4))[0],
            stream.choices(("active", "draft", "discontinued"), (94, 3, 3))[0],
            f"2025-{1 + number % 12:02d}-{1 + number % 28:02d} 06:{number % 60:02d}:00+00",
            f"2026-01-{1 + number % 28:02d} 07:00:00.{stream.randrange(10**6):06d}+00",
        )

    def _inventory(self, number: int, stream: Random) -> Row:
        quantity = 0 if stream.random() < 0.05 else stream.randrange(1, 1_000)
        return (
            self.plan.key("product", number // self.plan.each),
            1 + number % self.plan.each,
            quantity,
            min(quantity, stream.randrange(5)),
            f"2026-04-{1 + number % 28:02d} 12:00:00.{stream.randrange(10**6):06d}+00",
        )

    def _review(self, number: int, stream: Random) -> Row:
        at = f"2026-05-{1 + number % 28:02d} 13:{number % 60:02d}:00+00"
        return (
            self.plan.key("review", number),
            self.plan.key("product", number // self.plan.each),
            self.plan.key("user", stream.randrange(self.plan.users)),
            stream.choices((1, 2, 3, 4, 5), (8, 6, 12, 30, 44))[0],
            stream.choice(words.TITLES),
            stream.choice(words.OPINIONS),
            stream.choices(("approved", "pending", "rejected"), (80, 13, 7))[0],
            at,
            at,
        )

    def _order(self, number: int, stream: Random) -> Row:
        chosen = (item(self.plan, number, position) for position in range(items(number)))
        at = f"2026-06-{1 + number % 28:02d} 14:{number % 60:02d}:00+00"
        return (
            self.plan.key("order", number),
            self.plan.key("user", number),
            stream.choices(("delivered", "shipped", "processing", "pending", "cancelled"), (60, 10, 10, 15, 5))[0],
            money(sum(quantity * price for _, quantity, price in chosen)),
            "EUR",
            at,
            at,
        )

    def _items(self) -> Iterator[Row]:
        for number in range(self.plan.users):
            order = self.plan.key("order", number)
            for position in range(items(number)):
                product, quantity, price = item(self.plan, number, position)
                yield order, self.plan.key("product", product), quantity, money(price)

    def _payment(self, number: int, stream: Random) -> Row:
        amount = sum(q * price for _, q, price in (item(self.plan, number, n) for n in range(items(number))))
        return (
            self.plan.key("payment", number),
            self.plan.key("order", number),
            stream.choice(("card", "paypal", "bank_transfer", "gift_card")),
            money(amount),
            stream.choices(("captured", "authorized", "pending", "refunded", "failed"), (75, 10, 9, 4, 2))[0],
            f"ref_{stream.getrandbits(64):016x}",
            f"2026-06-{1 + number % 28:02d} 14:{number % 60:02d}:30+00",
        )

    def _event(self, number: int, stream: Random) -> Row:
        order = self.plan.key("order", number)
        return (
            self.plan.key("event", number),
            "order",
            order,
            "com.platform.orders.order.created.v1",
            f'{{"orderId": "{order}", "items": {items(number)}}}',
            f"correlation-{stream.getrandbits(32):08x}",
            f"causation-{stream.getrandbits(32):08x}" if number % 2 else None,
            self.plan.key("user", number),
        )
