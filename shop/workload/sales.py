"""Orders: placed with items, a payment and reserved stock in one transaction, then walking through their states."""

from __future__ import annotations

from uuid import UUID

from shop.workload.transaction import RolledBack, Step, Transaction
from shop.workload.world import World

WAREHOUSE = 1
"""Orders are served from here."""
STEPS = 3
"""What an order goes through after it was placed: processing, shipped, delivered."""


def place(world: World, *, abandon: bool = False) -> Step:
    """Place an order; with `abandon` the customer changes their mind before the commit."""
    order, payment, user = world.new_id(), world.new_id(), world.users.one(world.random)
    basket = [(product, world.random.randint(1, 3)) for product in world.products.some(world.random, 3)]
    method = world.random.choice(("card", "paypal", "bank_transfer", "gift_card"))
    if not abandon:
        world.orders[order] = STEPS

    async def do(transaction: Transaction) -> None:
        prices = dict(
            await transaction.rows(
                "SELECT id, least(price, 1000000)::text FROM products WHERE id = ANY(%s)", ([p for p, _ in basket],)
            )
        )
        items = [(product, quantity, prices[product]) for product, quantity in basket if product in prices]
        await transaction.change(
            "orders", "INSERT INTO orders (id, user_id, status, total) VALUES (%s, %s, 'pending', 0)", (order, user)
        )
        for product, quantity, price in items:
            await transaction.change(
                "inventory",
                "UPDATE inventory SET reserved = reserved + %s"
                " WHERE product_id = %s AND warehouse_id = %s AND quantity - reserved >= %s",
                (quantity, product, WAREHOUSE, quantity),
            )
            await transaction.change("order_items", "INSERT INTO order_items VALUES (%s, %s, %s, %s)",
                                     (order, product, quantity, price))  # fmt: skip
        await transaction.change(
            "orders",
            "UPDATE orders SET total ="
            " (SELECT coalesce(sum(quantity * unit_price), 0) FROM order_items WHERE order_id = %(order)s)"
            " WHERE id = %(order)s",
            {"order": order},
        )
        await transaction.change(
            "payments",
            "INSERT INTO payments (id, order_id, method, amount, status, provider_ref)"
            " SELECT %s, id, %s, total, 'authorized', %s FROM orders WHERE id = %s",
            (payment, method, f"ref_{payment.hex[:16]}", order),
        )
        await transaction.announce("order", order, "created", user, items=len(items))
        if abandon:
            raise RolledBack

    return Step("order_abandon" if abandon else "order_place", 4 + 2 * len(basket), do)


def abandon(world: World) -> Step:
    """Place an order, and roll it back."""
    return place(world, abandon=True)


def progress(world: World) -> Step:
    """Take an order that is under way to its next state."""
    if not world.orders:
        return place(world)
    order = world.order()
    world.orders[order] -= 1
    if not world.orders[order]:
        del world.orders[order]

    async def do(transaction: Transaction) -> None:
        states = await transaction.rows("SELECT status FROM orders WHERE id = %s FOR UPDATE", (order,))
        following = {"pending": "processing", "processing": "shipped", "shipped": "delivered"}
        if not states or states[0][0] not in following:
            return
        status = following[states[0][0]]
        await transaction.change("orders", "UPDATE orders SET status = %s WHERE id = %s", (status, order))
        if status == "processing":
            await transaction.change(
                "payments",
                "UPDATE payments SET status = 'captured' WHERE order_id = %s AND status IN ('pending', 'authorized')",
                (order,),
            )
        if status == "shipped":
            await _release(transaction, order, shipped=True)
        await transaction.announce("order", order, "updated", status=status)

    return Step("order_progress", 3, do)


def cancel(world: World) -> Step:
    """Cancel an order that has not been shipped, give its stock free and its money back."""
    if not world.orders:
        return place(world)
    order = world.order()
    del world.orders[order]

    async def do(transaction: Transaction) -> None:
        if not await transaction.change(
            "orders",
            "UPDATE orders SET status = 'cancelled' WHERE id = %s AND status IN ('pending', 'processing')",
            (order,),
        ):
            return
        await _release(transaction, order, shipped=False)
        await transaction.change("payments", "UPDATE payments SET status = 'refunded' WHERE order_id = %s", (order,))
        await transaction.announce("order", order, "updated", status="cancelled")

    return Step("order_cancel", 5, do)


def replace_item(world: World) -> Step:
    """Change a key: an item of an order becomes another product."""
    if not world.orders:
        return place(world)
    order, product = world.order(), world.products.one(world.random)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "order_items",
            "UPDATE order_items SET product_id = %(new)s WHERE (order_id, product_id) IN"
            " (SELECT order_id, product_id FROM order_items WHERE order_id = %(order)s ORDER BY product_id LIMIT 1)"
            " AND NOT EXISTS (SELECT FROM order_items WHERE order_id = %(order)s AND product_id = %(new)s)",
            {"new": product, "order": order},
        )

    return Step("order_item_key_change", 1, do)


async def _release(transaction: Transaction, order: UUID, *, shipped: bool) -> None:
    """Take what the order reserved off the reservation, and off the stock if it was shipped."""
    await transaction.rows(  # in the order of the keys, as everybody locks, so that two orders don't deadlock
        "SELECT FROM inventory WHERE warehouse_id = %s AND product_id IN"
        " (SELECT product_id FROM order_items WHERE order_id = %s) ORDER BY product_id FOR UPDATE",
        (WAREHOUSE, order),
    )
    await transaction.change(
        "inventory",
        "UPDATE inventory AS s SET reserved = s.reserved - least(s.reserved, i.quantity),"
        " quantity = s.quantity - CASE WHEN %s THEN least(s.reserved, i.quantity) ELSE 0 END"
        " FROM order_items AS i WHERE i.order_id = %s AND s.product_id = i.product_id AND s.warehouse_id = %s",
        (shipped, order, WAREHOUSE),
    )
