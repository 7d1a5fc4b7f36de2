"""A connector in the shapes that other tools take, and back: Connect's JSON, Strimzi's KafkaConnector, a curl command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson
import yaml

from connectors.connector import Connector, State, written_out
from connectors.reading import STRIMZI_KIND, STRIMZI_OWN

STRIMZI_API = "kafka.strimzi.io/v1"
"""Strimzi 0.49 and newer; older ones take v1beta2 with the same content."""
RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Shape(StrEnum):
    """The value of ``--format``."""

    JSON = "json"
    STRIMZI = "strimzi"
    CURL = "curl"


SUFFIX = {Shape.JSON: ".json", Shape.STRIMZI: ".yaml", Shape.CURL: ".sh"}


def as_json(connector: Connector) -> str:
    """Return exactly Connect's {"name", "config"}."""
    document = {"name": connector.name, "config": _config(connector)}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def as_strimzi(connector: Connector, cluster: str) -> str:
    """Return a KafkaConnector; every value is quoted, so that YAML makes nothing else of it."""
    config = _config(connector)
    tasks = config.get("tasks.max", "1")
    spec: dict[str, Any] = {
        "class": config["connector.class"],
        "tasksMax": int(tasks) if tasks.isdigit() else 1,
        **({"version": _Quoted(config["connector.plugin.version"])} if "connector.plugin.version" in config else {}),
        "state": connector.state.lower(),
        "config": {key: _Quoted(value) for key, value in config.items() if key not in STRIMZI_OWN},
    }
    document = {
        "apiVersion": STRIMZI_API,
        "kind": STRIMZI_KIND,
        "metadata": {"name": resource_name(connector.name), "labels": {"strimzi.io/cluster": cluster}},
        "spec": spec,
    }
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def as_curl(connector: Connector, url: str, *, login: bool) -> str:
    """Return a shell command that does what `apply` does last: PUT the settings. Idempotent.

    Args:
        login: Connect wants a user: read from the shell's CONNECT_USER and CONNECT_PASSWORD.
    """
    body = orjson.dumps(_config(connector), option=orjson.OPT_INDENT_2).decode()
    user = ' --user "$CONNECT_USER:$CONNECT_PASSWORD"' if login else ""
    target = shlex.quote(f"{url.rstrip('/')}/connectors/{connector.name}/config")
    # the body is quoted: the shell must not fill in ${…}, which is the Connect worker's
    head = f"curl --fail-with-body --silent --show-error{user} -X PUT -H 'Content-Type: application/json'"
    done = f"{head} --data-binary @- {target} <<'CONNECTOR'\n{body}\nCONNECTOR\n"
    if connector.state is State.RUNNING:
        return done
    verb = "pause" if connector.state is State.PAUSED else "stop"
    place = shlex.quote(f"{url.rstrip('/')}/connectors/{connector.name}/{verb}")
    return f"{done}curl --fail-with-body --silent --show-error{user} -X PUT {place}\n"


def resource_name(name: str) -> str:
    """Return the name as Kubernetes takes it: small letters, digits, - and ."""
    made = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")
    return made if RESOURCE.fullmatch(made) else "connector"


def without_secrets(name: str, config: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return a live connector's settings as a file may hold them, and what was replaced: setting → variable.

    A secret that is written out on Connect becomes `${env:…}`, which its worker must then have.
    """
    kept: dict[str, str] = {}
    replaced: dict[str, str] = {}
    for key, value in config.items():
        if written_out(key, value):
            replaced[key] = re.sub(r"[^A-Z0-9]+", "_", f"{name}_{key}".upper())
            kept[key] = f"${{env:{replaced[key]}}}"
        else:
            kept[key] = value
    return kept, replaced


def _config(connector: Connector) -> dict[str, str]:
    return {key: value for key, value in connector.config.items() if key != "name"}


class _Quoted(str):
    """A text that is written in quotes."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes `_Quoted` in quotes."""


_Dumper.add_representer(
    _Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style='"')
)
