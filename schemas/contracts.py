"""The contracts that are checked in: subjects.yaml and one <subject>.avsc for each, read and checked without any server.

The file has the form that users of schema-registry-gitops know: a default compatibility, and a list of subjects with name,
file (or the schema itself) and their own compatibility. Knows no registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from downriver.exits import BadInput
from schemas.compatibility import Level, parsed

FOLDER = Path(__file__).parent
INDEX = "subjects.yaml"
SOURCE = "shop"
"""The source that the checked-in subjects are named after; another one's are the same under its own name."""
KEY, VALUE = "-key", "-value"
RECORDS = {KEY: "Key", VALUE: "Envelope"}
"""What the record of a captured table's subject is called: Debezium's names."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One subject as it should be.

    Attributes:
        level: of its compatibility.
        schema: None where the file is not there yet (`pull` writes it).
        captured: a table defines it and Debezium registers it; else we do.
        path: its file.
    """

    subject: str
    level: Level
    schema: Mapping[str, Any] | None
    captured: bool
    path: Path

    @property
    def topic(self) -> str:
        """The topic whose records it describes."""
        return topic_of(self.subject)


@dataclass(frozen=True, slots=True)
class Contracts:
    """All of them. `default` is the level of subjects that have none of their own, None: not ours to say."""

    default: Level | None
    all: Sequence[Contract] = field(default_factory=tuple)

    def of(self, subjects: Sequence[str]) -> list[Contract]:
        """Return the contracts of these subjects, all of them if none is named.

        Raises:
            BadInput: there is none for one of them.
        """
        known = {contract.subject: contract for contract in self.all}
        if unknown := [name for name in subjects if name not in known]:
            msg = f"{INDEX} names no subject {', '.join(unknown)}; it has: {', '.join(known)}"
            raise BadInput(msg)
        return [known[name] for name in subjects] or list(self.all)


def load(folder: Path = FOLDER, source: str = SOURCE) -> Contracts:
    """Read and check the folder's contracts, named after `source`.

    Raises:
        BadInput: naming every mistake at once: file, subject, what is wrong, what is allowed.
    """
    path = folder / INDEX
    try:
        document: Any = yaml.safe_load(path.read_text())
    except OSError as error:
        msg = f"{path}: can't be read: {error.strerror}"
        raise BadInput(msg) from None
    except yaml.YAMLError as error:
        msg = f"{path}: is not YAML: {' '.join(str(error).split())}"
        raise BadInput(msg) from None
    mistakes = list(_mistakes(document))
    contracts: list[Contract] = []
    if not mistakes:
        default = Level(document["compatibility"]) if document.get("compatibility") else None
        for entry in document["subjects"]:
            try:
                contracts.append(_contract(folder, entry, default or Level.BACKWARD))
            except BadInput as error:
                mistakes.append(str(error))
        mistakes += _shared(contracts)
        mistakes += _strays(folder, [_path(folder, entry) for entry in document["subjects"]])
    if mistakes:
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        msg = f"{len(mistakes)} mistake(s) in {path} and its schemas:{lines}"
        raise BadInput(msg)
    return Contracts(default, tuple(renamed(contract, source) for contract in contracts))


def topic_of(subject: str) -> str:
    """Return the topic of a subject named after one (TopicNameStrategy), else the subject itself."""
    return subject.removesuffix(KEY).removesuffix(VALUE)


def renamed(contract: Contract, source: str) -> Contract:
    """Return the contract of a captured table for another source; our own subjects keep their names."""
    if source == SOURCE or not contract.captured:
        return contract
    subject = other_source(contract.subject, SOURCE, source)
    schema = contract.schema and retopic(contract.schema, contract.topic, topic_of(subject))
    return Contract(subject, contract.level, schema, contract.captured, contract.path)


def other_source(name: str, source: str, other: str) -> str:
    """Return the same topic or subject of another source."""
    return other + name.removeprefix(source) if name.startswith(f"{source}_") else name


