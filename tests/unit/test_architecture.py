"""What docs/architecture.md promises of the files: one place for each thing, small files, no machine's own names.

The arrows between the rooms are in .importlinter, which `make lint` checks.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from processors import sinks, tables
from processors.sinks import SINKS
from processors.tables import TABLES

ROOT = Path(__file__).parents[2]
ROOMS = ("downriver", "connectors", "schemas", "processors", "shop", "deploy")
LONGEST = 500
MADE_BY_TOOLS = {".git", ".venv", "__pycache__", "downriver.egg-info"}


def files() -> Iterator[Path]:
    """Yield the files that are kept: nothing that a tool, the stack or a test run made."""
    for folder, names, found in os.walk(ROOT):
        names[:] = [
            name
            for name in names
            if name not in MADE_BY_TOOLS and not name.endswith("_cache") and not name.startswith((".downriver", ".hyp"))
        ]
        yield from (Path(folder) / name for name in found if not name.endswith((".pyc", ".png", ".so")))


def modules(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_every_sink_is_in_sinks_and_the_reverse() -> None:
    folder = Path(sinks.__file__).parent
    there = {path.stem for path in folder.iterdir() if not path.name.startswith("__")} - {"base"}
    assert {
        where.removeprefix("processors.sinks.").partition(".")[0].partition(":")[0] for where in SINKS.values()
    } == (there)
    assert all(where.startswith("processors.sinks.") for where in SINKS.values())


def test_a_new_table_is_one_file_and_its_lines_in_one_other() -> None:
    names = {f"processors.tables.{table.id.name}" for table in TABLES}
    naming = {path for path in modules(*ROOMS) if imports(path) & names}
    assert naming == {Path(tables.__file__)}


def test_the_front_door_imports_its_rooms_only_when_used() -> None:
    for name in ("cli", "commands", "settings", "output", "exits", "kafka"):
        found = imports(ROOT / "downriver" / f"{name}.py")
        rooms = {module for module in found if module.partition(".")[0] in ROOMS}
        assert {module.partition(".")[0] for module in rooms} <= {"downriver"}, f"downriver/{name}.py"


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_every_module_says_what_it_is(room: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules(room)
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): length
        for path in files()
        if path.suffix in {".py", ".md", ".sql", ".toml", ".yaml", ".json"}
        if (length := path.read_text(encoding="utf-8").count("\n")) > LONGEST
    }
    assert long == {}


# spelled in halves, so that this file is none of them
REGISTRIES = re.compile(
    "|".join(
        re.escape(first + second)
        for first, second in (
            ("pypi.", "org"),
            ("python", "hosted.org"),
            ("repo1.", "maven.org"),
            ("maven.", "apache.org"),
            ("packages.", "confluent.io"),
            ("artifacts.", "elastic.co"),
            ("npm", "js.org"),
            ("docker.", "io"),
            ("ghcr.", "io"),
            ("quay.", "io"),
        )
    ),
    re.IGNORECASE,
)
MACHINES = re.compile(
    "(?<![A-Za-z0-9_.])/(?:" + "|".join(("ro" + "ot", "wo" + "rk", "ho" + "me/[a-z]+")) + ")(?:/|\\b)"
)


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINES], ids=["package registries", "paths of one machine"])
def test_no_file_names(pattern: re.Pattern[str]) -> None:
    named = []
    for path in files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if pattern.search(line):
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert named == []
