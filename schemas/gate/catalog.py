"""Tables as PostgreSQL's catalogs describe them: what Debezium reads to make a schema. Reads, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

COLUMNS = """
WITH RECURSIVE base AS (
    SELECT a.attrelid, a.attnum, a.atttypid AS type, a.atttypmod AS modifier, false AS of_domain
    FROM pg_attribute a WHERE a.attrelid = %(table)s::oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attrelid, b.attnum, t.typbasetype,
           CASE WHEN b.modifier = -1 THEN t.typtypmod ELSE b.modifier END, true
    FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT a.attnum AS number, a.attname::text AS name, a.attnotnull AS required, a.attgenerated = 's' AS generated,
       t.typname::text AS type, t.typtype = 'e' AS enum, b.modifier, b.of_domain,
       e.typname::text AS element, coalesce(e.typtype = 'e', false) AS element_enum,
       format_type(a.atttypid, a.atttypmod) AS shown,
       CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default_value,
       ARRAY(SELECT l.enumlabel::text FROM pg_enum l
             WHERE l.enumtypid = CASE WHEN e.typtype = 'e' THEN e.oid ELSE t.oid END ORDER BY l.enumsortorder) AS labels
FROM base b
JOIN pg_type t ON t.oid = b.type AND t.typtype <> 'd'
JOIN pg_attribute a ON a.attrelid = b.attrelid AND a.attnum = b.attnum
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
ORDER BY a.attnum
"""

TABLE = """
SELECT c.oid, c.oid::bigint AS id, c.relreplident::text AS identity,
       ARRAY(SELECT a.attname::text FROM pg_index i
             CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(number, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.place) AS key,
       ARRAY(SELECT p.pubname::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
             WHERE r.prrelid = c.oid ORDER BY 1) AS publications
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname || '.' || c.relname = %s AND c.relkind IN ('r', 'p')
"""

ALL = """
SELECT n.nspname || '.' || c.relname AS name, c.oid::bigint AS id
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
"""

ROWS = """
SELECT greatest(c.reltuples, s.n_live_tup, 0)::bigint FROM pg_class c
LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.oid = to_regclass(%s)
"""


@dataclass(frozen=True, slots=True)
class PgColumn:
    """One column.

    Attributes:
        number: stays the same when the column is renamed.
        type: the name of its type, of a domain's base.
        modifier: what format_type makes of length, precision and scale; -1 for none.
        element: of an array, the name of its elements' type.
        labels: of an enum, or of an array of one.
        default: the expression, None for none.
        shown: the type as SQL has it.
    """

    number: int
    name: str
    type: str
    modifier: int = -1
    required: bool = False
    generated: bool = False
    enum: bool = False
    of_domain: bool = False
    element: str | None = None
    element_enum: bool = False
    labels: Sequence[str] = ()
    default: str | None = None
    shown: str = ""


@dataclass(frozen=True, slots=True)
class PgTable:
    """One table: `id` stays the same when it is renamed; `identity` f stands for REPLICA IDENTITY FULL."""

    id: int
    name: str
    key: Sequence[str]
    identity: str
    publications: Sequence[str]
    columns: Sequence[PgColumn] = field(default_factory=tuple)


def table(connection: psycopg.Connection[Any], name: str) -> PgTable | None:
    """Return the table `schema.table`, None if there is none."""
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(TABLE, [name]).fetchone()
        if found is None:
            return None
        rows = cursor.execute(COLUMNS, {"table": found["id"]}).fetchall()
    listed = tuple(_column(row) for row in rows)
    return PgTable(found["id"], name, tuple(found["key"]), found["identity"], tuple(found["publications"]), listed)


def tables(connection: psycopg.Connection[Any]) -> dict[int, str]:
    """Return every table of the database: id → `schema.table`."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return {row["id"]: row["name"] for row in cursor.execute(ALL).fetchall()}


def rows(connection: psycopg.Connection[Any], name: str) -> int:
    """Return about how many rows the table has, by the server's statistics."""
    found = connection.execute(ROWS, [name]).fetchone()
    return int(str(found[0])) if found and found[0] is not None else 0


def _column(row: Mapping[str, Any]) -> PgColumn:
    return PgColumn(
        number=row["number"],
        name=row["name"],
        type=row["type"],
        modifier=row["modifier"],
        required=row["required"],
        generated=row["generated"],
        enum=row["enum"],
        of_domain=row["of_domain"],
        element=row["element"],
        element_enum=row["element_enum"],
        labels=tuple(row["labels"]),
        default=row["default_value"],
        shown=row["shown"],
    )
