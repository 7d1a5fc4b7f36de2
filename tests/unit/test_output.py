"""What every reporting command has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from connectors.commands import app as connectors
from schemas.commands import app as schemas


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command below one, with its whole name."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for each, inner in below.items():
        yield from commands(inner, f"{name} {each}")


ALL = [
    found
    for name, app in (("connectors", connectors), ("schemas", schemas))
    for found in commands(typer.main.get_command(app), name)
]


@pytest.mark.parametrize(("name", "command"), ALL, ids=[name for name, _ in ALL])
def test_every_command_speaks_json_and_teaches(name: str, command: Any) -> None:
    options = [each for each in command.params if each.param_type_name == "option"]
    assert {"--output", "-o"} <= {spelling for each in options for spelling in each.opts}, name
    assert command.help
    assert [each.name for each in options if not each.help] == []
