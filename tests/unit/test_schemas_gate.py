"""The gate without servers: how a file becomes statements, a column an Avro field, and a step what is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from downriver.exits import BadInput
from processors.tables import TABLES
from processors.tables.base import Table
from schemas.gate.catalog import PgColumn
from schemas.gate.derive import Underivable, default, field, fields
from schemas.gate.effects import Context, Effect, Verdict, of_steps, worst
from schemas.gate.migration import statements
from schemas.rows import Kind, Step


def written(folder: Path, text: str) -> Path:
    path = folder / "m.sql"
    path.write_text(text)
    return path


def test_a_file_becomes_statements_with_their_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """-- first; not a statement
BEGIN;
ALTER TABLE a ADD COLUMN x text DEFAULT ';'; /* ; */

DO $do$ BEGIN PERFORM 1; END $do$;
CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.x := 1; RETURN NEW; END $$;
COMMIT;
""",
    )
    found = statements([path])
    assert [(each.line, each.text.split("(")[0][:20].strip()) for each in found] == [
        (3, "ALTER TABLE a ADD CO"),
        (5, "DO $do$ BEGIN PERFOR"),
        (6, "CREATE FUNCTION f"),
        (7, "CREATE FUNCTION g"),
    ]
    assert found[0].text == "ALTER TABLE a ADD COLUMN x text DEFAULT ';';"


def test_files_run_in_the_order_given(tmp_path: Path) -> None:
    paths = []
    for name in ("b.sql", "a.sql"):
        (tmp_path / name).write_text(f"SELECT '{name}'")
        paths.append(tmp_path / name)
    assert [each.text for each in statements(paths)] == ["SELECT 'b.sql'", "SELECT 'a.sql'"]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("CREATE INDEX CONCURRENTLY i ON a (x);", "CREATE INDEX  i ON a (x);"),
        ("create unique index concurrently i on a (x)", "create unique index  i on a (x)"),
        ("DROP INDEX CONCURRENTLY i", "DROP INDEX  i"),
        ("CREATE TABLE concurrently (x int)", "CREATE TABLE concurrently (x int)"),
    ],
)
def test_an_index_is_made_within_the_transaction(tmp_path: Path, text: str, runs: str) -> None:
    assert [each.text for each in statements([written(tmp_path, text)])] == [runs]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no SQL statement"),
        ("-- nothing\n;\n", "holds no SQL statement"),
        ("SELECT 1;\n\n\\connect shop\nSELECT 2;", r"m.sql:3: .* is a command of psql, not SQL"),
        ("SELECT 1;\nALTER SYSTEM SET x = 1;", "m.sql:2: ALTER SYSTEM can't be judged here: it is about the server"),
        ("ROLLBACK;", "m.sql:1: ROLLBACK can't be judged here"),
        ("COPY a FROM PROGRAM 'x'", "m.sql:1: COPY can't be judged here"),
        ("VACUUM a", "m.sql:1: VACUUM can't be judged here"),
        ("drop database shop", "m.sql:1: DROP DATABASE can't be judged here"),
    ],
)
def test_what_can_not_be_judged_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        statements([written(tmp_path, text)])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.sql: can't be read"):
        statements([tmp_path / "gone.sql"])


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (PgColumn(1, "x", "text"), {"name": "x", "type": ["null", "string"], "default": None}),
        (PgColumn(1, "x", "int4", required=True), {"name": "x", "type": "int"}),
        (
            PgColumn(1, "x", "int2", required=True, default="5"),
            {"name": "x", "type": {"type": "int", "connect.default": 5, "connect.type": "int16"}, "default": 5},
        ),
        (
            PgColumn(1, "x", "text", default="'it''s'::text"),
            {"name": "x", "type": [{"type": "string", "connect.default": "it's"}, "null"], "default": "it's"},
        ),
    ],
)
def test_a_column_becomes_a_field(column: PgColumn, wanted: dict[str, Any]) -> None:
    """Every type and default, byte by byte: tests/integration/test_schemas_gate.py."""
    assert field(column) == wanted


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("int4", "(2 + 3)", None),
        ("int4", "nextval('s'::regclass)", 0),
        ("int4", "'-5'::integer", -5),
        ("text", "lower('A'::text)", ""),
        ("text", "CURRENT_USER", "CURRENT_USER"),
        ("bool", "true", True),
        ("bool", "(1 = 1)", False),
        ("timestamptz", "now()", "1970-01-01T00:00:00.000000Z"),
        ("timestamptz", "'2020-01-01 01:00:00+01'::timestamp with time zone", "2020-01-01T00:00:00.000000Z"),
        ("timestamptz", "'infinity'::timestamp with time zone", None),
        ("date", "'2020-01-01'::date", 18262),
        ("bytea", "'\\x01'::bytea", None),
    ],
)
def test_defaults(type_: str, text: str, value: Any) -> None:
    assert default(PgColumn(1, "x", type_, default=text)) == value


def test_what_is_never_sent_is_left_out_and_what_is_unknown_is_told() -> None:
    columns = [PgColumn(1, "id", "int4"), PgColumn(2, "secret", "text"), PgColumn(3, "made", "int4", generated=True)]
    assert [each["name"] for each in fields(columns, frozenset({"secret"}))] == ["id"]
    with pytest.raises(Underivable, match="x: the type geometry is not known here"):
        fields([PgColumn(1, "x", "geometry")])


def table(name: str) -> Table:
    return next(table for table in TABLES if table.id.name == name)


def judged(name: str, *steps: Step, **context: Any) -> Effect:
    given: dict[str, Any] = {"excluded": frozenset(), "rows": 10, "connector": "connectors/x.json"} | context
    return of_steps(steps, Context(table(name), f"shop_x.public.{name}-value", **given))


ADDED = Step("brand", Kind.ADDED, "", "string null")
DROPPED = Step("description", Kind.DROPPED, "string null", "")


def test_an_addition_to_a_classified_table_is_followed() -> None:
    effect = judged("products", ADDED)
    assert effect.verdict is Verdict.FOLLOWED
    assert effect.before == []
    assert effect.sinks == {
        "cache": ["nothing"],
        "search": ["brand is a new field with a mapping of its own"],
        "analytics": ["brand is a new column"],
    }
    assert effect.after == ["pin what the table now sends: downriver schemas pull shop_x.public.products-value"]


def test_rows_that_get_a_default_are_to_be_read_again() -> None:
    effect = judged("products", ADDED, rows=1234567, defaults={"brand": "'x'"})
    assert "about 1,234,567 row(s) that are there already" in effect.after[0]
    assert "connectors reread public.products" in effect.after[0]
    assert judged("products", ADDED, rows=0, defaults={"brand": "'x'"}).after == judged("products", ADDED).after


def test_an_unclassified_column_is_classified_first() -> None:
    effect = judged("users", Step("ssn", Kind.ADDED, "", "string null"))
    assert effect.verdict is Verdict.FIRST
    assert "say what public.users.ssn is in processors/tables/users.py" in effect.before[0]
    assert effect.sinks["analytics"] == ["ssn is not stored: DecodedAnalytics does not list it"]


def test_a_drop_stops_those_who_read_the_column_and_nobody_else() -> None:
    effect = judged("products", DROPPED)
    assert effect.verdict is Verdict.STOPS
    assert effect.sinks["cache"] == ["nothing"]
    assert effect.sinks["search"] == effect.sinks["analytics"] == ["stops at the first row without description"]
    assert effect.before[1] == (
        "to let workers go on by themselves, accept it beforehand: "
        "downriver schemas accept shop_x.public.products-value --column description"
    )
    unread = judged("products", DROPPED, excluded=frozenset({"description"}))
    assert (unread.verdict, unread.before) == (Verdict.FOLLOWED, [])
    assert "not captured" in unread.why[0]


def test_the_cache_stops_where_a_key_is_made_of_the_column() -> None:
    assert judged("users", Step("email", Kind.DROPPED, "string", "")).sinks["cache"] == [
        "stops at the first row without email"
    ]
    assert judged("products", Step("category", Kind.RETYPED, "string", "int")).sinks["cache"] == [
        "stops at the first row with the new type of category"
    ]


def test_a_rename_says_how_to_do_it_without_a_stop() -> None:
    effect = judged("products", Step("name", Kind.RENAMED, "text", "", "title"))
    assert effect.verdict is Verdict.STOPS
    assert "better: add title, fill it, switch readers over, and drop name last" in effect.before[0]


def test_stock_that_search_does_not_read_is_nothing_to_search() -> None:
    effect = judged("inventory", Step("shelf", Kind.ADDED, "", "string null"))
    assert effect.sinks["search"] == ["nothing"]
    assert effect.sinks["analytics"] == ["shelf is a new column"]


@pytest.mark.parametrize(
    ("step", "verdict"),
    [
        (Step("quantity", Kind.WIDENED, "int", "long"), Verdict.FOLLOWED),
        (Step("warehouse_id", Kind.WIDENED, "int", "long"), Verdict.STOPS),
        (Step("quantity", Kind.NARROWED, "int", "int16"), Verdict.FOLLOWED),
        (Step("quantity", Kind.REQUIRED, "int null", "int"), Verdict.FOLLOWED),
        (Step("quantity", Kind.NULLABLE, "int", "int null"), Verdict.FOLLOWED),
        (Step("quantity", Kind.RETYPED, "int", "string"), Verdict.STOPS),
    ],
)
def test_types_and_nulls(step: Step, verdict: Verdict) -> None:
    assert judged("inventory", step).verdict is verdict


def test_a_numeric_without_precision_has_no_column() -> None:
    step = Step("margin", Kind.ADDED, "", "io.debezium.data.VariableScaleDecimal null")
    assert "margin is not stored" in judged("products", step).sinks["analytics"][0]


def test_the_worst_verdict_counts() -> None:
    effects = [judged("products", ADDED), judged("products", DROPPED)]
    assert worst(effects) is Verdict.STOPS
    assert worst([replace(effects[0], verdict=Verdict.BREAKS), effects[1]]) is Verdict.BREAKS
    assert worst([]) is Verdict.SAME
