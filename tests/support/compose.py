"""docker-compose.yml as typed values, beside the files it must agree with; what each server's code says it needs.

Everything is read from texts, so that a test can change one of them and see the difference found. It starts nothing.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast
from unittest.mock import patch

import yaml
from pydantic import BaseModel, ConfigDict

from deploy.local.artifacts import pinned
from deploy.local.servers.base import Capture, Context
from downriver.settings import PORT_OFFSETS, PREFIX, Settings, load

ROOT = Path(__file__).parents[2]
COMPOSE = "docker-compose.yml"
DOCKERFILE = "deploy/Dockerfile"
PROPERTIES = "deploy/compose/connect.properties"
EXAMPLE = ".env.example"
IGNORED = ".dockerignore"
PINS = "deploy/local/artifacts.toml"
LOCK = "requirements.lock"
PROJECT = "pyproject.toml"
TEXTS = (COMPOSE, DOCKERFILE, PROPERTIES, EXAMPLE, IGNORED, PINS, LOCK, PROJECT)


class Part(BaseModel):
    """A part of the file; a key that this project does not use is an error, and so is a number without quotes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Build(Part):
    """How an image of our own is made."""

    context: str
    dockerfile: str
    target: str


class Healthcheck(Part):
    """How Docker asks a container for its health."""

    test: list[str]
    interval: str
    timeout: str
    retries: int
    start_period: str
    start_interval: str


class Dependency(Part):
    """What another service must have reached first."""

    condition: Literal["service_healthy", "service_completed_successfully"]


class Service(Part):
    """One service."""

    image: str
    build: Build | None = None
    entrypoint: list[str] = []
    command: list[str] = []
    environment: dict[str, str] = {}
    depends_on: dict[str, Dependency] = {}
    ports: list[str] = []
    volumes: list[str] = []
    tmpfs: list[str] = []
    profiles: list[str] = []
    healthcheck: Healthcheck | None = None
    restart: Literal["no", "unless-stopped"] = "no"
    init: bool = False
    cap_drop: list[str] = []
    security_opt: list[str] = []
    stop_grace_period: str = "10s"
    shm_size: str = "64mb"
    ulimits: dict[str, dict[str, int]] = {}

    @property
    def published(self) -> list[tuple[str, range, int]]:
        """Return address, ports of this machine, and port of the container, of each publication."""
        found = []
        for text in self.ports:
            address, outside, inside = text.rsplit(":", 2) if text.count(":") > 1 else ("", *text.rsplit(":", 1))
            first, _, last = outside.partition("-")
            found.append((address, range(int(first), int(last or first) + 1), int(inside)))
        return found

    @property
    def ours(self) -> list[str]:
        """Return the arguments of `downriver` that it runs; empty for another program."""
        program, *arguments = [*self.entrypoint, *self.command, ""]
        return [argument for argument in arguments if argument] if program == "downriver" else []


class Compose(Part):
    """The whole file, without its x- parts."""

    name: str
    services: dict[str, Service]
    volumes: dict[str, None]


@dataclass(frozen=True)
class House:
    """The files as texts, and what they say."""

    texts: Mapping[str, str]

    @classmethod
    def read(cls) -> House:
        """Read them from the checkout."""
        connectors = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "connectors").glob("*.json"))]
        return cls({name: (ROOT / name).read_text(encoding="utf-8") for name in (*TEXTS, *connectors)})

    def changed(self, name: str, old: str, new: str) -> House:
        """Return the same with every `old` in one file replaced; it must be there."""
        assert old in self.texts[name], f"{name} has no {old!r}"
        return House({**self.texts, name: self.texts[name].replace(old, new)})

    @cached_property
    def compose(self) -> Compose:
        """Return docker-compose.yml. Raises pydantic's ValidationError."""
        parts = yaml.safe_load(self.texts[COMPOSE])
        return Compose.model_validate({name: part for name, part in parts.items() if not name.startswith("x-")})

    @property
    def pins(self) -> dict[str, str]:
        """Return the version of each part of artifacts.toml: that of its first root."""
        return {
            name: part["roots"][0].split(":")[2].removesuffix(".Final")
            for name, part in tomllib.loads(self.texts[PINS]).items()
        }

    @property
    def lock(self) -> dict[str, str]:
        """Return the versions of requirements.lock."""
        return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", self.texts[LOCK], flags=re.MULTILINE))

    @property
    def project(self) -> dict[str, Any]:
        """Return the table [project] of pyproject.toml."""
        found: dict[str, Any] = tomllib.loads(self.texts[PROJECT])["project"]
        return found

    @property
    def properties(self) -> dict[str, str]:
        """Return connect.properties."""
        lines = [line for line in self.texts[PROPERTIES].splitlines() if line and not line.startswith("#")]
        return dict(cast("tuple[str, str]", tuple(line.split("=", 1))) for line in lines)

    @property
    def placeholders(self) -> set[str]:
        """Return the variables that the connector files leave to Connect."""
        files = [text for name, text in self.texts.items() if name.startswith("connectors/")]
        return {name for text in files for name in re.findall(r"\$\{env:(\w+)\}", text)}

    @property
    def commands(self) -> dict[str, Service]:
        """Return the services that run a command of downriver."""
        return {name: service for name, service in self.compose.services.items() if service.ours}


def settings_of(service: Service) -> Settings:
    """Build the settings of one container, as `downriver` in it would. Raises BadInput for what it would refuse."""
    secrets = {name: "x" if "${" in value else value for name, value in service.environment.items()}
    with patch.dict(os.environ, secrets | {PREFIX + "CONFIG": "none.toml"}, clear=True):
        return load.__wrapped__()


def local_context(data: Path = Path("data")) -> Context:
    """Return what the local stack's servers are built from: real pins and ports, downloads that bring nothing.

    Args:
        data: what a server that writes files takes for its folder.
    """
    home = SimpleNamespace(data=lambda *_, **__: data, folder=data, identity=None)
    depot = SimpleNamespace(unpack=lambda *_: Path("unpacked"), fetch=lambda *_: [])
    stack = Settings.model_construct().stack
    ports = {name: stack.port(name) for name in PORT_OFFSETS}
    capture = Capture(password="secret")  # noqa: S106 - else it would be read from the folder
    return Context(cast("Any", home), cast("Any", depot), pinned(), ports, capture)


def secrets_in(value: str) -> Iterator[str]:
    """Yield the variables that Compose fills in."""
    yield from re.findall(r"(?<!\$)\$\{(\w+)", value)
