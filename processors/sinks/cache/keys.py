"""Names in Redis, built alike by the worker that deletes and by the readers that fill. Pure; needs no client library.

A template such as `user:email:{email}` is filled from columns. Values are percent-encoded where they could break a
name: a brace would move the key to another hash slot than its lease, a colon would make two keys collide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

LEASE_PREFIX = "lease:"
TAG_PREFIX = "tag:"
FRAME_MAGIC = b"\xdc\x01"
"""The first bytes of every value the reader half stores. No UTF-8 text starts so (0xDC announces a continuation byte)."""

_KEPT = "!#$&'()+,/;=@"
"""What a value keeps besides letters, digits and `_.-~`. Glob characters are not among them: SCAN patterns stay literal."""
_UNSAFE = re.compile(rf"[^A-Za-z0-9_.~{re.escape(_KEPT)}-]")
_COLUMN = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


def encode(value: str | int | UUID) -> str:
    """Return `value` as a part of a key: no colon, brace, percent but our own, glob, space, control or non-ASCII character.

    Raises:
        TypeError: any other type has more than one spelling (1.0 and 1.00), and a key must have one.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        msg = f"a cache key can't hold {value!r} of type {type(value).__name__}: only text, integers and UUIDs"
        raise TypeError(msg)
    text = str(value)
    return quote(text, safe=_KEPT, errors="surrogatepass") if _UNSAFE.search(text) else text


def lease_key(key: str) -> str:
    """Return the name of the lease of `key`, in the hash slot of `key` (which holds no brace once it is encoded)."""
    return f"{LEASE_PREFIX}{{{key}}}"


def tag_key(tag: str) -> str:
    """Return the name under which the generation of `tag` is held: a random token that pages carry."""
    return f"{TAG_PREFIX}{{{tag}}}"


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template. Build it with `template()`, which checks and caches.

    Attributes:
        literals: the text before, between and after the columns: one more than `columns`.
        columns: the names in braces, in order.
    """

    text: str
    literals: tuple[str, ...]
    columns: tuple[str, ...]

    def values(self, row: Mapping[str, Any]) -> list[Any] | None:
        """Return the columns' values; None if one is absent (not sent) or NULL: such a row has no such key."""
        if len(self.columns) == 1:  # nearly all templates, and this is asked for every row of a replay
            value = row.get(self.columns[0])
            return None if value is None else [value]
        values = [row.get(column) for column in self.columns]
        return None if None in values else values

    def join(self, values: Sequence[str | int | UUID]) -> str:
        """Return the key that holds `values`, one for each column."""
        if len(values) == len(self.columns) == 1:
            return f"{self.literals[0]}{encode(values[0])}{self.literals[1]}"
        parts = [self.literals[0]]
        for value, literal in zip(values, self.literals[1:], strict=True):
            parts.append(encode(value))
            parts.append(literal)
        return "".join(parts)

    def fill(self, row: Mapping[str, Any]) -> str | None:
        """Return the key for `row`; None if a column is absent or NULL."""
        values = self.values(row)
        return None if values is None else self.join(values)

    def match(self, key: str) -> dict[str, str] | None:
        """Return the columns' values as text, if `key` was filled from this template, else None."""
        pattern = "([^:]*)".join(re.escape(literal) for literal in self.literals)
        found = re.fullmatch(pattern, key)
        if found is None:
            return None
        values = (unquote(part, errors="surrogatepass") for part in found.groups())
        return dict(zip(self.columns, values, strict=True))

    @property
    def scan_pattern(self) -> str:
        """A glob for SCAN that finds every key of this template; it may find others too: check with `match`."""
        return "*".join(self.literals)


@cache
def template(text: str) -> Template:
    """Parse a template such as `products:category:{category}:page:{n}`.

    Raises:
        ValueError: a prefix that is ours, a character that `encode` would change, or a column that is not set off by colons.
    """
    pieces = _COLUMN.split(text)
    literals, columns = tuple(pieces[::2]), tuple(pieces[1::2])
    if not literals[0] or text.startswith((LEASE_PREFIX, TAG_PREFIX)):
        msg = f"cache key {text!r} must start with a word of its own, and not with {LEASE_PREFIX!r} or {TAG_PREFIX!r}"
        raise ValueError(msg)
    if any(_UNSAFE.search(literal.replace(":", "")) for literal in literals):
        msg = f"cache key {text!r} holds a character outside of letters, digits, ':' and {_KEPT}_.-~, or a stray brace"
        raise ValueError(msg)
    if not all(_COLUMN.fullmatch(part) for part in text.split(":") if "{" in part):
        msg = f"cache key {text!r} must set each column off by ':', or different values could make the same key"
        raise ValueError(msg)
    return Template(text, literals, columns)


def fill(text: str, **values: str | int | UUID) -> str:
    """Return the key that readers use: `fill("user:email:{email}", email=address)`.

    The worker fills it from the row, so values must be spelled as the database spells them. Give a UUID as UUID and a
    number as int: an upper-case UUID that somebody typed would find the row, but make a key that nothing invalidates.

    Raises:
        ValueError: the template is wrong, or `values` lacks one of its columns.
    """
    parsed = template(text)
    key = parsed.fill(values)
    if key is None:
        msg = f"cache key {text!r} needs {', '.join(parsed.columns)}; given: {', '.join(values) or 'nothing'}"
        raise ValueError(msg)
    return key
