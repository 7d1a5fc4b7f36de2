"""The schema commands against the real registry: it enforces a level once one is set, and pins are what tables send."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from downriver.settings import Settings
from schemas.compatibility import Level
from schemas.contracts import Contract, Contracts
from schemas.plan import Action, apply, history, plan
from schemas.registry import Refused, SchemaRegistry

pytestmark = pytest.mark.stack


@pytest.fixture
def registry(settings: Settings) -> Iterator[SchemaRegistry]:
    made = SchemaRegistry(settings.registry)
    yield made
    made.close()


@pytest.fixture
def subject(registry: SchemaRegistry) -> Iterator[str]:
    name = f"t{token_hex(4)}-value"
    yield name
    registry.forget(name)


def record(**fields: object) -> dict[str, object]:
    listed = [{"name": name, "type": type_} for name, type_ in fields.items()]
    return {"type": "record", "name": "Sold", "namespace": f"t{token_hex(4)}", "fields": listed}


def test_the_level_that_apply_sets_first_is_enforced(registry: SchemaRegistry, subject: str) -> None:
    """Without a level the registry takes anything, which is why it comes first."""
    first = record(id="string")
    contracts = Contracts(None, (Contract(subject, Level.BACKWARD, first, False, Path("x")),))
    items = plan(registry, contracts)
    assert [item.action for item in items] == [Action.LEVEL, Action.REGISTER]
    assert list(apply(registry, contracts, items)) == items
    assert plan(registry, contracts) == []
    assert registry.level(subject) == "BACKWARD"
    incompatible = first | {"fields": [{"name": "number", "type": "long"}]}
    with pytest.raises(Refused, match=r"refuses: .*Incompatible artifact"):
        registry.register(subject, incompatible)
    refused = plan(registry, Contracts(None, (Contract(subject, Level.BACKWARD, incompatible, False, Path("x")),)))
    assert [item.action for item in refused] == [Action.REFUSED]  # and our checker says so before


def test_a_schema_that_comes_back_keeps_its_version(registry: SchemaRegistry, subject: str) -> None:
    """So the newest version need not be what a table sends: see docs/schemas.md."""
    first = record(id="string")
    second = first | {"fields": [*first["fields"], {"name": "to", "type": ["null", "string"], "default": None}]}  # type: ignore[misc]
    ids = [registry.register(subject, schema) for schema in (first, second, first)]
    assert ids[0] == ids[2] != ids[1]
    assert registry.versions(subject) == [1, 2]
    assert [each["changed"] for each in history(registry, subject)] == [["first version"], ["to: added (string null)"]]
    newest = registry.version(subject)
    assert newest is not None
    assert (newest.number, newest.schema) == (2, second)
    assert registry.version(subject, 9) is None
    assert registry.version(f"no-{subject}") is None


def test_a_subject_without_a_level_has_that_of_all(registry: SchemaRegistry, subject: str) -> None:
    assert registry.level(subject) is None
    registry.set_level("FULL", subject)  # may be set before the subject is there
    registry.register(subject, record(id="string"))
    assert registry.level(subject) == "FULL"
