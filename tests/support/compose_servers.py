"""Holds each server of docker-compose.yml against the one that `downriver stack` starts: options, health, memory.

The local stack's own classes are asked what they would start; addresses and folders differ, nothing else may.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from unittest.mock import patch
from urllib.parse import urlsplit

import yaml

from deploy.local.servers import clickhouse, connect, elasticsearch, kafka, postgres, redis, registry
from tests.support.compose import House, Service, local_context, settings_of


def different(name: str, here: Mapping[str, object], local: Mapping[str, object], places: set[str]) -> Iterator[str]:
    """Yield what differs but for `places`, the options that say where a server listens and writes."""
    for option in sorted((here.keys() | local.keys()) - places):
        ours, theirs = here.get(option), local.get(option)
        if str(ours) != str(theirs):
            yield f"{name}: {option} is {ours!r}, the local stack's is {theirs!r}"


def of_postgres(house: House) -> Iterator[str]:
    """Compare the options and those of initdb."""
    service = house.compose.services["postgres"]
    here = dict(re.findall(r"^-c(\w+)=(.*)$", "\n".join(service.command), re.MULTILINE))
    local = dict(re.findall(r"^(\w+) = '?(.*?)'?$", postgres.CONFIG, re.MULTILINE))
    yield from different("postgres", here, local, {"listen_addresses", "port", "unix_socket_directories"})
    given = dict(option.split("=") for option in service.environment["POSTGRES_INITDB_ARGS"].split())
    places = {"--pgdata", "--username", "--auth"}
    yield from different("postgres: initdb", given, _initdb(), places)


def _initdb() -> dict[str, str]:
    """Return the options with which the local stack initialises a new folder."""
    with (
        TemporaryDirectory() as folder,
        patch.object(postgres, "run", return_value=SimpleNamespace(returncode=0)) as run,
        patch.object(postgres.Postgres, "_programs", return_value=Path("programs")),
    ):
        postgres.Postgres(local_context(Path(folder))).prepare(lambda _: None, lambda _: None)
    command = [option for option in run.call_args.args[2].command if option not in {"--no-sync", "--no-instructions"}]
    return _pairs(command)


def of_kafka(house: House) -> Iterator[str]:
    """Compare the options, and hold the three listeners together."""
    service = house.compose.services["kafka"]
    variables = {name: value for name, value in service.environment.items() if name != "KAFKA_HEAP_OPTS"}
    context = local_context()
    local = {_variable(name): value for name, value in kafka.Kafka(context)._config("log", context.ports).items()}
    listeners = ("LISTENERS", "ADVERTISED_LISTENERS", "LISTENER_SECURITY_PROTOCOL_MAP", "CONTROLLER_QUORUM_VOTERS")
    places = {f"KAFKA_{name}" for name in (*listeners, "LOG_DIRS")}
    yield from different("kafka", variables, local, places)
    if f"-Xmx{kafka.HEAP_MB}m" not in service.environment.get("KAFKA_HEAP_OPTS", ""):
        yield f"kafka: its heap is not the local stack's {kafka.HEAP_MB} MiB"
    inner = re.findall(r"(\w+)://[^,:]*:(\d+)", variables["KAFKA_LISTENERS"])
    outer = re.findall(r"(\w+)://([^,:]*):(\d+)", variables["KAFKA_ADVERTISED_LISTENERS"])
    ((_, outside, inside),) = service.published
    if dict(inner).get("HOST") != str(inside) or ("HOST", "127.0.0.1", str(outside.start)) not in outer:
        yield f"kafka: HOST must listen on {inside} and send clients to 127.0.0.1:{outside.start}"
    if variables["KAFKA_CONTROLLER_QUORUM_VOTERS"] != f"1@localhost:{dict(inner)['CONTROLLER']}":
        yield "kafka: the voter is not the controller's listener"
    if service.volumes != [f"kafka:{variables['KAFKA_LOG_DIRS']}"]:
        yield f"kafka: {variables['KAFKA_LOG_DIRS']} is not kept in its volume"


def _variable(option: str) -> str:
    return "KAFKA_" + option.replace(".", "_").upper()


def of_registry(house: House) -> Iterator[str]:
    """Compare where it keeps its schemas, and its memory."""
    service = house.compose.services["registry"]
    local = registry.Registry(local_context()).prepare(lambda _: None, lambda _: None).env
    here = {name: value for name, value in service.environment.items() if name != "JAVA_TOOL_OPTIONS"}
    yield from different("registry", here, local, {"APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"})
    if here.get("APICURIO_KAFKASQL_BOOTSTRAP_SERVERS") != "kafka:9092":
        yield "registry: keeps its schemas in another Kafka"
    if service.environment.get("JAVA_TOOL_OPTIONS") != f"-Xmx{registry.HEAP_MB}m":
        yield f"registry: its heap is not the local stack's {registry.HEAP_MB} MiB"


def of_connect(house: House) -> Iterator[str]:
    """Compare the worker's properties, and hold its environment against the placeholders of the connector files."""
    local = connect.Connect(local_context())
    places = {"bootstrap.servers", "listeners", "rest.advertised.host.name", "plugin.path"}
    places |= {"config.providers.file.param.allowed.paths"}
    properties = house.properties
    config = local._config([], local.context.home.folder)
    yield from different("connect.properties", properties, config, places)
    service = house.compose.services["connect"]
    ((_, _, inside),) = service.published
    here = {name: properties.get(name) for name in places}
    wanted = {
        "bootstrap.servers": "kafka:9092",
        "listeners": f"http://0.0.0.0:{inside}",
        "rest.advertised.host.name": "connect",
        "plugin.path": "/opt/connect/plugins",
        "config.providers.file.param.allowed.paths": "/opt/connect/secrets",
    }
    yield from different("connect.properties", here, wanted, set())
    yield from different(
        "connect", dict.fromkeys(service.environment, ""), dict.fromkeys(house.placeholders, ""), set()
    )
    yield from different("connect", service.environment, _told(house, local._environment()), set())


