"""Migrations: read, split, applied once, repeatable."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from downriver.exits import BadInput
from processors.sinks.analytics.migrate import migrate, read, statements
from processors.sinks.analytics.route import DecodedAnalytics
from processors.tables import TABLES
from processors.tables.base import Class


class Server:
    """Remembers what it was told."""

    def __init__(self, fail_at: str = "") -> None:
        self.said: list[str] = []
        self.ledger: dict[int, str] = {}
        self.fail_at = fail_at

    def command(self, cmd: str) -> None:
        if self.fail_at and self.fail_at in cmd:
            raise ConnectionError(cmd)
        self.said.append(cmd)

    def query(self, query: str) -> Any:
        return SimpleNamespace(result_rows=[(number, checksum.encode()) for number, checksum in self.ledger.items()])

    def insert(self, table: str, data: Sequence[Sequence[Any]], column_names: Sequence[str]) -> None:
        self.ledger |= {number: checksum for number, _, checksum in data}


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / f"{name}.sql").write_text(text)
    return path


def test_statements_end_with_a_semicolon_at_the_end_of_a_line() -> None:
    assert statements("-- a; comment\nCREATE x (\n  a String DEFAULT ';a'\n);\n\nCREATE y;  \n") == (
        "CREATE x (\n  a String DEFAULT ';a'\n)",
        "CREATE y",
    )


def test_each_migration_is_applied_once_in_order(tmp_path: Path) -> None:
    migrations = read(folder(tmp_path, **{"0002_b": "B;", "0001_a": "A1;\nA2;"}))
    server = Server()
    assert [migration.number for migration in migrate(server, migrations)] == [1, 2]
    assert server.said[1:] == ["A1", "A2", "B"]
    server.said.clear()
    assert migrate(server, migrations) == []
    assert len(server.said) == 1


def test_a_migration_that_broke_halfway_is_applied_again(tmp_path: Path) -> None:
    migrations = read(folder(tmp_path, **{"0001_a": "A1;\nA2;"}))
    server = Server(fail_at="A2")
    with pytest.raises(ConnectionError):
        migrate(server, migrations)
    server.fail_at = ""
    migrate(server, migrations)
    assert server.said[-2:] == ["A1", "A2"]
    assert list(server.ledger) == [1]


def test_a_changed_migration_is_refused_by_name(tmp_path: Path) -> None:
    server = Server()
    migrate(server, read(folder(tmp_path, **{"0001_a": "A;"})))
    with pytest.raises(BadInput, match="0001_a was changed after it was applied"):
        migrate(server, read(folder(tmp_path, **{"0001_a": "B;"})))


@pytest.mark.parametrize("files", [{"1_a": "A;"}, {"0001_a": "A;", "0001_b": "B;"}])
def test_a_misnamed_file_or_a_number_used_twice_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(BadInput, match=r"NNNN_name\.sql"):
        read(folder(tmp_path, **files))


def test_every_statement_of_ours_can_be_repeated() -> None:
    for migration in read():
        for statement in migration.statements:
            assert re.search(r"\bIF (NOT )?EXISTS\b|\bOR REPLACE\b", statement), (migration.name, statement)


def test_every_captured_table_has_its_columns_and_no_restricted_one() -> None:
    created = {
        match[1]: set(re.findall(r"^    ([a-z]\w*) ", match[2], re.MULTILINE))
        for migration in read()
        for statement in migration.statements
        if (match := re.match(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*)\) ENGINE", statement, re.DOTALL))
    }
    for table in TABLES:
        allowed = {name for name, class_ in table.columns.items() if class_ is not Class.RESTRICTED}
        route = table.route("analytics")
        if isinstance(route, DecodedAnalytics):
            assert set(route.columns) == allowed
        assert created[f"{table.id.name}_history"] == allowed
        assert created[f"{table.id.name}_current"] == allowed
