"""What every reporting command prints: a table for people, JSON for programs. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

stdout = Console()
stderr = Console(stderr=True, highlight=False)


class Format(StrEnum):
    """The value of ``-o``."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs.")]


def print_json(value: Any) -> None:
    """Print `value` as one indented JSON document on stdout; what JSON lacks (dates, decimals, paths) becomes a string."""
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def print_json_line(value: Any) -> None:
    """Print `value` as one line of JSON on stdout, at once: for commands that stay and tell one thing after the other."""
    sys.stdout.buffer.write(orjson.dumps(value, default=str, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """Build a rich table; `rows` hold one cell for each of `columns`."""
    built = Table(*columns, title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in built.columns:
        column.overflow = "fold"  # never half a name
    for row in rows:
        built.add_row(*(cell if isinstance(cell, str) else "-" if cell is None else str(cell) for cell in row))
    return built


def report(output: Format, records: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """Print `records` as a table of `columns` (default: the keys of the first), or whole as a JSON array."""
    if output is Format.JSON:
        print_json(list(records))
        return
    names = list(columns or (records[0] if records else ()))
    stdout.print(table([name.upper() for name in names], [[record.get(name) for name in names] for record in records]))


def say(message: str) -> None:
    """Tell the person something on stderr."""
    stderr.print(message, soft_wrap=True)
