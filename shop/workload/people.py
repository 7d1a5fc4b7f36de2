"""Users: they register, edit themselves, change their e-mail, leave for a while or for good, and move house."""

from __future__ import annotations

from psycopg.types.json import Jsonb

from shop.sample.vocabulary import COUNTRIES
from shop.workload.transaction import Step, Transaction
from shop.workload.world import World

DOMAINS = ("example.com", "mail.example.com", "ünï.example.com")


def _email(world: World) -> str:
    """Invent an e-mail that nobody has; some hold characters that break careless keys."""
    local = world.random.choice(("user", "User", "{user}", "user:email", "us%er", "üser"))
    return f"{local}.{world.random.getrandbits(64):016x}@{world.random.choice(DOMAINS)}"


def register(world: World) -> Step:
    """Register a user with an address."""
    user, address, email = world.new_id(), world.new_id(), _email(world)
    country, born = world.random.choice(COUNTRIES), f"{world.random.randint(1940, 2007)}-07-01"
    number = world.number()
    world.newcomers.append(user)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "users",
            "INSERT INTO users (id, email, name, country, date_of_birth, metadata) VALUES (%s, %s, %s, %s, %s, %s)",
            (user, email, f"Newcomer {number}", country, born, Jsonb({"number": number})),
        )
        await transaction.change(
            "addresses",
            "INSERT INTO addresses (id, user_id, kind, street, city, country, is_default)"
            " VALUES (%s, %s, 'home', %s, 'Sampletown', %s, true)",
            (address, user, f"{number} Sample Street", country),
        )
        await transaction.announce("user", user, "created", user)

    return Step("user_register", 3, do)


def edit(world: World) -> Step:
    """Edit a user's name, phone or metadata."""
    user, number = world.users.one(world.random), world.random.getrandbits(32)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "users",
            "UPDATE users SET name = %s, phone = %s, metadata = %s WHERE id = %s",
            (f"Edited {number}", f"+00 {number}", Jsonb({"edit": number}), user),
        )

    return Step("user_edit", 1, do)


def change_email(world: World) -> Step:
    """Change a user's e-mail."""
    user, email = world.users.one(world.random), _email(world)

    async def do(transaction: Transaction) -> None:
        await transaction.change("users", "UPDATE users SET email = %s WHERE id = %s", (email, user))

    return Step("user_email_change", 1, do)


def leave(world: World) -> Step:
    """Delete a user softly, or bring one back who has left."""
    user = world.users.any(world.random)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "users",
            "UPDATE users SET status = CASE status WHEN 'deleted' THEN 'active' ELSE 'deleted' END,"
            " deleted_at = CASE status WHEN 'deleted' THEN NULL ELSE now() END,"
            " purge_after = CASE status WHEN 'deleted' THEN NULL ELSE now() + interval '30 days' END WHERE id = %s",
            (user,),
        )

    return Step("user_soft_delete", 1, do)


def suspend(world: World) -> Step:
    """Suspend a user, or let one be active again."""
    user, status = world.users.any(world.random), world.random.choice(("suspended", "inactive", "active", "active"))

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "users", "UPDATE users SET status = %s WHERE id = %s AND status <> 'deleted'", (status, user)
        )

    return Step("user_status", 1, do)


def forget(world: World) -> Step:
    """Delete a newcomer for good, with addresses; reviews stay, without their author."""
    if not world.newcomers:
        return register(world)
    user = world.newcomers.pop(world.random.randrange(len(world.newcomers)))

    async def do(transaction: Transaction) -> None:
        await transaction.rows("SELECT FROM users WHERE id = %s FOR UPDATE", (user,))
        await transaction.change("reviews", "UPDATE reviews SET user_id = NULL WHERE user_id = %s", (user,))
        await transaction.change("addresses", "DELETE FROM addresses WHERE user_id = %s", (user,))
        if await transaction.change("users", "DELETE FROM users WHERE id = %s", (user,)):
            await transaction.announce("user", user, "deleted", user)

    return Step("user_hard_delete", 3, do)


def move_house(world: World) -> Step:
    """Change the street of a user's default address."""
    user, number = world.users.one(world.random), world.random.randint(1, 999)

    async def do(transaction: Transaction) -> None:
        await transaction.change(
            "addresses",
            "UPDATE addresses SET street = %s, zip = %s WHERE user_id = %s AND is_default",
            (f"{number} Moved Road", f"{number:05d}", user),
        )

    return Step("address_edit", 1, do)


def add_address(world: World) -> Step:
    """Add an address and make it the default one."""
    user, address, number = world.users.one(world.random), world.new_id(), world.random.randint(1, 999)

    async def do(transaction: Transaction) -> None:
        # whoever holds the user's row may move the default: two at once would collide on the unique index
        await transaction.rows("SELECT FROM users WHERE id = %s FOR NO KEY UPDATE", (user,))
        await transaction.change(
            "addresses", "UPDATE addresses SET is_default = false WHERE user_id = %s AND is_default", (user,)
        )
        await transaction.change(
            "addresses",
            "INSERT INTO addresses (id, user_id, kind, street, is_default) VALUES (%s, %s, 'work', %s, true)",
            (address, user, f"{number} Work Lane"),
        )

    return Step("address_add", 2, do)
