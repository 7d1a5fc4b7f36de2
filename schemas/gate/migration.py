"""A migration as statements, run one by one, so that the one at fault can be named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import sqlparse
from psycopg import sql

from downriver.exits import BadInput
from schemas.gate.scratch import Connection

TRANSACTION = frozenset({"BEGIN", "START TRANSACTION", "START", "COMMIT", "END"})
"""Left out: the whole run is one transaction that is never committed."""
ELSEWHERE = {
    "ROLLBACK": "what the migration takes back itself can't be judged",
    "CREATE DATABASE": "it makes another database",
    "DROP DATABASE": "it is about another database",
    "ALTER DATABASE": "it is about the server, not about tables",
    "ALTER SYSTEM": "it is about the server, not about tables",
    "CREATE TABLESPACE": "it is about the server, not about tables",
    "DROP TABLESPACE": "it is about the server, not about tables",
    "CREATE SUBSCRIPTION": "it would connect to another server",
    "DROP SUBSCRIPTION": "it would connect to another server",
    "COPY": "it reads or writes data, of which the scratch database has none",
    "VACUUM": "it can't run inside a transaction, and changes no schema",
}
"""Statements that are refused: what a transaction can't take back, or what has no meaning without data."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, and where it begins."""

    text: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def statements(paths: Sequence[Path]) -> list[Statement]:
    """Read the files, in the order given; comments and the statements that only frame a transaction are left out.

    Raises:
        BadInput: a file can't be read, holds no statement, or one that can't be judged; the message names the line.
    """
    found: list[Statement] = []
    for path in paths:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: can't be read: {getattr(error, 'strerror', None) or error}"
            raise BadInput(msg) from None
        mine = list(_split(text, path))
        if not mine:
            msg = f"{path}: holds no SQL statement"
            raise BadInput(msg)
        found += [statement for statement in mine if _words(statement.text)[0] not in TRANSACTION]
    return found


def run(connection: Connection, listed: Sequence[Statement]) -> None:
    """Run the statements in the connection's transaction.

    Raises:
        BadInput: PostgreSQL refuses one; the message names file, line and what it said.
    """
    for statement in listed:
        try:
            connection.execute(sql.SQL(statement.text))  # the user's own SQL
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error)
            hint = ""
            if isinstance(error, psycopg.errors.UnsafeNewEnumValueUsage):
                hint = (
                    "; a new word of an enum can be used only after it is committed: put it into a migration of its own"
                )
            msg = f"{statement}: PostgreSQL refuses this statement: {said}{hint}\n  {_short(statement.text)}"
            raise BadInput(msg) from None


def _split(text: str, path: Path) -> Iterator[Statement]:
    position = 0
    for part in sqlparse.parse(text):
        whole = str(part)
        first = part.token_first(skip_ws=True, skip_cm=True)
        if first is not None and str(first) != ";":
            ahead = sum(len(str(token)) for token in part.tokens[: part.tokens.index(first)])
            line = text.count("\n", 0, position + ahead) + 1
            if str(first).startswith("\\"):
                msg = f"{path}:{line}: {_short(whole[ahead:])!r} is a command of psql, not SQL"
                raise BadInput(msg)
            statement = Statement(_in_transaction(whole[ahead:].strip()), path, line)
            _refuse(statement)
            yield statement
        position += len(whole)


def _in_transaction(text: str) -> str:
    """Return the statement as it can run within a transaction: an index is the same, made concurrently or not."""
    parsed = sqlparse.parse(text)[0]
    words = [
        token for token in parsed.flatten() if not token.is_whitespace and token.ttype not in sqlparse.tokens.Comment
    ]
    if [token.value.upper() for token in words[:1]] in (["CREATE"], ["DROP"]) and any(
        token.value.upper() == "INDEX" for token in words[1:3]
    ):
        for token in words[2:4]:
            if token.value.upper() == "CONCURRENTLY":
                token.value = ""
    return "".join(token.value for token in parsed.flatten())


def _words(text: str) -> tuple[str, str]:
    """Return the first word, and the first two."""
    tokens = [
        token.value.upper()
        for token in sqlparse.parse(text)[0].flatten()
        if not token.is_whitespace and token.ttype not in sqlparse.tokens.Comment
    ]
    return tokens[0].rstrip(";"), " ".join(tokens[:2])


def _refuse(statement: Statement) -> None:
    for words in _words(statement.text):
        if words in ELSEWHERE:
            msg = f"{statement}: {words} can't be judged here: {ELSEWHERE[words]}; run it apart from the migration"
            raise BadInput(msg)


def _short(text: str) -> str:
    first = " ".join(text.split())
    return first if len(first) <= 120 else first[:119] + "…"
