"""`downriver shop`: the sample shop's schema and data."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from psycopg import sql
from pydantic import SecretStr
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from downriver.exits import BadInput
from downriver.output import Format, OutputOption, print_json, report, say, stderr
from downriver.settings import Settings, load
from shop import migrate as migration
from shop.names import TABLES, CaptureNames
from shop.sample.fill import SIZES
from shop.sample.fill import fill as fill_shop
from shop.sample.rows import Plan

app = typer.Typer()


class Size(StrEnum):
    """The value of --size: how many products."""

    EMPTY = "empty"
    ONE = "1"
    HUNDRED = "100"
    TEN_THOUSAND = "10k"
    MILLION = "1m"


def capture_password(settings: Settings) -> SecretStr:
    """Return what the capture role logs in with: the setting, or what the local stack made up for itself.

    Empty where the source is not the local stack's and nothing is set: then the role keeps the password it has.
    """
    postgres = settings.postgres
    if postgres.capture_password.get_secret_value():
        return postgres.capture_password
    if postgres.host in {"127.0.0.1", "localhost", "::1"} and postgres.port == settings.stack.port("postgres"):
        from deploy.local.stack import Stack

        return SecretStr(Stack(settings.stack).capture_password())
    return SecretStr("")


@app.command()
def migrate(
    to: Annotated[
        str, typer.Option(help="A revision, `head` (the newest) or, with --down, `base` (nothing).")
    ] = "head",
    down: Annotated[bool, typer.Option("--down", help="Undo down to --to. Drops tables with all their rows.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Create the database if it is missing and bring its schema, publications and capture role to a revision."""
    settings = load()
    password = capture_password(settings)
    names = CaptureNames(role=settings.postgres.capture_user)
    revision = migration.migrate(settings, password, to, down=down, names=names)
    if not password.get_secret_value() and not down:
        role = settings.postgres.capture_user
        say(f"Role {role} keeps its password, if it has one: DOWNRIVER_POSTGRES__CAPTURE_PASSWORD sets it.")
    record = {"database": settings.postgres.database, "revision": revision}
    print_json(record) if output is Format.JSON else report(output, [record])


@app.command()
def fill(
    size: Annotated[Size, typer.Option(help="Products; users, stock, reviews and orders are in proportion.")],
    seed: Annotated[int, typer.Option(help="The same size and seed give the same rows.", min=0, max=2**31)] = 1,
    append: Annotated[bool, typer.Option("--append", help="Add to a shop with rows; needs another seed.")] = False,
    far_times: Annotated[
        bool, typer.Option("--far-times", help="Also users with times only PostgreSQL holds: BC, infinity.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Fill the shop with sample data, all of it or none. From 100 products on, edge cases are among it."""
    settings = load()
    plan = Plan(SIZES[size], seed, far_times)
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=stderr, transient=True) as display:
        tasks = {table: display.add_task(table, total=count) for table, count in plan.counts().items()}

        def progress(table: str, done: int, total: int) -> None:
            display.update(tasks[table], completed=done, total=total)

        try:
            filled = fill_shop(settings, plan, append=append, progress=progress)
        except KeyboardInterrupt:
            say("Interrupted: nothing was added.")
            raise
    if output is Format.JSON:
        print_json({"rows": filled.rows, "seconds": round(filled.seconds, 3), "size": size, "seed": seed})
    else:
        report(output, [{"table": table, "rows": count} for table, count in filled.rows.items()])
        say(f"{sum(filled.rows.values()):,} rows in {filled.seconds:.1f} s")


@app.command()
def status(output: OutputOption = Format.TABLE) -> None:
    """Count the rows of every table and name the schema's revision."""
    settings = load()
    revision = migration.current(settings)
    if revision is None:
        msg = f"database {settings.postgres.database!r} has no shop in it: run `downriver shop migrate` first"
        raise BadInput(msg)
    with migration.connect(settings) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        counts: dict[str, int] = {}
        for table in TABLES:
            row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
            counts[table] = row[0] if row else 0
    if output is Format.JSON:
        print_json({"database": settings.postgres.database, "revision": revision, "rows": counts})
    else:
        report(output, [{"table": table, "rows": count} for table, count in counts.items()])
        say(f"database {settings.postgres.database}, revision {revision}")
