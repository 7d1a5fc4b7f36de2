"""Whether schemas can read each other's data, by Apache Avro's own checker. Pure.

What it can't do: it compares Avro types and nothing else. It sees no logical type (a decimal that gets other decimals, a
text that becomes a uuid), no namespace, no enum that Debezium sends as text, and no column that is gone where a default
stands in for it. `schemas.rows` looks at those.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from downriver.exits import BadInput
from schemas.rows import row_record


class Level(StrEnum):
    """The registry's words for who must be able to read what."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    """The new schema reads what was written with the last one."""
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    """The last schema reads what is written with the new one."""
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"


Schema = Mapping[str, Any]


def parsed(schema: Schema, origin: str) -> Any:
    """Return the schema as Apache Avro reads it.

    Raises:
        BadInput: it is not Avro; `origin` says whose it is.
    """
    import avro.errors
    import avro.schema

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # logical types that the library does not know are read as what they are
            return avro.schema.make_avsc_object(dict(schema))
    except (avro.errors.AvroException, TypeError, ValueError, KeyError) as error:
        msg = f"{origin}: is not an Avro schema: {error}"
        raise BadInput(msg) from None


def problems(level: Level, new: Schema, earlier: Sequence[Schema]) -> list[str]:
    """Return why `new` may not follow `earlier` (oldest first) at this level; empty if it may.

    Raises:
        BadInput: one of them is not Avro.
    """
    if level is Level.NONE or not earlier:
        return []
    judged = earlier if level.endswith("_TRANSITIVE") else earlier[-1:]
    found: list[str] = []
    for schema in judged:
        which = "the last schema" if schema is earlier[-1] else "an earlier schema"
        if level.startswith(("BACKWARD", "FULL")):
            found += [f"the new schema can't read data of {which}: {why}" for why in unreadable(new, schema)]
        if level.startswith(("FORWARD", "FULL")):
            found += [f"{which} can't read data of the new schema: {why}" for why in unreadable(schema, new)]
    return list(dict.fromkeys(found))


def unreadable(reader: Schema, writer: Schema) -> list[str]:
    """Return why a reader with one schema can't read what was written with another; empty if it can.

    Raises:
        BadInput: one of them is not Avro.
    """
    whole = _checked(reader, writer)
    rows = row_record(reader), row_record(writer)
    if whole and rows[0] is not reader and rows[1] is not writer:
        return _checked(*rows) or whole  # of a union, the checker says only that no branch fits: look at the rows
    return whole


def _checked(reader: Schema, writer: Schema) -> list[str]:
    from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

    result = ReaderWriterCompatibilityChecker().get_compatibility(  # type: ignore[no-untyped-call]
        parsed(reader, "the reader's schema"), parsed(writer, "the writer's schema")
    )
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    kinds = ", ".join(dict.fromkeys(kind.value.replace("_", " ") for kind in result.incompatibilities))
    places = "; ".join(sorted(_place(reader, str(place)) for place in result.locations if place != "/")) or "/"
    said = "; ".join(sorted(str(message) for message in result.messages))
    return [f"{kinds} at {places}: {said}"]


def _place(reader: Schema, place: str) -> str:
    """Return the checker's place with the names of the fields instead of their numbers."""
    schema: Any = reader
    parts = [part for part in place.split("/") if part]
    if len(parts) >= 2 and parts[0] == "fields" and parts[1].isdigit():
        return "/".join([str(schema["fields"][int(parts[1])]["name"]), *parts[2:]])
    return place or "/"
