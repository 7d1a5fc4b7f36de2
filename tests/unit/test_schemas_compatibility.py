"""Apache Avro's checker at each level, and where it is blind: there schemas.rows must see."""

from __future__ import annotations

import pytest

from downriver.exits import BadInput
from schemas.compatibility import Level, parsed, problems, unreadable
from schemas.rows import Kind, columns, steps
from tests.unit.test_schemas_rows import UUID, decimal, envelope

OLD = envelope(id="int", brand={"name": "brand", "type": ["null", "string"], "default": None})
ADDED = envelope(
    id="int",
    brand={"name": "brand", "type": ["null", "string"], "default": None},
    size={"name": "size", "type": ["null", "int"], "default": None},
)
STRICT = envelope(id="int", brand={"name": "brand", "type": ["null", "string"], "default": None}, size="int")
WIDE = envelope(id="long", brand={"name": "brand", "type": ["null", "string"], "default": None})


@pytest.mark.parametrize(
    ("level", "new", "earlier", "refused"),
    [
        (Level.BACKWARD, ADDED, [OLD], False),
        (Level.FORWARD, ADDED, [OLD], False),
        (Level.FULL_TRANSITIVE, ADDED, [OLD], False),
        (Level.BACKWARD, STRICT, [OLD], True),
        (Level.FORWARD, STRICT, [OLD], False),
        (Level.BACKWARD, WIDE, [OLD], False),
        (Level.FORWARD, WIDE, [OLD], True),
        (Level.FULL, WIDE, [OLD], True),
        (Level.NONE, WIDE, [OLD], False),
        (Level.BACKWARD, STRICT, [], False),
        (Level.BACKWARD, STRICT, [OLD, STRICT], False),
        (Level.BACKWARD_TRANSITIVE, STRICT, [OLD, STRICT], True),
    ],
)
def test_levels(level: Level, new: dict[str, object], earlier: list[dict[str, object]], refused: bool) -> None:
    assert bool(problems(level, new, earlier)) is refused


def test_a_refusal_names_the_column_and_the_side() -> None:
    assert problems(Level.BACKWARD, STRICT, [OLD]) == [
        "the new schema can't read data of the last schema: reader field missing default value at size: size"
    ]
    (said,) = problems(Level.FORWARD, WIDE, [OLD])
    assert said.startswith("the last schema can't read data of the new schema: type mismatch at id/type")


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (decimal(12, 2), decimal(12, 4), Kind.RETYPED),
        ("string", UUID, Kind.RETYPED),
    ],
)
def test_what_avro_does_not_see_the_columns_tell(before: object, after: object, kind: Kind) -> None:
    old, new = envelope(x=before), envelope(x=after)
    assert unreadable(new, old) == unreadable(old, new) == []
    assert [step.kind for step in steps(columns(old), columns(new))] == [kind]


def test_what_is_no_schema_is_named() -> None:
    with pytest.raises(BadInput, match="somewhere: is not an Avro schema"):
        parsed({"type": "record", "name": "X", "fields": [{"name": "a", "type": "nonsense"}]}, "somewhere")
