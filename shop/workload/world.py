"""What the workload knows of the shop: ids to choose from, the popular ones first. Read once, then kept by the planner.

The planner is one stream of choices from one random generator, so the same seed on the same shop makes the same
choices; which of two transactions commits first is PostgreSQL's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from random import Random
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from downriver.exits import BadInput

SKEW = 1.1
"""The exponent of Zipf's law: at 10,000 products, the ten most popular get about 40 % of the attention."""
AT_MOST = 100_000
"""Ids of one table that are read."""


class Popular:
    """Things to choose from, some of them far more often than others."""

    def __init__(self, things: Sequence[UUID], random: Random) -> None:
        self._things = list(things)
        random.shuffle(self._things)  # popularity has nothing to do with the order of ids
        self._weights = list(accumulate((rank + 1) ** -SKEW for rank in range(len(self._things))))

    def __len__(self) -> int:
        return len(self._things)

    def one(self, random: Random) -> UUID:
        """Choose one; the popular ones come up often."""
        return random.choices(self._things, cum_weights=self._weights)[0]

    def some(self, random: Random, count: int) -> list[UUID]:
        """Choose up to `count` different ones, sorted: transactions that lock in one order don't deadlock."""
        chosen = random.choices(self._things, cum_weights=self._weights, k=count)
        return sorted(set(chosen))

    def any(self, random: Random) -> UUID:
        """Choose one, each as likely: mostly an unpopular one."""
        return random.choice(self._things)

    def replace(self, old: UUID, new: UUID) -> None:
        """Let `new` stand where `old` stood."""
        self._things[self._things.index(old)] = new


@dataclass(slots=True)
class World:
    """Ids by table, and what the workload made itself.

    Attributes:
        orders: under way → how many steps it may still take.
        newcomers: users that the workload registered; nobody orders in their name, so they can be deleted for good.
        launched: products that the workload launched; nobody orders them, so they can be withdrawn.
        made: how many numbers were given out.
    """

    random: Random
    products: Popular
    users: Popular
    reviews: list[UUID]
    orders: dict[UUID, int]
    categories: list[str]
    newcomers: list[UUID] = field(default_factory=list)
    launched: list[UUID] = field(default_factory=list)
    made: int = 0

    def new_id(self) -> UUID:
        """Return an id that no row has."""
        return UUID(int=self.random.getrandbits(128), version=4)

    def number(self) -> int:
        """Return a number that grows, for what must be unique within a run."""
        self.made += 1
        return self.made

    def order(self) -> UUID:
        """Choose one of the newest orders under way."""
        return self.random.choice(list(islice(reversed(self.orders), 200)))

    def review(self) -> UUID:
        """Choose a review: one of the newest as likely as one of all the others."""
        newest = self.reviews[-50:]
        return self.random.choice(newest if self.random.random() < 0.5 else self.reviews)


async def read(connection: psycopg.AsyncConnection[Any], seed: int) -> World:
    """Read the ids. A second run on the same shop differs from the first, for the shop differs: there are more events, or,
    where they were removed meanwhile, more orders.

    Raises:
        BadInput: the shop was not migrated, or has no products or no users.
    """

    async def column(query: LiteralString) -> list[Any]:
        cursor = await connection.execute(query, {"most": AT_MOST})
        return [row[0] for row in await cursor.fetchall()]

    try:
        (events,) = await column("SELECT count(*) FROM outbox")
        (placed,) = await column("SELECT count(*) FROM orders")
    except psycopg.errors.UndefinedTable:
        raise BadInput("there is no shop: run `downriver shop migrate` and `downriver shop fill` first") from None
    random = Random(f"{seed}:{events}:{placed}")  # noqa: S311 - a workload, not a secret
    products = await column("SELECT id FROM products ORDER BY id LIMIT %(most)s")
    users = await column("SELECT id FROM users ORDER BY id LIMIT %(most)s")
    if not products or not users:
        raise BadInput("the shop has no products or no users to work with: run `downriver shop fill --size 10k` first")
    orders = await column(
        "SELECT id FROM orders WHERE status IN ('pending', 'processing', 'shipped') ORDER BY id LIMIT %(most)s"
    )
    return World(
        random=random,
        products=Popular(products, random),
        users=Popular(users, random),
        reviews=await column("SELECT id FROM reviews ORDER BY id LIMIT %(most)s"),
        orders=dict.fromkeys(orders, 3),
        categories=await column("SELECT DISTINCT category FROM products ORDER BY category LIMIT 50"),
    )
