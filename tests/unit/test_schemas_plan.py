"""The contracts against a registry in memory: what differs, in which order it is put right, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from downriver.exits import BadInput
from schemas import commands
from schemas.agreed import Agreements
from schemas.compatibility import Level, Schema
from schemas.contracts import Contract, Contracts, load
from schemas.plan import Action, Item, apply, history, plan
from schemas.rows import columns
from tests.support.ccompat import Ccompat
from tests.unit.test_schemas_rows import envelope

FIRST = {"type": "record", "name": "Sold", "fields": [{"name": "id", "type": "string"}]}
SECOND = FIRST | {"fields": [*FIRST["fields"], {"name": "to", "type": ["null", "string"], "default": None}]}
BROKEN = FIRST | {"fields": [{"name": "number", "type": "long"}]}
TABLE = "shop_catalog.public.products-value"


def own(schema: Schema | None, level: Level = Level.BACKWARD) -> Contract:
    return Contract("sold-value", level, schema, False, Path("sold-value.avsc"))


def pinned(schema: Schema | None) -> Contract:
    return Contract(TABLE, Level.NONE, schema, True, Path(f"{TABLE}.avsc"))


def actions(items: list[Item]) -> list[tuple[str, Action]]:
    return [(item.subject, item.action) for item in items]


def test_a_level_is_set_before_anything_is_registered() -> None:
    registry = Ccompat()
    contracts = Contracts(None, (own(FIRST),))
    items = plan(registry.client(), contracts)
    assert actions(items) == [("sold-value", Action.LEVEL), ("sold-value", Action.REGISTER)]
    assert list(apply(registry.client(), contracts, items)) == items
    assert registry.asked == [("PUT", "config/sold-value"), ("POST", "subjects/sold-value/versions")]
    assert registry.levels["sold-value"] == "BACKWARD"
    assert registry.subjects == {"sold-value": [FIRST]}
    assert plan(registry.client(), contracts) == []


def test_a_new_version_is_registered_and_told() -> None:
    registry = Ccompat()
    registry.put("sold-value", FIRST)
    registry.levels["sold-value"] = "BACKWARD"
    (item,) = plan(registry.client(), Contracts(None, (own(SECOND),)))
    assert (item.action, item.before, item.detail) == (Action.REGISTER, "version 1", ["to: added (string null)"])


def test_an_incompatible_schema_is_refused_at_its_level() -> None:
    registry = Ccompat()
    registry.put("sold-value", FIRST)
    items = plan(registry.client(), Contracts(None, (own(BROKEN),)))
    assert actions(items) == [("sold-value", Action.LEVEL), ("sold-value", Action.REFUSED)]
    assert items[1].detail == [
        "the new schema can't read data of the last schema: reader field missing default value at number: number"
    ]
    assert actions(plan(registry.client(), Contracts(None, (own(BROKEN, Level.NONE),)))) == [
        ("sold-value", Action.REGISTER)
    ]


def test_the_level_for_all_is_ours_only_if_we_say_one() -> None:
    registry = Ccompat()
    assert plan(registry.client(), Contracts(None, ())) == []
    (item,) = plan(registry.client(), Contracts(Level.FULL, ()))
    assert (item.action, item.before, item.after) == (Action.LEVEL, "NONE", "FULL")


def test_what_a_table_defines_is_compared_and_never_registered() -> None:
    registry = Ccompat()
    old, new = envelope(id="int"), envelope(id="int", brand=["null", "string"])
    contracts = Contracts(None, (pinned(dict(old)),))
    assert actions(plan(registry.client(), contracts)) == [(TABLE, Action.UNSEEN)]
    registry.put(TABLE, old)
    assert plan(registry.client(), contracts) == []
    registry.put(TABLE, new)
    items = plan(registry.client(), contracts)
    assert actions(items) == [(TABLE, Action.PARTED)]
    assert items[0].detail == ["brand: added (string null)"]
    assert list(apply(registry.client(), contracts, items)) == []
    assert registry.asked == []


def test_a_registry_that_would_refuse_a_table_is_told_not_to_before_its_first_row() -> None:
    registry = Ccompat()
    registry.levels[""] = "BACKWARD"
    items = plan(registry.client(), Contracts(None, (pinned(dict(envelope(id="int"))),)))
    assert actions(items) == [(TABLE, Action.LEVEL), (TABLE, Action.UNSEEN)]
    assert items[0].after == "NONE"


def test_unmanaged_subjects_are_listed_when_asked() -> None:
    registry = Ccompat()
    registry.put("other", FIRST)
    assert plan(registry.client(), Contracts(None, ())) == []
    assert actions(plan(registry.client(), Contracts(None, ()), everything=True)) == [("other", Action.UNMANAGED)]


def test_history_tells_what_each_version_changed() -> None:
    registry = Ccompat()
    registry.put("sold-value", FIRST, SECOND, BROKEN, FIRST)
    told = history(registry.client(), "sold-value")
    assert [(each["version"], each["changed"], each["compatible"]) for each in told] == [
        (1, ["first version"], True),
        (2, ["to: added (string null)"], True),
        (3, ["id: dropped (string)", "to: dropped (string null)", "number: added (long)"], False),
    ]
    assert history(registry.client(), "nothing") == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "subjects.yaml").write_text(
        f"subjects: [{{name: {TABLE}, compatibility: NONE}}, {{name: sold-value, compatibility: BACKWARD}}]"
    )
    (tmp_path / "sold-value.avsc").write_bytes(orjson.dumps(FIRST))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, registry: Ccompat, *arguments: object) -> tuple[int, list[dict[str, object]]]:
    monkeypatch.setattr(commands, "SchemaRegistry", lambda _: registry.client())
    result = CliRunner().invoke(commands.app, [*map(str, arguments), "-o", "json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, orjson.loads(result.stdout)


def test_the_commands_end_to_end(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    registry = Ccompat()
    registry.put(TABLE, named(envelope(id="int")))
    where = ("--folder", folder)
    assert run(monkeypatch, registry, "check", *where)[0] == 1  # the table's schema is not pinned yet
    code, items = run(monkeypatch, registry, "plan", *where)
    assert (code, [item["action"] for item in items]) == (2, ["set compatibility", "unpinned", "register"])
    assert run(monkeypatch, registry, "apply", "--dry-run", *where)[0] == 2
    assert registry.asked == []
    code, pulled = run(monkeypatch, registry, "pull", *where)
    assert (code, [each["subject"] for each in pulled]) == (0, [TABLE])
    assert columns(load(folder).of([TABLE])[0].schema or {}).keys() == {"id"}
    code, items = run(monkeypatch, registry, "apply", *where)
    assert (code, [(item["subject"], item["done"]) for item in items]) == (0, [("sold-value", True)] * 2)
    assert run(monkeypatch, registry, "plan", *where) == (0, [])
    assert run(monkeypatch, registry, "check", "--against", "registry", *where) == (0, [])
    registry.put(TABLE, named(envelope(brand="string")))
    code, told = run(monkeypatch, registry, "diff", *where)
    assert (code, [each["change"] for each in told]) == (2, ["id: dropped (int)", "brand: added (string)"])


def test_a_refused_schema_stops_apply_before_it_changes_anything(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    registry = Ccompat()
    registry.put("sold-value", BROKEN)
    code, items = run(monkeypatch, registry, "apply", "--folder", folder)
    assert (code, registry.asked) == (1, [])
    assert "refused" in {item["action"] for item in items}


def test_our_own_schemas_are_never_overwritten(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    registry = Ccompat()
    registry.put("sold-value", SECOND)
    run(monkeypatch, registry, "pull", "--folder", folder)
    assert orjson.loads((folder / "sold-value.avsc").read_bytes()) == FIRST


def named(schema: object) -> dict[str, object]:
    made: dict[str, object] = dict(schema)  # type: ignore[call-overload]
    return made


def test_what_waits_is_listed_and_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Ccompat()
    topic = TABLE.removesuffix("-value")
    note = Agreements(registry.client())
    assert run(monkeypatch, registry, "accept") == (0, [])
    note.update(
        topic, lambda held: held.seen(columns(envelope(id="int", brand="string")), 10).wait({"brand": "dropped"})
    )
    code, listed = run(monkeypatch, registry, "accept")
    assert (code, listed) == (2, [{"subject": TABLE, "column": "brand", "problem": "dropped"}])
    code, said = run(monkeypatch, registry, "accept", TABLE)
    assert (code, said) == (0, [{"subject": TABLE, "column": "brand", "accepted": True}])
    assert run(monkeypatch, registry, "accept") == (0, [])
    assert note.read(topic).accepted == {"brand"}
    monkeypatch.setattr(commands, "SchemaRegistry", lambda _: registry.client())
    for arguments, told in (
        (["accept", TABLE, "--column", "nope"], "has no column nope"),
        (["accept", "x-value"], "no worker"),
    ):
        result = CliRunner().invoke(commands.app, arguments)
        assert isinstance(result.exception, BadInput)
        assert told in str(result.exception)
