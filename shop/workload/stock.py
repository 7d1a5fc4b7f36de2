"""The warehouse: stock moves, deliveries, transfers, and rows of inventory that change their key or come back."""

from __future__ import annotations

from shop.workload.transaction import Step, Transaction
from shop.workload.world import World

MOVE = (
    "UPDATE inventory SET quantity = least(greatest(quantity::bigint + %s, reserved), 2147483647)"
    " WHERE product_id = %s AND warehouse_id = %s"
)


def move(world: World) -> Step:
    """Count one product's stock anew in one warehouse, up or down."""
    product, warehouse = world.products.one(world.random), world.random.randint(1, 3)
    delta = world.random.choice((-3, -2, -1, -1, 1, 5, 20))

    async def do(transaction: Transaction) -> None:
        await transaction.change("inventory", MOVE, (delta, product, warehouse))

    return Step("stock_move", 1, do)


def transfer(world: World) -> Step:
    """Move some stock of a product from one warehouse to another."""
    product, amount = world.products.one(world.random), world.random.randint(1, 5)
    source, target = world.random.sample((1, 2, 3), 2)

    async def do(transaction: Transaction) -> None:
        for warehouse in sorted((source, target)):
            delta = -amount if warehouse == source else amount
            await transaction.change("inventory", MOVE, (delta, product, warehouse))

    return Step("stock_transfer", 2, do)


def delivery(world: World) -> Step:
    """Book a delivery of many products into one warehouse, in one statement."""
    products, warehouse = world.products.some(world.random, 20), world.random.randint(1, 3)
    amount = world.random.randint(1, 50)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "inventory",
            "UPDATE inventory SET quantity = least(quantity::bigint + %s, 2147483647)"
            " WHERE product_id = ANY(%s) AND warehouse_id = %s",
            (amount, products, warehouse),
        )

    return Step("stock_delivery", len(products), do)


def relocate(world: World) -> Step:
    """Change a key: the stock of warehouse 3 becomes warehouse 4's, or comes back."""
    product = world.products.any(world.random)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "inventory",
            "UPDATE inventory SET warehouse_id = 7 - warehouse_id WHERE product_id = %s AND warehouse_id IN (3, 4)",
            (product,),
        )

    return Step("stock_key_change", 1, do)


def swap(world: World) -> Step:
    """Swap two keys within one transaction, by way of a third."""
    product = world.products.any(world.random)

    async def do(transaction: Transaction) -> None:
        for old, new in ((1, 999), (2, 1), (999, 2)):
            await transaction.change(
                "inventory",
                "UPDATE inventory SET warehouse_id = %s WHERE product_id = %s AND warehouse_id = %s",
                (new, product, old),
            )

    return Step("stock_key_swap", 3, do)


def recount(world: World) -> Step:
    """Delete a row and insert the same key again, within one transaction."""
    product, warehouse = world.products.any(world.random), world.random.randint(1, 2)
    quantity = world.random.randint(0, 500)

    async def do(transaction: Transaction) -> None:
        if await transaction.change(
            "inventory", "DELETE FROM inventory WHERE product_id = %s AND warehouse_id = %s", (product, warehouse)
        ):
            await transaction.change(
                "inventory",
                "INSERT INTO inventory (product_id, warehouse_id, quantity) VALUES (%s, %s, %s)",
                (product, warehouse, quantity),
            )

    return Step("stock_recount", 2, do)


def close_out(world: World) -> tuple[Step, Step]:
    """Delete a row in one transaction, insert the same key again in a later one."""
    product, warehouse = world.products.any(world.random), world.random.randint(1, 2)
    quantity = world.random.randint(1, 100)

    async def remove(transaction: Transaction) -> None:
        await transaction.change(
            "inventory", "DELETE FROM inventory WHERE product_id = %s AND warehouse_id = %s", (product, warehouse)
        )

    async def restock(transaction: Transaction) -> None:
        await transaction.change(
            "inventory",
            "INSERT INTO inventory (product_id, warehouse_id, quantity) SELECT id, %s, %s FROM products WHERE id = %s"
            " ON CONFLICT DO NOTHING",
            (warehouse, quantity, product),
        )

    return Step("stock_close_out", 1, remove), Step("stock_restock", 1, restock)
