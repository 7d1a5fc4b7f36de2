"""The documents say what is there: every command, link, variable and metric that they name exists.

Commands are parsed by the command line itself, and not run.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel

import processors.sinks.cache.sink  # noqa: F401  # its metrics are those of the process
from downriver.cli import ROOMS
from downriver.exits import Exit
from downriver.settings import PREFIX, Settings
from processors.engine.metrics import Metrics
from processors.propagation.metrics import PropagationMetrics

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
every_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
OTHER_VARIABLES = {"DOWNRIVER_CONFIG", "DOWNRIVER_TEST_REUSE"}


@dataclass(frozen=True, slots=True)
class Example:
    """One `downriver …` in a document: what follows the name of the program."""

    place: str
    line: str
    named: bool = False
    """Named in a sentence, where a command may stand without its arguments."""


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines inside of fenced blocks, numbered."""
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside:
            yield number, line


def examples(path: Path) -> Iterator[Example]:
    """Yield every command of a document: lines of code blocks, and spans of code in the text."""
    text = path.read_text(encoding="utf-8")
    place = str(path.relative_to(ROOT))
    for number, line in blocks(text):
        if found := re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?downriver (.+)", line):
            yield Example(f"{place}:{number}", found[1])
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for span in re.findall(r"`downriver ([^`]+)`", prose):
        yield Example(place, span, named=True)


def messages(path: Path) -> Iterator[Example]:
    """Yield every command that a program's messages and helps name, with a word where a name is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            told |= {id(part) for part in node.values}
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "word" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            text = re.sub(r"\{\w+\}", "word", node.value)  # filled in by str.format
        else:
            continue
        for span in re.findall(r"`downriver ([^`]+)`", text):
            yield Example(f"{path.relative_to(ROOT)}:{node.lineno}", span, named=True)


def command(tokens: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the tokens name, and what is left of them: its arguments."""
    module, _, attribute = ROOMS[tokens[0]].where.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        app = typer.Typer()
        app.command()(found)
        return typer.main.get_command(app), tokens[1:]
    group: Any = typer.main.get_command(found)
    if not hasattr(group, "commands"):
        return group, tokens[1:]
    left = tokens[1:]
    while left and hasattr(group, "commands"):  # a room may have rooms of its own
        group, left = group.commands[left[0]], left[1:]
    return group, left


EXAMPLES = [example for path in DOCUMENTS for example in examples(path)]
SOURCES = sorted(
    path for room in ("connectors", "schemas", "processors", "shop") for path in (ROOT / room).rglob("*.py")
)
MESSAGES = [example for path in SOURCES for example in messages(path)]


def test_the_documents_show_commands() -> None:
    rooms = {example.line.split()[0] for example in EXAMPLES}
    assert rooms == set(ROOMS), "each room of the front door is shown somewhere, and no other"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.place} {example.line}")
def test_every_command_shown_is_understood(example: Example) -> None:
    found, arguments = command(shlex.split(example.line, comments=True))
    if hasattr(found, "commands"):
        assert arguments == [], "a room alone, named in a text"
        return
    if arguments or not example.named:
        found.make_context("downriver", arguments)


@pytest.mark.parametrize("example", MESSAGES, ids=lambda example: f"{example.place} {example.line}")
def test_every_way_out_is_a_command(example: Example) -> None:
    test_every_command_shown_is_understood(example)


@every_document
def test_every_relative_link_resolves(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in target and not (path.parent / target.partition("#")[0]).exists()
    ]
    assert broken == []


@every_document
def test_every_path_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rooms = "downriver|connectors|schemas|processors|shop|deploy|tests|docs|bench"
    named = set(re.findall(rf"`((?:{rooms})/[A-Za-z0-9_./-]*)`", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def variables() -> set[str]:
    """Return every variable that sets something."""
    found = set(OTHER_VARIABLES)

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation, f"{prefix}{name.upper()}__")
            else:
                found.add(prefix + name.upper())

    walk(Settings, PREFIX)
    return found


@every_document
def test_every_variable_named_exists(path: Path) -> None:
    named = set(re.findall(r"DOWNRIVER_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8")))
    assert named <= variables(), sorted(named - variables())


def test_every_name_of_ours_exists() -> None:
    """Topics, roles, connectors, metrics: whatever a document calls downriver_something is called so in the code."""
    code = "".join(
        path.read_text(encoding="utf-8")
        for room in ("connectors", "schemas", "processors", "shop", "deploy", "downriver")
        for path in (ROOT / room).rglob("*")
        if path.suffix in {".py", ".json", ".sql", ".yaml"}
    )
    named = {
        name for path in DOCUMENTS for name in re.findall(r"downriver_[a-z_]*[a-z]", path.read_text(encoding="utf-8"))
    }
    # prometheus_client adds _total to the name of a counter
    assert sorted(name for name in named if name.removesuffix("_total") not in code) == []


def served_metrics() -> set[str]:
    """Return the names that a worker serves, as Prometheus shows them."""
    registry = CollectorRegistry()
    Metrics(registry, "cache")
    propagation = PropagationMetrics("cache", {})
    of_sinks = [family for family in REGISTRY.collect() if family.name.startswith("downriver_")]
    families: list[Metric] = [*registry.collect(), *propagation.collect(), *of_sinks]
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_operations_lists_the_metrics_of_a_worker() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(downriver_\w+)` \|", text, flags=re.MULTILINE)) == served_metrics()


def test_the_readme_lists_the_exit_codes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)} == {int(code) for code in Exit}


def test_decisions_are_numbered_and_short() -> None:
    names = sorted(os.listdir(ROOT / "docs" / "decisions"))
    assert [name[:4] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]
    for name in names:
        text = (ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8")
        assert re.findall(r"^## (.+)", text, flags=re.MULTILINE) == ["Context", "Decision", "Evidence", "Consequence"]
        assert len(text.splitlines()) < 40, f"{name} is too long to be read"


@pytest.mark.parametrize("name", ["add-a-table.md", "add-a-sink.md"])
def test_a_recipe_fits_one_screen(name: str) -> None:
    assert len((ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()) <= 60


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {line.split()[1] for _, line in blocks(text) if line.startswith("make ")}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert shown == {"demo", "test"}
    assert shown <= targets
