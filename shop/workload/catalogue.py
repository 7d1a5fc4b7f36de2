"""The catalogue: prices, descriptions, categories, launches and withdrawals, and reviews from first word to deletion."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from shop.sample import vocabulary as words
from shop.sample.edges import incompressible
from shop.workload.transaction import Step, Transaction
from shop.workload.world import World


def price(world: World) -> Step:
    """Change the price of a product, sometimes the currency too."""
    product, cents = world.products.one(world.random), world.random.randint(50, 60_000)
    currency = world.random.choice(("EUR", "EUR", "EUR", "USD"))

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "products",
            "UPDATE products SET price = %s::numeric / 100, currency = %s WHERE id = %s",
            (cents, currency, product),
        )

    return Step("price_change", 1, do)


def campaign(world: World) -> Step:
    """Lower the prices of many products at once."""
    products, percent = world.products.some(world.random, 30), world.random.randint(70, 110)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "products",
            "UPDATE products SET price = least(round(price * %s / 100, 2), 99999999.99) WHERE id = ANY(%s)",
            (percent, products),
        )

    return Step("price_campaign", len(products), do)


def describe(world: World) -> Step:
    """Edit a description, tags and attributes; one in eight becomes so long that PostgreSQL must TOAST it."""
    product, edit = world.products.one(world.random), world.random.getrandbits(32)
    text = " ".join(world.random.sample(words.SENTENCES, 3))
    if world.random.random() < 0.125:
        text += "\n" + incompressible(12_000, edit)
    tags = world.random.sample(("sale", "new", "eco", "comma, inside", 'quote " inside', "ünï 🚀"), 2)
    attributes = {"colour": world.random.choice(words.COLOURS), "edit": edit}

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "products",
            "UPDATE products SET description = %s, tags = %s, attributes = %s WHERE id = %s",
            (text, tags, Jsonb(attributes), product),
        )

    return Step("description_edit", 1, do)


def recategorise(world: World) -> Step:
    """Move a product to another category."""
    product, category = world.products.one(world.random), world.random.choice(world.categories)

    async def do(transaction: Transaction) -> None:
        await transaction.change("products", "UPDATE products SET category = %s WHERE id = %s", (category, product))

    return Step("category_move", 1, do)


def rekey(world: World) -> Step:
    """Give a product a new id, and everything that refers to it."""
    old, new = world.products.any(world.random), world.new_id()
    world.products.replace(old, new)

    async def do(transaction: Transaction) -> None:
        await transaction.execute("SET CONSTRAINTS ALL DEFERRED")
        if await transaction.change("products", "UPDATE products SET id = %s WHERE id = %s", (new, old)):
            await transaction.change(
                "inventory", "UPDATE inventory SET product_id = %s WHERE product_id = %s", (new, old)
            )
            await transaction.change("reviews", "UPDATE reviews SET product_id = %s WHERE product_id = %s", (new, old))
            await transaction.change(
                "order_items", "UPDATE order_items SET product_id = %s WHERE product_id = %s", (new, old)
            )

    return Step("product_key_change", 8, do)


def launch(world: World) -> Step:
    """Put a new product on the market, with stock in three warehouses."""
    product, number = world.new_id(), world.number()
    category = world.random.choice(world.categories)
    name = f"{world.random.choice(words.MAKERS)} {world.random.choice(words.ADJECTIVES)} novelty {number}"
    cents = world.random.randint(100, 50_000)
    world.launched.append(product)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "products",
            "INSERT INTO products (id, sku, name, category, tags, price) VALUES (%s, %s, %s, %s, '{new}', %s::numeric / 100)",
            (product, f"NEW-{product.hex}", name, category, cents),
        )
        await transaction.change(
            "inventory",
            "INSERT INTO inventory (product_id, warehouse_id, quantity) SELECT %s, w, 10 FROM generate_series(1, 3) AS w",
            (product,),
        )
        await transaction.announce("product", product, "created", name=name)

    return Step("product_launch", 5, do)


def withdraw(world: World) -> Step:
    """Delete a launched product with all that hangs on it."""
    if not world.launched:
        return launch(world)
    product = world.launched.pop(world.random.randrange(len(world.launched)))

    async def do(transaction: Transaction) -> None:
        await transaction.rows("SELECT FROM products WHERE id = %s FOR UPDATE", (product,))
        await transaction.change("inventory", "DELETE FROM inventory WHERE product_id = %s", (product,))
        if await transaction.change("products", "DELETE FROM products WHERE id = %s", (product,)):
            await transaction.announce("product", product, "deleted")

    return Step("product_withdraw", 5, do)


def review(world: World) -> Step:
    """Write a review, still to be approved."""
    identity, product, user = world.new_id(), world.products.one(world.random), world.users.one(world.random)
    rating = world.random.choices((1, 2, 3, 4, 5), (8, 6, 12, 30, 44))[0]
    title, body = world.random.choice(words.TITLES), world.random.choice(words.OPINIONS)
    world.reviews.append(identity)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "reviews",
            "INSERT INTO reviews (id, product_id, user_id, rating, title, body) VALUES (%s, %s, %s, %s, %s, %s)",
            (identity, product, user, rating, title, body),
        )
        await transaction.announce("review", identity, "created", user, productId=str(product), rating=rating)

    return Step("review_write", 2, do)


def moderate(world: World) -> Step:
    """Approve a review, or reject it."""
    if not world.reviews:
        return review(world)
    identity = world.review()
    status = world.random.choices(("approved", "rejected", "pending"), (80, 15, 5))[0]

    async def do(transaction: Transaction) -> None:
        await transaction.change("reviews", "UPDATE reviews SET status = %s WHERE id = %s", (status, identity))

    return Step(f"review_{status}", 1, do)


def rerate(world: World) -> Step:
    """Change a review's rating and words."""
    if not world.reviews:
        return review(world)
    identity, rating = world.review(), world.random.randint(1, 5)
    body = world.random.choice(words.OPINIONS)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "reviews", "UPDATE reviews SET rating = %s, body = %s WHERE id = %s", (rating, body, identity)
        )

    return Step("review_edit", 1, do)


def move_review(world: World) -> Step:
    """Move a review to another product, where it belonged all along."""
    if not world.reviews:
        return review(world)
    identity, product = world.review(), world.products.one(world.random)

    async def do(transaction: Transaction) -> None:
        await transaction.change("reviews", "UPDATE reviews SET product_id = %s WHERE id = %s", (product, identity))

    return Step("review_move", 1, do)


def delete_review(world: World) -> Step:
    """Delete a review."""
    if not world.reviews:
        return review(world)
    identity = world.reviews.pop(world.random.randrange(len(world.reviews)))

    async def do(transaction: Transaction) -> None:
        await transaction.change("reviews", "DELETE FROM reviews WHERE id = %s", (identity,))

    return Step("review_delete", 1, do)
