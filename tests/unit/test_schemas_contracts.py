"""The contracts in the folder: whole, named right, and as wide as the stores that hold their columns."""

from __future__ import annotations

import subprocess
from pathlib import Path

import orjson
import pytest

from connectors.files import load as connector_files
from downriver.exits import BadInput
from processors.tables import TABLES
from schemas.compatibility import Level
from schemas.contracts import load, retopic
from schemas.revision import at
from schemas.rows import columns

PINNED = load()


def write(folder: Path, text: str, **schemas: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "subjects.yaml").write_text(text)
    for name, schema in schemas.items():
        (folder / f"{name}.avsc").write_bytes(schema if isinstance(schema, bytes) else orjson.dumps(schema))
    return folder


POINT = {"type": "record", "name": "Point", "fields": [{"name": "x", "type": "int"}]}


def test_every_captured_table_is_pinned_key_and_value() -> None:
    wanted = {f"{table.topic('shop')}-{half}" for table in TABLES for half in ("key", "value")}
    captured = {contract.subject for contract in PINNED.all if contract.captured}
    assert captured == wanted
    assert all(contract.schema for contract in PINNED.all)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.id.name)
def test_a_pinned_row_has_the_columns_of_its_table_file(table: object) -> None:
    assert isinstance(table, type(TABLES[0]))
    (value,) = PINNED.of([f"{table.topic('shop')}-value"])
    (key,) = PINNED.of([f"{table.topic('shop')}-key"])
    excluded = {name for each in connector_files() for name in each.excluded}
    captured = [name for name in table.columns if f"{table.id}.{name}" not in excluded]
    assert value.schema is not None
    assert key.schema is not None
    assert list(columns(value.schema)) == captured
    assert set(columns(key.schema)) == set(table.key)


def test_captured_subjects_are_never_refused_by_the_registry() -> None:
    """A refusal fails the task, and with it every table of the lane: tests/integration/test_schemas_evolution.py."""
    assert PINNED.default is None
    assert {contract.level for contract in PINNED.all if contract.captured} == {Level.NONE}


def test_another_source_has_the_same_contracts_under_its_name() -> None:
    mine = load(source="other")
    (contract,) = mine.of(["other_catalog.public.products-value"])
    assert contract.schema is not None
    assert contract.schema["namespace"] == "other_catalog.public.products"
    assert "shop_catalog" not in orjson.dumps(contract.schema).decode()
    back = retopic(contract.schema, "other_catalog.public.products", "shop_catalog.public.products")
    assert back == PINNED.of(["shop_catalog.public.products-value"])[0].schema


@pytest.mark.parametrize(
    ("text", "schemas", "told"),
    [
        ("- a", {}, 'must be an object with a list "subjects"'),
        ("subjects: [{name: a}]\ncompat: FULL", {}, "compat: is not known"),
        ("subjects: [{name: a, compatibility: SOME}]", {}, "a.compatibility = 'SOME': must be one of NONE, BACKWARD"),
        ("subjects: [{file: a.avsc}]", {}, "must be an object with a name"),
        ("subjects: [{name: a, type: JSON}]", {}, "only self-contained Avro"),
        ("subjects: [{name: a}, {name: a}]", {"a": POINT}, "a: is named twice"),
        ("subjects: [{name: a}]", {"a": b"{"}, "is not JSON"),
        ("subjects: [{name: a}]", {"a": ["null"]}, "must be an Avro record"),
        ("subjects: [{name: a}]", {"a": POINT | {"fields": [{"name": "x", "type": "no"}]}}, "is not an Avro schema"),
        ("subjects: [{name: a}]", {"a": POINT, "b": POINT}, "b.avsc: no subject of subjects.yaml names this file"),
        (
            "subjects: [{name: shop_x.public.t-value, file: a.avsc}]",
            {"a": POINT},
            "holds .Point; the subject shop_x.public.t-value holds shop_x.public.t.Envelope",
        ),
        ("subjects: [", {}, "is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, schemas: dict[str, object], told: str) -> None:
    with pytest.raises(BadInput) as raised:
        load(write(tmp_path, text, **schemas))
    assert told in str(raised.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^3 mistake\(s\)") as raised:
        load(write(tmp_path, "subjects: [{name: a}, {name: b}]", a=b"{", b=b"[", c=POINT))
    assert str(raised.value).count("is not JSON") == 2


def test_a_schema_may_stand_in_the_list(tmp_path: Path) -> None:
    text = f"subjects: [{{name: a, compatibility: FULL, schema: '{orjson.dumps(POINT).decode()}'}}]"
    (contract,) = load(write(tmp_path, text)).all
    assert (contract.schema, contract.level, contract.captured) == (POINT, Level.FULL, False)


def test_a_revision_has_the_contracts_of_its_time(tmp_path: Path) -> None:
    folder = write(tmp_path / "schemas", "subjects: [{name: a}]", a=POINT)

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t.invalid", *arguments], check=True
        )

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "none yet")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    write(folder, "subjects: [{name: a}, {name: b}]", a=POINT | {"doc": "new"}, b=POINT)
    before = at("HEAD", folder)
    assert before is not None
    assert [(contract.subject, contract.schema) for contract in before.all] == [("a", POINT)]
    assert at("HEAD~1", folder) is None
    for wrong in ("nope", "--help"):
        with pytest.raises(BadInput, match=f"git does not give '{wrong}'"):
            at(wrong, folder)
