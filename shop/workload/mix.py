"""What happens how often: the shares of the actions, and the order in which the planner takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate

from shop.workload import catalogue, people, sales, stock
from shop.workload.transaction import RolledBack, Step, Transaction
from shop.workload.world import World

SHARES: dict[Callable[[World], Step], float] = {
    stock.move: 46,
    stock.transfer: 5,
    stock.delivery: 1.5,
    stock.relocate: 0.7,
    stock.swap: 0.4,
    stock.recount: 0.5,
    catalogue.price: 9,
    catalogue.campaign: 0.2,
    catalogue.describe: 4,
    catalogue.recategorise: 1,
    catalogue.rekey: 0.2,
    catalogue.launch: 0.6,
    catalogue.withdraw: 0.3,
    catalogue.review: 4,
    catalogue.moderate: 5,
    catalogue.rerate: 1.5,
    catalogue.move_review: 0.7,
    catalogue.delete_review: 1,
    people.register: 1.2,
    people.edit: 3,
    people.change_email: 1,
    people.leave: 0.5,
    people.suspend: 0.5,
    people.forget: 0.5,
    people.move_house: 1,
    people.add_address: 0.7,
    sales.place: 4,
    sales.abandon: 0.4,
    sales.progress: 5,
    sales.cancel: 0.5,
    sales.replace_item: 0.4,
}
"""Action → its share of the transactions, in parts of any sum."""

CLOSE_OUT_EVERY = 120
"""One stock row in so many steps is deleted, and comes back RESTOCK_AFTER steps later, in another transaction."""
RESTOCK_AFTER = 15


def steps(world: World) -> Iterator[Step]:
    """Yield steps without end, chosen by the world's random generator."""
    actions, weights = list(SHARES), list(accumulate(SHARES.values()))
    later: deque[tuple[int, Step]] = deque()
    number = 0
    while True:
        number += 1
        while later and later[0][0] <= number:
            yield later.popleft()[1]
        if number % CLOSE_OUT_EVERY == 0:
            removal, restock = stock.close_out(world)
            later.append((number + RESTOCK_AFTER, restock))
            yield removal
            continue
        yield world.random.choices(actions, cum_weights=weights)[0](world)


def long_step(world: World) -> Step:
    """Return a transaction that stays open for seconds while others commit; one in four is rolled back in the end.

    It changes unpopular rows, for whoever wants the same row must wait for it.
    """
    product, other = sorted((world.products.any(world.random), world.products.any(world.random)))
    seconds, rolled_back = world.random.uniform(1, 2.5), world.random.random() < 0.25
    cents, review = world.random.randint(100, 50_000), world.review() if world.reviews else None

    async def do(transaction: Transaction) -> None:
        await transaction.change("inventory", stock.MOVE, (1, product, 1))
        await transaction.linger(seconds)
        await transaction.change(
            "products", "UPDATE products SET price = %s::numeric / 100 WHERE id = %s", (cents, other)
        )
        await transaction.change("inventory", stock.MOVE, (-1, other, 2))
        if review is not None:
            await transaction.change("reviews", "UPDATE reviews SET status = 'approved' WHERE id = %s", (review,))
        await transaction.linger(seconds)
        if rolled_back:
            raise RolledBack
        await transaction.change("inventory", stock.MOVE, (2, product, 1))

    return Step("long_transaction", 5, do)