def _told(house: House, local: Mapping[str, str]) -> dict[str, str]:
    """Return what Connect must be told: the names of the local stack's, the values of the settings that apply them."""
    applies = next(service for service in house.commands.values() if service.ours == ["connectors", "apply"])
    settings = settings_of(applies)
    values = {
        "DOWNRIVER_POSTGRES_HOST": settings.postgres.host,
        "DOWNRIVER_POSTGRES_PORT": str(settings.postgres.port),
        "DOWNRIVER_POSTGRES_DATABASE": settings.postgres.database,
        "DOWNRIVER_CAPTURE_USER": settings.postgres.capture_user,
        "DOWNRIVER_CAPTURE_PASSWORD": applies.environment["DOWNRIVER_POSTGRES__CAPTURE_PASSWORD"],
        "DOWNRIVER_REGISTRY_URL": settings.registry.native_url,
    }
    return {name: values.get(name, "a setting that compose_servers.py does not know") for name in local}


def of_redis(house: House) -> Iterator[str]:
    """Compare the options: it persists nothing and evicts by least use."""
    local = _pairs(redis.Redis(local_context()).prepare(lambda _: None, lambda _: None).command)
    here = _pairs(house.compose.services["redis"].command)
    yield from different("redis", here, local, {"--bind", "--port", "--daemonize", "--set-proc-title", "--requirepass"})


def _pairs(command: Sequence[str]) -> dict[str, str]:
    _, *options = command
    return dict(zip(options[::2], options[1::2], strict=True))


def of_elasticsearch(house: House) -> Iterator[str]:
    """Compare the options; unlike the local one it wants a login."""
    service = house.compose.services["elasticsearch"]
    text = elasticsearch.CONFIG.format(port=1, transport=1, data="data", logs="logs")
    local = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in yaml.safe_load(text).items()
    }
    here = {name: value for name, value in service.environment.items() if not name.isupper()}
    places = {"network.host", "http.port", "transport.port", "path.data", "path.logs"}
    yield from different(
        "elasticsearch", here, local, places | {"xpack.security.enabled", "xpack.security.http.ssl.enabled"}
    )
    if here.get("xpack.security.enabled") != "true":
        yield "elasticsearch: is open to every container"
    if service.environment.get("ES_JAVA_OPTS") != f"-Xms{elasticsearch.HEAP_MB}m -Xmx{elasticsearch.HEAP_MB}m":
        yield f"elasticsearch: its heap is not the local stack's {elasticsearch.HEAP_MB} MiB"


ASKED: tuple[tuple[ModuleType, str, type], ...] = (
    (registry, "registry", registry.Registry),
    (connect, "connect", connect.Connect),
    (elasticsearch, "elasticsearch", elasticsearch.Elasticsearch),
    (clickhouse, "clickhouse", clickhouse.ClickHouse),
)


def of_health(house: House) -> Iterator[str]:
    """Want each health check to ask what the local stack asks, and to expect the same words."""
    for module, name, server in ASKED:
        with patch.object(module, "answers") as answers:
            server(local_context()).healthy()
        url, *expected = answers.call_args.args
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        service = house.compose.services[name]
        test = _test(service)
        if f"127.0.0.1:{service.published[0][2]}{path}" not in test:
            yield f"{name}: is asked for its health by {test!r}; the local stack asks {path}"
        if name in {"elasticsearch", "clickhouse"} and f"grep -q '{expected[0]}'" not in test:
            yield f"{name}: its answer is not held against {expected[0]!r}"
    for name, words in {"postgres": "pg_isready", "kafka": "kafka-broker-api-versions.sh", "redis": "PING"}.items():
        if words not in _test(house.compose.services[name]):
            yield f"{name}: is not asked for its health by {words}"


def _test(service: Service) -> str:
    return " ".join(service.healthcheck.test) if service.healthcheck else ""
