"""Connector files as documents: JSON, the same in YAML, or Strimzi's KafkaConnector. Where each setting stands is kept.

A document is what somebody wrote, not yet what may be used: `connectors.lint` judges that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from connectors.connector import Silence, State

SUFFIXES = (".json", ".yaml", ".yml")
STRIMZI_KIND = "KafkaConnector"
STRIMZI_OWN = ("name", "connector.class", "tasks.max", "connector.plugin.version")
"""What Strimzi refuses inside spec.config: it has fields of their own."""
STRIMZI_STATES = {"running": State.RUNNING, "paused": State.PAUSED, "stopped": State.STOPPED}
COMMENT = re.compile(r"#\s*lint:\s*(?P<rule>[\w-]*)\s*(?P<reason>.*?)\s*$")
"""`poll.interval.ms: 500  # lint: poll-interval a nightly copy, nobody waits for it`"""


class Unreadable(Exception):
    """One file can't be understood; the message says where and why, without the name of the file."""


@dataclass(frozen=True, slots=True)
class Document:
    """One connector as written.

    Attributes:
        config: None takes a setting away; only an overlay may say that. Of JSON, a value may be of any type.
        lines: setting → line in the file, from 1.
    """

    name: Any
    config: Mapping[str, Any]
    state: State = State.RUNNING
    lines: Mapping[str, int] = field(default_factory=dict)
    silences: tuple[Silence, ...] = ()


def read(path: Path) -> list[Document]:
    """Return the connectors of a file: one in JSON, any number in YAML.

    Raises:
        Unreadable: it can't be read, is no JSON or YAML, or not the shape of a connector.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"can't be read: {error.strerror}"
        raise Unreadable(msg) from None
    except UnicodeDecodeError as error:
        msg = f"is not UTF-8 text: {error.reason} at byte {error.start}"
        raise Unreadable(msg) from None
    if path.suffix == ".json":
        return [_document(*_json(text))]
    silences = list(_comments(path, text))
    documents = [_document(value, lines) for value, lines in _yaml(text)]
    if not documents:
        msg = "is empty"
        raise Unreadable(msg)
    return [
        Document(
            document.name,
            document.config,
            document.state,
            document.lines,
            tuple(
                Silence(rule, key, reason, f"{path}:{line}")
                for line, rule, reason in silences
                for key, at in document.lines.items()
                if at == line
            ),
        )
        for document in documents
    ]


def _document(value: Any, lines: Mapping[str, int]) -> Document:
    """Return the connector of a parsed document, whichever of the shapes it has."""
    if isinstance(value, dict) and value.get("kind") == STRIMZI_KIND:
        return _strimzi(value, lines)
    if not isinstance(value, dict) or set(value) != {"name", "config"}:
        found = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        msg = f'is {found}; it must be an object of exactly "name" and "config", or a Strimzi {STRIMZI_KIND}'
        raise Unreadable(msg)
    if not isinstance(value["config"], dict):
        msg = f"config = {value['config']!r}: must be an object"
        raise Unreadable(msg)
    return Document(value["name"], value["config"], lines=lines)


def _strimzi(value: dict[str, Any], lines: Mapping[str, int]) -> Document:
    metadata, spec = value.get("metadata"), value.get("spec")
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        msg = f"is a {STRIMZI_KIND} without metadata or spec"
        raise Unreadable(msg)
    config = spec.get("config") or {}
    if not isinstance(config, dict):
        msg = f"spec.config = {config!r}: must be an object"
        raise Unreadable(msg)
    if own := [key for key in STRIMZI_OWN if key in config]:
        msg = f"spec.config holds {', '.join(own)}, which Strimzi refuses there: write metadata.name, spec.class, …"
        raise Unreadable(msg)
    wanted = spec.get("state") or ("paused" if spec.get("pause") == "true" else "running")
    if wanted not in STRIMZI_STATES:
        msg = f"spec.state = {wanted!r}: allowed are {', '.join(STRIMZI_STATES)}"
        raise Unreadable(msg)
    own_fields = {
        "connector.class": spec.get("class"),
        "tasks.max": spec.get("tasksMax") or "1",
        "connector.plugin.version": spec.get("version"),
    }
    fields = {key: field for key, field in own_fields.items() if field is not None}
    places = {"connector.class": lines.get("class", 1), "tasks.max": lines.get("tasksMax", 1)}
    return Document(metadata.get("name"), fields | config, STRIMZI_STATES[wanted], {**places, **lines})


def _json(text: str) -> tuple[Any, dict[str, int]]:
    """Parse JSON; a key that stands twice in one object is an error: the first value would be lost without a word."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                msg = f"{key}: stands twice, and Connect would take only the last; remove one"
                raise Unreadable(msg)
            found[key] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        msg = f"is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise Unreadable(msg) from None
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        for key in re.findall(r'"((?:[^"\\]|\\.)+)"\s*:', line):
            lines.setdefault(key, number)
    return value, lines


class _Texts(yaml.SafeLoader):
    """Reads every scalar as the text that stands there, as Connect keeps it (`true`, `0010`, `1_000`); null is None."""


_Texts.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag in {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _yaml(text: str) -> Iterator[tuple[Any, dict[str, int]]]:
    """Parse each document of a YAML text, with the line of every key."""
    try:
        for node in yaml.compose_all(text, Loader=_Texts):
            if node is None or node.tag == "tag:yaml.org,2002:null":
                continue
            lines: dict[str, int] = {}
            _note(node, lines)
            loader = _Texts("")
            try:
                yield loader.construct_document(node), lines
            finally:
                loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        msg = f"is not YAML: {error.problem}{where}"
        raise Unreadable(msg) from None
    except yaml.YAMLError as error:
        msg = f"is not YAML: {error}"
        raise Unreadable(msg) from None


def _note(node: yaml.Node, lines: dict[str, int]) -> None:
    """Note the line of each key below the node; refuse one that stands twice in a mapping."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            msg = (
                f"{key.value}: stands twice (line {key.start_mark.line + 1}), and only the last would count; remove one"
            )
            raise Unreadable(msg)
        seen.add(key.value)
        lines[key.value] = key.start_mark.line + 1
        _note(value, lines)


def _comments(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, rule and reason of every `# lint:` comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        if found := COMMENT.search(line):
            yield number, found["rule"], found["reason"]
