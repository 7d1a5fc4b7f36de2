"""Kafka Connect with Debezium's PostgreSQL connector and the Avro converter."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.java import flags, java_home, log4j, properties
from deploy.local.processes import Launch
from deploy.local.servers.base import Context, Tell, answers

HEAP_MB = 768

CONVERTERS = ("io.apicurio.registry.utils.converter.AvroConverter",)

OVERRIDES = (
    "linger.ms",
    "batch.size",
    "buffer.memory",
    "compression.type",
    "max.request.size",
    "max.in.flight.requests.per.connection",
    "delivery.timeout.ms",
    "request.timeout.ms",
)
"""What a connector may override of its producer. Not the servers or the login: a connector's author could then send
records anywhere with the worker's rights (research/reliability.md)."""


@dataclass(frozen=True, slots=True)
class Connect:
    """The server `connect`."""

    context: Context
    name: str = "connect"
    ports: tuple[str, ...] = ("connect",)
    grace_s: float = 15.0

    @property
    def version(self) -> str:
        """The pinned versions of Connect and of Debezium."""
        pins = self.context.pins
        return f"{pins['connect'].version} (Debezium {pins['debezium'].version})"

    @property
    def address(self) -> str:
        """The base of the REST API."""
        return f"http://127.0.0.1:{self.context.ports['connect']}"

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Fetch the jars, lay out the plugin folder, write the configuration."""
        home, pins, depot = self.context.home, self.context.pins, self.context.depot
        data = home.data(self.name)
        jars = depot.fetch(pins["connect"].files, received)
        converter = depot.fetch(pins["converter"].files, received)
        (archive,) = pins["debezium"].files
        debezium = depot.unpack(archive, received)
        lay_out(data / "plugins" / "converter", converter)
        secrets = home.folder / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        config = properties(data / "connect.properties", self._config([debezium, data / "plugins"], secrets))
        logging = log4j(data, {"org.apache.kafka.clients": "warn", "org.apache.kafka.common.config": "warn"})
        command = [
            str(java_home(home) / "bin" / "java"),
            *flags(HEAP_MB),
            f"-Dlog4j2.configurationFile={logging}",
            *("-cp", os.pathsep.join(map(str, jars))),
            *("org.apache.kafka.connect.cli.ConnectDistributed", str(config)),
        ]
        return Launch(command, data, self._environment())

    def _environment(self) -> dict[str, str]:
        capture, ports = self.context.capture, self.context.ports
        return {
            "DOWNRIVER_POSTGRES_HOST": "127.0.0.1",
            "DOWNRIVER_POSTGRES_PORT": str(ports["postgres"]),
            "DOWNRIVER_POSTGRES_DATABASE": capture.database,
            "DOWNRIVER_CAPTURE_USER": capture.user,
            "DOWNRIVER_CAPTURE_PASSWORD": capture.password or self.context.home.secret("capture_password"),
            "DOWNRIVER_REGISTRY_URL": f"http://127.0.0.1:{ports['registry']}/apis/registry/v2",
        }

    def _config(self, plugins: list[Path], secrets: Path) -> dict[str, object]:
        ports = self.context.ports
        return {
            "bootstrap.servers": f"127.0.0.1:{ports['kafka']}",
            "group.id": "downriver_connect",
            "config.storage.topic": "downriver_connect_configs",
            "config.storage.replication.factor": 1,
            "offset.storage.topic": self.context.capture.offsets_topic,
            "offset.storage.replication.factor": 1,
            "offset.storage.partitions": 4,
            "status.storage.topic": "downriver_connect_status",
            "status.storage.replication.factor": 1,
            "status.storage.partitions": 2,
            "offset.flush.interval.ms": 1000,
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "listeners": f"http://127.0.0.1:{ports['connect']}",
            "rest.advertised.host.name": "127.0.0.1",
            "plugin.path": ",".join(map(str, plugins)),
            "plugin.discovery": "service_load",
            "topic.creation.enable": "true",
            "connector.client.config.override.policy": "Allowlist",
            "connector.client.config.override.allowlist": ",".join(OVERRIDES),
            "config.providers": "env,file",
            "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
            "config.providers.env.param.allowlist.pattern": "DOWNRIVER_.*",
            "config.providers.file.class": "org.apache.kafka.common.config.provider.FileConfigProvider",
            "config.providers.file.param.allowed.paths": secrets,
            "scheduled.rebalance.max.delay.ms": 0,
            "task.shutdown.graceful.timeout.ms": 5000,
            "producer.max.request.size": 16_777_216,
        }

    def healthy(self) -> bool:
        """Ask Connect's own health resource: 200 once it has joined its group and read its topics."""
        return answers(f"{self.address}/health", "healthy")


def lay_out(folder: Path, jars: list[Path]) -> None:
    """Link the converter's jars into a plugin folder, with the service manifest that they lack.

    With it Connect finds the converter by `plugin.discovery=service_load`; without it, it would have to scan every
    class of every plugin at each start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {jar.name: jar for jar in jars}
    for present in folder.iterdir():
        if present.name not in wanted or not present.exists():
            present.unlink()
    for name, jar in wanted.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(jar)
    with zipfile.ZipFile(folder / "manifest.jar", "w") as manifest:
        manifest.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", "\n".join(CONVERTERS) + "\n")
