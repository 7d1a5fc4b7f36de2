"""The contracts against the registry: what differs, and what makes it so. Compatibility is set before anything is registered.

Captured subjects are never registered from here: their tables define them, Debezium registers them. Where the pinned
contract and the registry part, `pull` takes over what is there, after a look at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from schemas.agreed import SUFFIX
from schemas.compatibility import Level, Schema, problems
from schemas.contracts import Contract, Contracts
from schemas.registry import SchemaRegistry
from schemas.rows import columns, steps

DEFAULT = "(all subjects without a level)"
"""Stands for the registry's own level in place of a subject."""


class Action(StrEnum):
    """What is to be done about a subject."""

    LEVEL = "set compatibility"
    REGISTER = "register"
    PARTED = "parted"
    """A captured subject whose newest schema is not the pinned one: look at it, then `pull`."""
    UNPINNED = "unpinned"
    """A captured subject that the registry has and no file pins: `pull`."""
    UNSEEN = "not captured yet"
    """A captured subject that the registry does not know: no row of its table has been captured. Nothing to do."""
    REFUSED = "refused"
    """The new schema is not compatible with what is registered."""
    UNMANAGED = "unmanaged"
    """The registry has it, subjects.yaml does not name it. Nothing is done about it."""


PENDING = frozenset({Action.LEVEL, Action.REGISTER, Action.PARTED, Action.UNPINNED})
"""Differences that somebody must end."""


@dataclass(frozen=True, slots=True)
class Item:
    """One difference; `detail` tells it line by line."""

    subject: str
    action: Action
    before: str = ""
    after: str = ""
    detail: Sequence[str] = field(default_factory=tuple)


def plan(registry: SchemaRegistry, contracts: Contracts, *, everything: bool = False) -> list[Item]:
    """Return what differs, levels first: in the order in which it is to be done. `everything`: unmanaged subjects too.

    Raises:
        RegistryAway: the registry does not answer.
    """
    levels: list[Item] = []
    for_all = registry.level() or Level.NONE
    if contracts.default is not None and for_all != contracts.default:
        levels.append(Item(DEFAULT, Action.LEVEL, for_all, contracts.default))
        for_all = contracts.default
    there = set(registry.subjects())
    rest: list[Item] = []
    for contract in contracts.all:
        # a level can be set before the subject is there, and holds from its first version on (tried)
        found = registry.level(contract.subject) or for_all
        if found != contract.level:
            levels.append(Item(contract.subject, Action.LEVEL, found, contract.level))
        rest += _captured(registry, contract) if contract.captured else _own(registry, contract)
    if everything:
        named = {contract.subject for contract in contracts.all}
        rest += [Item(subject, Action.UNMANAGED) for subject in sorted(there - named) if not _ours(subject)]
    return levels + rest


def apply(registry: SchemaRegistry, contracts: Contracts, items: Sequence[Item]) -> Iterator[Item]:
    """Do what `items` say, in their order, and yield each that was done. What only `pull` can end is left out.

    Raises:
        RegistryAway: the registry stopped answering; what was yielded is done.
        Refused: the registry did not take a schema.
    """
    schemas = {contract.subject: contract.schema for contract in contracts.all}
    for item in items:
        if item.action is Action.LEVEL:
            registry.set_level(item.after, None if item.subject == DEFAULT else item.subject)
        elif item.action is Action.REGISTER and (schema := schemas[item.subject]) is not None:
            registry.register(item.subject, schema)
        else:
            continue
        yield item


def same(one: Schema, other: Schema) -> bool:
    """Whether two schemas are the same, however they are laid out."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)


def differences(before: Schema, after: Schema) -> list[str]:
    """Tell how a schema differs from an earlier one: column by column where that says it all."""
    told = [str(step) for step in steps(columns(before), columns(after))]
    if told or same(before, after):
        return told
    order = list(columns(before)), list(columns(after))
    if order[0] != order[1]:
        return ["the same columns in another order"]
    return ["the same columns; the envelope around them, or attributes of a type, differ"]


def _ours(subject: str) -> bool:
    """Whether it is a note of the workers, or a heartbeat's: nobody's contract."""
    return subject.endswith(SUFFIX) or subject.startswith("__debezium-heartbeat") or ".downriver_heartbeat-" in subject


def _captured(registry: SchemaRegistry, contract: Contract) -> Iterator[Item]:
    newest = registry.version(contract.subject)
    if newest is None:
        yield Item(contract.subject, Action.UNSEEN)
    elif contract.schema is None:
        yield Item(contract.subject, Action.UNPINNED, "", f"version {newest.number}")
    elif not same(contract.schema, newest.schema):
        detail = differences(contract.schema, newest.schema)
        yield Item(contract.subject, Action.PARTED, "pinned", f"version {newest.number}", detail)


def _own(registry: SchemaRegistry, contract: Contract) -> Iterator[Item]:
    if contract.schema is None:
        return
    found = [registry.version(contract.subject, number) for number in registry.versions(contract.subject)]
    versions = [version for version in found if version is not None]
    if versions and same(versions[-1].schema, contract.schema):
        return
    number = f"version {versions[-1].number}" if versions else ""
    if why := problems(contract.level, contract.schema, [version.schema for version in versions]):
        yield Item(contract.subject, Action.REFUSED, number, contract.level, why)
        return
    detail = differences(versions[-1].schema, contract.schema) if versions else []
    yield Item(contract.subject, Action.REGISTER, number, "a new version" if versions else "its first version", detail)


def history(registry: SchemaRegistry, subject: str, level: Level = Level.BACKWARD) -> list[dict[str, object]]:
    """Return the subject's versions, oldest first: what each changed, and whether readers could follow.

    Raises:
        RegistryAway: the registry does not answer.
    """
    told: list[dict[str, object]] = []
    before: Schema | None = None
    for number in registry.versions(subject):
        version = registry.version(subject, number)
        if version is None:
            continue  # deleted since the list was read
        why = [] if before is None else problems(level, version.schema, [before])
        told.append(
            {
                "version": number,
                "id": version.id,
                "changed": ["first version"] if before is None else differences(before, version.schema),
                "compatible": not why,
                "why": why,
            }
        )
        before = version.schema
    return told
