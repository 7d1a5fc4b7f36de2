"""What decoding asks of others: schemas by id. And what it answers when it can't: a reason for a dead letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Undecodable(Exception):
    """The record can't be a change of its topic's table, now or later: a dead letter.

    The message is a sentence that names what is wrong, never a value: rows may hold personal data, and the sentence
    travels in a header.
    """


class OtherKey(Undecodable):
    """The record is keyed by other columns than its table file says: a migration changed the key. Not the record's fault."""


class SchemaLookup(Protocol):
    """Schemas by id; `schemas.registry.SchemaRegistry` is one."""

    def schema(self, schema_id: int, /) -> Mapping[str, Any]:
        """Return the parsed schema.

        Raises:
            schemas.registry.UnknownSchema: the registry answered that there is none: the record is a dead letter.
            schemas.registry.RegistryAway: it did not answer: the engine waits and asks again.
        """
