"""The captured tables. Adding one is one file here and one line below."""

from __future__ import annotations

from processors.tables.base import Table

TABLES: tuple[Table, ...] = ()
