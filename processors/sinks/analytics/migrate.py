"""Versioned migrations of the analytics store: migrations/NNNN_name.sql, each applied once, in order.

Every statement can be repeated (IF NOT EXISTS, OR REPLACE), because ClickHouse has no transaction around them and several
workers may open at once: the same statement twice is the same as once. Knows no table.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from downriver.exits import BadInput

FOLDER = Path(__file__).parent / "migrations"
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     UInt32,
    name       String,
    checksum   FixedString(64),
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at)
ORDER BY number
"""


class Client(Protocol):
    """What is needed of clickhouse-connect's client."""

    def command(self, cmd: str) -> Any: ...
    def query(self, query: str) -> Any: ...
    def insert(self, table: str, data: Sequence[Sequence[Any]], column_names: Sequence[str]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, and its statements in order."""

    number: int
    name: str
    checksum: str
    statements: tuple[str, ...]


def read(folder: Path = FOLDER) -> list[Migration]:
    """Read all migrations, ordered by number.

    Raises:
        BadInput: a file is misnamed, or two have one number.
    """
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        number = int(match[1]) if match else -1
        if match is None or number in found:
            msg = f"{path}: a migration is named NNNN_name.sql, with a number that no other has"
            raise BadInput(msg)
        text = path.read_text()
        found[number] = Migration(number, path.stem, hashlib.sha256(text.encode()).hexdigest(), statements(text))
    return list(found.values())


def statements(text: str) -> tuple[str, ...]:
    """Split a file at the semicolons that end a line; comment lines are left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    parts = re.split(r";[ \t]*(?:\n|$)", "\n".join(lines))
    return tuple(part.strip() for part in parts if part.strip())


def migrate(client: Client, migrations: Sequence[Migration]) -> list[Migration]:
    """Apply, in the client's database, what is not applied yet; return what was.

    Raises:
        BadInput: a migration that is applied was changed since: its tables are not what the file says.
    """
    client.command(_LEDGER)
    rows = client.query("SELECT number, checksum FROM schema_migrations FINAL").result_rows
    applied: Mapping[int, str] = {number: _text(checksum) for number, checksum in rows}
    due: list[Migration] = []
    for migration in migrations:
        if migration.number not in applied:
            due.append(migration)
        elif applied[migration.number] != migration.checksum:
            msg = (
                f"migration {migration.name} was changed after it was applied: put it back as it was, "
                "and write the change as a migration with a new number"
            )
            raise BadInput(msg)
    for migration in due:
        for statement in migration.statements:
            client.command(statement)
        row = [migration.number, migration.name, migration.checksum]
        client.insert("schema_migrations", [row], column_names=["number", "name", "checksum"])
    return due


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
