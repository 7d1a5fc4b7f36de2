"""The connector files: read, checked, and the few facts in them that others need (slot, publication, tables).

A file is exactly {"name", "config"}, what Connect's REST API takes as it is. Nothing here connects to anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from downriver.exits import BadInput

FOLDER = Path(__file__).parent
POSTGRES_CONNECTOR = "io.debezium.connector.postgresql.PostgresConnector"
HEARTBEAT_TABLE = "public.downriver_heartbeat"
"""Where each lane's heartbeat query writes, so that an idle lane's position moves."""

FIXED = {
    "connector.class": POSTGRES_CONNECTOR,
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "disabled",
    "offset.mismatch.strategy": "trust_offset",
    "slot.drop.on.stop": "false",
    "decimal.handling.mode": "precise",
    "event.processing.failure.handling.mode": "fail",
}
"""Settings whose other values lose data, lose exactness, or need rights that the capture role does not have."""

REQUIRED = (
    "database.hostname",
    "database.port",
    "database.dbname",
    "database.user",
    "database.password",
    "slot.name",
    "publication.name",
    "topic.prefix",
    "table.include.list",
    "heartbeat.interval.ms",
    "heartbeat.action.query",
    "key.converter",
    "value.converter",
)
SECRET = re.compile(r"password|secret|sasl\.jaas", re.IGNORECASE)
REFERENCE = re.compile(r"\$\{\w+:[^}]+\}")
"""A value that the Connect worker fills in from its environment, a file or a vault."""

PATTERNS = {
    "slot.name": (re.compile(r"[a-z0-9_]{1,63}"), "1 to 63 of a-z, 0-9 and _"),
    "topic.prefix": (re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}"), "letters, digits and _, as an Avro name needs it"),
    "table.include.list": (re.compile(r"\w+\.\w+(,\w+\.\w+)*"), "plain schema.table names, comma separated"),
    "column.exclude.list": (re.compile(r"\w+\.\w+\.\w+(,\w+\.\w+\.\w+)*"), "plain schema.table.column names"),
}
UNIQUE = ("slot.name", "publication.name", "topic.prefix")


@dataclass(frozen=True, slots=True)
class Connector:
    """One connector as its file says it; `origin` names the file in messages."""

    name: str
    config: Mapping[str, str]
    origin: str

    @property
    def slot(self) -> str:
        """The replication slot."""
        return self.config["slot.name"]

    @property
    def publication(self) -> str:
        """The publication."""
        return self.config["publication.name"]

    @property
    def prefix(self) -> str:
        """The topic prefix, which is also the name of the connector's partition in the offsets topic."""
        return self.config["topic.prefix"]

    @property
    def tables(self) -> tuple[str, ...]:
        """The captured tables as schema.table, the heartbeat's among them."""
        return tuple(self.config["table.include.list"].split(","))

    @property
    def excluded(self) -> frozenset[str]:
        """The columns left out, as schema.table.column."""
        return frozenset(filter(None, self.config.get("column.exclude.list", "").split(",")))


def default_files() -> list[Path]:
    """Return the files of this folder, sorted by name."""
    return sorted(FOLDER.glob("downriver_*.json"))


def load(paths: Sequence[Path] | None = None) -> list[Connector]:
    """Read and check connector files, by default those of this folder.

    Raises:
        BadInput: naming every mistake of every file at once: file, key, value, what is allowed.
    """
    connectors: list[Connector] = []
    mistakes: list[str] = []
    for path in default_files() if paths is None else paths:
        try:
            document: Any = orjson.loads(path.read_bytes())
        except OSError as error:
            mistakes.append(f"{path}: can't be read: {error.strerror}")
            continue
        except orjson.JSONDecodeError as error:
            mistakes.append(f"{path}: is not JSON: {error}")
            continue
        found = list(_mistakes(document))
        mistakes += [f"{path}: {mistake}" for mistake in found]
        if not found:
            connectors.append(Connector(document["name"], document["config"], str(path)))
    mistakes += _shared(connectors)
    if mistakes:
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        msg = f"{len(mistakes)} mistake(s) in the connector files:{lines}"
        raise BadInput(msg)
    return connectors


def renamed(connector: Connector, source: str, database: str) -> Connector:
    """Return the same connector for another source: `source`_<lane> names connector, slot, publication and topics.

    For sources beside the shop, and for tests on a shared stack. The lane is what follows the last _ of the name.
    """
    name = f"{source}_{connector.name.rpartition('_')[2]}"
    config = dict(connector.config) | dict.fromkeys(UNIQUE, name) | {"database.dbname": database}
    return Connector(name, config, connector.origin)


def _mistakes(document: Any) -> Iterable[str]:
    """Tell what is wrong with one file's document; nothing if it can be used."""
    if not isinstance(document, dict) or set(document) != {"name", "config"}:
        keys = sorted(document) if isinstance(document, dict) else type(document).__name__
        yield f'is {keys}; it must be an object of exactly "name" and "config"'
        return
    name, config = document["name"], document["config"]
    if not isinstance(name, str) or not name.strip():
        yield f"name = {name!r}: must be a text"
    if not isinstance(config, dict):
        yield f"config = {config!r}: must be an object"
        return
    if config.get("name", name) != name:
        yield f"config.name = {config['name']!r}: differs from name {name!r}; leave it out"
    yield from _wrong_settings(config)


def _wrong_settings(config: Mapping[str, Any]) -> Iterable[str]:
    """Tell what is wrong with a connector's settings."""
    for key, value in config.items():
        if not isinstance(value, str):
            yield f"{key} = {value!r}: must be a string in quotes, as Connect keeps it"
        elif SECRET.search(key) and not REFERENCE.fullmatch(value):
            yield f"{key} = ***: a secret is never in a file; write ${{env:NAME}} or ${{file:PATH:KEY}}"
    for key in REQUIRED:
        if not config.get(key):
            yield f"{key}: is missing"
    for key, wanted in FIXED.items():
        if config.get(key) != wanted:
            yield f"{key} = {config.get(key)!r}: must be {wanted!r}"
    for key, (pattern, allowed) in PATTERNS.items():
        value = config.get(key)
        if value and isinstance(value, str) and not pattern.fullmatch(value):
            yield f"{key} = {value!r}: allowed are {allowed}"
    if HEARTBEAT_TABLE not in str(config.get("table.include.list")).split(","):
        yield f"table.include.list: lacks {HEARTBEAT_TABLE}, without which an idle lane's position stands still"


def _shared(connectors: Sequence[Connector]) -> Iterable[str]:
    """Tell which files share what each connector must have for itself."""
    for label in ("name", *UNIQUE):
        first: dict[str, str] = {}
        for connector in connectors:
            value = connector.name if label == "name" else connector.config[label]
            if value in first:
                yield f"{connector.origin}: {label} = {value!r}: is already that of {first[value]}"
            first.setdefault(value, connector.origin)
