"""What the client sent, split into the statement, its format and the data behind it. Reads SQL only as far as that needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""(?P<skip>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_LINE_END = re.compile(rb"[ \t\f]*\r?\n?")


@dataclass(frozen=True, slots=True)
class Token:
    """One token that means something: `kind` is the group of _TOKEN, `depth` how many brackets are open around it."""

    kind: str
    text: bytes
    start: int
    end: int
    depth: int

    def is_word(self, *words: bytes) -> bool:
        """Whether it is one of these keywords (given in capitals), outside of quotes."""
        return self.kind == "word" and self.text.upper() in words


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        sql: the statement; for an insert with data, without the FORMAT clause and the data.
        verb: its first word in capitals, empty for none.
        format: what its FORMAT clause names, None if it has none.
        without_format: `sql` without its FORMAT clause, for a statement that gives output.
        data: what follows an insert's FORMAT clause; None for every other statement.
        input_call: for an `INSERT … SELECT … FROM input(…)`: where `input(` starts and its `)` ends in `sql`, and
            where its arguments do.
    """

    sql: bytes
    verb: str = ""
    format: str | None = None
    without_format: bytes = b""
    data: bytes | None = None
    input_call: tuple[int, int, int, int] | None = None

    def reading(self, path: str) -> bytes:
        """Return the SQL with `input(structure)` reading the file at `path` instead: chdb has no request body."""
        if self.input_call is None:
            raise ValueError("the statement does not read input()")
        start, end, args_start, args_end = self.input_call
        call = b"file(%s, '%s', %s)" % (quoted(path), (self.format or "").encode(), self.sql[args_start:args_end])
        return self.sql[:start] + call + self.sql[end:]


def quoted(text: str) -> bytes:
    """Return `text` as a ClickHouse string literal."""
    return b"'" + text.encode().replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'"


def split(text: bytes) -> Statement:
    """Split a request's text (its `query` parameter, a newline, its body) into statement, format and data."""
    tokens = _tokens(text)
    first = next(tokens, None)
    verb = first.text.decode().upper() if first is not None and first.kind == "word" else ""
    if verb == "INSERT":
        return _split_insert(text, tokens)
    clause = _format_clause(tokens)
    if clause is None:
        return Statement(text, verb, without_format=text.rstrip(b"; \t\r\n"))
    name, start, end = clause
    return Statement(text, verb, name, (text[:start] + text[end:]).rstrip(b"; \t\r\n"))


def _split_insert(text: bytes, tokens: Iterator[Token]) -> Statement:
    """Values that stand in the statement (`VALUES (1)`) stay in it: the engine reads those itself."""
    call: list[Token] = []
    for token in tokens:
        if token.depth == 0 and token.is_word(b"VALUES"):
            break
        if len(call) < 3:
            call = _follow_input_call(call, token)
        if token.depth == 0 and token.is_word(b"FORMAT"):
            name = next(tokens, None)
            if name is None or name.kind != "word":
                break
            line_end = _LINE_END.match(text, name.end)
            data_start = line_end.end() if line_end else name.end
            sql = text[: token.start].rstrip()
            found = (call[0].start, call[2].end, call[1].end, call[2].start) if len(call) == 3 else None
            return Statement(sql, "INSERT", name.text.decode(), data=text[data_start:], input_call=found)
    return Statement(text, "INSERT")


def _follow_input_call(call: list[Token], token: Token) -> list[Token]:
    """Follow `input`, `(` and its `)`: they are kept as three tokens."""
    if not call:
        return [token] if token.is_word(b"INPUT") else []
    if len(call) == 1:
        return [*call, token] if token.text == b"(" else []
    return [*call, token] if token.kind == "close" and token.depth == call[1].depth else call


def _format_clause(tokens: Iterator[Token]) -> tuple[str, int, int] | None:
    """Return name, start and end of the FORMAT clause that ends the statement, but for `SETTINGS …` or a semicolon."""
    before: Token | None = None
    found: tuple[str, int, int] | None = None
    for token in tokens:
        if found is not None and (token.is_word(b"SETTINGS") or token.text == b";"):
            return found
        found = None
        if before is not None and before.depth == 0 and before.is_word(b"FORMAT") and token.kind == "word":
            found = token.text.decode(), before.start, token.end
        before = token
    return found


def _tokens(text: bytes) -> Iterator[Token]:
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "skip":
            continue
        if kind == "close":
            depth = max(0, depth - 1)
        yield Token(kind, match[0], match.start(), match.end(), depth)
        if kind == "open":
            depth += 1
