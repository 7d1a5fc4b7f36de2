"""The schema registry: Apicurio, with its schemas kept in Kafka; Confluent's API under /apis/ccompat/v7."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.java import flags, java_home
from deploy.local.processes import Launch
from deploy.local.servers.base import Context, Tell, answers

HEAP_MB = 384


@dataclass(frozen=True, slots=True)
class Registry:
    """The server `registry`."""

    context: Context
    name: str = "registry"
    ports: tuple[str, ...] = ("registry", "registry-management")
    grace_s: float = 10.0

    @property
    def version(self) -> str:
        """The pinned version."""
        return self.context.pins["registry"].version

    @property
    def address(self) -> str:
        """The base of the Confluent API."""
        return f"http://127.0.0.1:{self.context.ports['registry']}/apis/ccompat/v7"

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Unpack the application."""
        (archive,) = self.context.pins["registry"].files
        folder = self.context.depot.unpack(archive, received)
        ports = self.context.ports
        data = self.context.home.data(self.name)
        command = [
            str(java_home(self.context.home) / "bin" / "java"),
            *flags(HEAP_MB),
            "-XX:TieredStopAtLevel=1",  # it answers a few small requests: a quick start is worth more than speed
            "-Dquarkus.http.host=127.0.0.1",
            f"-Dquarkus.http.port={ports['registry']}",
            "-Dquarkus.management.host=127.0.0.1",
            f"-Dquarkus.management.port={ports['registry-management']}",
            "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
            *("-jar", str(folder / "quarkus-run.jar")),
        ]
        env = {
            "APICURIO_STORAGE_KIND": "kafkasql",
            "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": f"127.0.0.1:{ports['kafka']}",
        }
        return Launch(command, data, env)

    def healthy(self) -> bool:
        """Ask for the subjects: it must have read its topic for that."""
        return answers(f"{self.address}/subjects")