def retopic(schema: Mapping[str, Any], topic: str, other: str) -> Mapping[str, Any]:
    """Return the schema with its names under another topic."""
    renamed_: Mapping[str, Any] = orjson.loads(orjson.dumps(schema).replace(f'"{topic}'.encode(), f'"{other}'.encode()))
    return renamed_


def written(schema: Mapping[str, Any]) -> bytes:
    """Return what stands in a file: the order of the fields is the schema's own."""
    return orjson.dumps(schema, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _mistakes(document: Any) -> Iterable[str]:
    """Tell what is wrong with the YAML document itself."""
    if not isinstance(document, dict) or not isinstance(document.get("subjects"), list):
        yield 'must be an object with a list "subjects" (and a "compatibility" for all)'
        return
    for key in sorted(set(document) - {"compatibility", "normalize", "subjects"}, key=str):
        yield f"{key}: is not known; known are compatibility, normalize, subjects"
    yield from _wrong_level("compatibility", document.get("compatibility"))
    for number, entry in enumerate(document["subjects"], 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            yield f"subject {number} = {entry!r}: must be an object with a name"
            continue
        name = entry["name"]
        for key in sorted(set(entry) - {"name", "file", "schema", "type", "compatibility", "references"}, key=str):
            yield f"{name}.{key}: is not known; known are name, file, schema, type, compatibility"
        if entry.get("type", "AVRO") != "AVRO" or entry.get("references"):
            yield f"{name}: is {entry.get('type', 'AVRO')} with references; only self-contained Avro can be kept here"
        if entry.get("file") and entry.get("schema"):
            yield f"{name}: has a file and a schema; it must be one of them"
        yield from _wrong_level(f"{name}.compatibility", entry.get("compatibility"))


def _wrong_level(where: str, level: Any) -> Iterable[str]:
    if level is not None and level not in set(Level):
        yield f"{where} = {level!r}: must be one of {', '.join(Level)}"


def _contract(folder: Path, entry: Mapping[str, Any], default: Level) -> Contract:
    subject = str(entry["name"])
    path = _path(folder, entry)
    schema: Any = None
    if "schema" in entry:
        schema = _json(str(entry["schema"]).encode(), f"{subject}.schema")
    elif path.exists():
        schema = _json(path.read_bytes(), str(path))
    captured = topic_of(subject) != subject and topic_of(subject).startswith(f"{SOURCE}_")
    if schema is not None:
        parsed(schema, str(path))
        _check_name(subject, schema, path, captured=captured)
    return Contract(subject, Level(entry.get("compatibility") or default), schema, captured, path)


def _json(content: bytes, origin: str) -> Any:
    try:
        schema = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        msg = f"{origin}: is not JSON: {error}"
        raise BadInput(msg) from None
    if not isinstance(schema, dict) or schema.get("type") != "record":
        msg = f"{origin}: must be an Avro record"
        raise BadInput(msg)
    return schema


def _check_name(subject: str, schema: Mapping[str, Any], path: Path, *, captured: bool) -> None:
    """Refuse a schema that stands under another subject's name."""
    if not captured:
        return
    suffix = subject[len(topic_of(subject)) :]
    full_name = f"{schema.get('namespace', '')}.{schema.get('name')}"
    wanted = f"{topic_of(subject)}.{RECORDS[suffix]}"
    if full_name != wanted:
        msg = f"{path}: holds {full_name}; the subject {subject} holds {wanted}"
        raise BadInput(msg)


def _shared(contracts: Sequence[Contract]) -> Iterable[str]:
    first: dict[str, Contract] = {}
    for contract in contracts:
        if contract.subject in first:
            yield f"{contract.subject}: is named twice"
        first.setdefault(contract.subject, contract)


def _path(folder: Path, entry: Mapping[str, Any]) -> Path:
    return folder / str(entry.get("file") or f"{entry['name']}.avsc")


def _strays(folder: Path, paths: Sequence[Path]) -> Iterable[str]:
    """Tell which .avsc files no subject names: a typing mistake would leave them unread."""
    named = {path.resolve() for path in paths}
    for path in sorted(folder.glob("*.avsc")):
        if path.resolve() not in named:
            yield f"{path}: no subject of {INDEX} names this file"
