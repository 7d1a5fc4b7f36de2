"""The command `downriver`: composes the rooms' own commands and turns their errors into a message and an exit code."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

import typer

from downriver.exits import DownriverError, Exit
from downriver.output import say


@dataclass(frozen=True, slots=True)
class Room:
    """One command of the front door. `where` (module:attribute) is a typer app or a plain function, imported when used."""

    where: str
    help: str


ROOMS: dict[str, Room] = {
    "demo": Room(
        "shop.demo.commands:demo", "Run the whole pipeline on this machine and compare the shop with every sink."
    ),
    "stack": Room("deploy.local.commands:app", "Run the real servers on this machine, without Docker."),
    "shop": Room("shop.commands:app", "Migrate the sample shop, fill it with data."),
    "workload": Room("shop.workload.commands:workload", "Change the shop as its customers would, at a steady rate."),
    "connectors": Room("connectors.commands:app", "Deploy the Debezium connectors."),
    "schemas": Room("schemas.commands:app", "Keep the Avro contracts as files, judge migrations before they run."),
    "worker": Room("processors.engine.commands:worker", "Run a stream worker: cache, search or analytics."),
    "sla": Room("processors.propagation.commands:app", "Watch the propagation rules."),
    "verify": Room("processors.verify.commands:verify", "Compare the shop with every sink, row by row."),
    "settings": Room("downriver.commands:settings", "List every setting, its value and where it came from."),
}

HELP = """Carries committed PostgreSQL changes to Redis, Elasticsearch and ClickHouse, each within its propagation rule.

A first look: `downriver demo`. By hand: `downriver stack up`, `downriver shop migrate`, `downriver shop fill`,
`downriver connectors apply`, `downriver worker cache` (and search, analytics), `downriver workload`, `downriver sla status`.
"""


def build(wanted: str | None) -> typer.Typer:
    """Compose the command line. Only the room `wanted` is imported, so that one room's missing extra is not another's."""
    app = typer.Typer(
        name="downriver", help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    app.callback()(lambda: None)
    for name, room in ROOMS.items():
        if name == wanted:
            module, _, attribute = room.where.partition(":")
            found = getattr(importlib.import_module(module), attribute)
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=name, help=room.help, no_args_is_help=True)
            else:
                app.command(name, help=f"{room.help}\n\n{found.__doc__ or ''}")(found)
        else:
            app.command(name, help=room.help)(lambda: None)
    return app


def main() -> None:
    """Run the command line; the entry point of the script `downriver`."""
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    try:
        build(wanted)()
    except ModuleNotFoundError as error:
        say(f"[red]error:[/] `downriver {wanted}` needs {error.name}, which is not installed: `make setup`")
        sys.exit(Exit.BAD_INPUT)
    except DownriverError as error:
        from rich.markup import escape

        say(f"[red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
