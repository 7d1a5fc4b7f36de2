"""Which settings exist: a mistyped one is kept by Connect without a word, and does nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FAMILIES = re.compile(
    r"(key|value|header)\.converter\..+"
    r"|transforms\..+|predicates\..+"
    r"|topic\.creation\.[^.]+\..+"
    r"|producer\.override\..+|admin\.override\..+"
    r"|column\.(truncate\.to|mask\.with)\.\d+\.chars|column\.mask\.hash(\.v2)?\..+"
    r"|snapshot\.select\.statement\.overrides\..+"
    r"|signal\.(consumer|producer)\..+|driver\..+|database\..+|internal\..+"
)
"""Settings whose names somebody else chooses. `database.*` is handed to the JDBC driver."""


@cache
def settings() -> frozenset[str]:
    """Return every setting of the connector that has a name of its own."""
    lines = (Path(__file__).parent / "known_settings.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def unknown(config: Mapping[str, str]) -> dict[str, str]:
    """Return each setting that nobody reads → the name that was probably meant, or an empty text."""
    named = [name for key in ("converters", "post.processors") for name in config.get(key, "").split(",")]
    own = tuple(f"{name.strip()}." for name in named if name.strip())
    found: dict[str, str] = {}
    for key in config:
        if key in settings() or key == "name":
            continue
        if (own and key.startswith(own)) or (FAMILIES.fullmatch(key) and not _near_family(key)):
            continue
        found[key] = next(iter(difflib.get_close_matches(key, sorted(settings()), 1, 0.8)), "")
    return found


def _near_family(key: str) -> bool:
    """`database.hostnam` would pass as a driver's setting: one letter away from a setting of ours it is a mistake."""
    return key.startswith("database.") and bool(difflib.get_close_matches(key, sorted(settings()), 1, 0.93))
