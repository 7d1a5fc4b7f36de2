"""Kafka: one KRaft node that is broker and controller, loopback only."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.java import flags, java_home, log4j, properties
from deploy.local.processes import Launch, run
from deploy.local.servers.base import HEALTH_TIMEOUT_S, Context, Tell
from downriver.exits import DownriverError

HEAP_MB = 640


@dataclass(frozen=True, slots=True)
class Kafka:
    """The server `kafka`."""

    context: Context
    name: str = "kafka"
    ports: tuple[str, ...] = ("kafka", "kafka-controller")
    grace_s: float = 20.0

    @property
    def version(self) -> str:
        """The pinned version."""
        return self.context.pins["kafka"].version

    @property
    def address(self) -> str:
        """The bootstrap address."""
        return f"127.0.0.1:{self.context.ports['kafka']}"

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Fetch the jars; format the log folder the first time."""
        home, ports = self.context.home, self.context.ports
        jars = self.context.depot.fetch(self.context.pins["kafka"].files, received)
        data = home.data(self.name)
        config = properties(data / "server.properties", self._config(str(data / "log"), ports))
        logging = log4j(data, {"org.apache.kafka": "info", "kafka": "info", "state.change.logger": "warn"})
        java = str(java_home(home) / "bin" / "java")
        base = [java, *flags(HEAP_MB), f"-Dlog4j2.configurationFile={logging}", "-cp", os.pathsep.join(map(str, jars))]
        if not (data / "log" / "meta.properties").exists():
            tell("formatting")
            # Made as Kafka makes its ids, 16 random bytes in URL-safe base64: a Java process less to wait for.
            identifier = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
            command = [*base, "kafka.tools.StorageTool", "format", f"--cluster-id={identifier}", "-c", str(config)]
            done = run(home, self.name, Launch(command, data))
            if done.returncode:
                msg = f"Kafka's StorageTool failed:\n{done.stdout}{done.stderr}"
                raise DownriverError(msg)
        return Launch([*base, "kafka.Kafka", str(config)], data)

    def _config(self, log_folder: str, ports: dict[str, int]) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{ports['kafka-controller']}",
            "listeners": f"PLAINTEXT://127.0.0.1:{ports['kafka']},CONTROLLER://127.0.0.1:{ports['kafka-controller']}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports['kafka']}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": log_folder,
            "auto.create.topics.enable": "false",
            "default.replication.factor": 1,
            "min.insync.replicas": 1,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 2,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "log.cleaner.dedupe.buffer.size": 33_554_432,
            "log.index.size.max.bytes": 1_048_576,
            "message.max.bytes": 16_777_216,
            "num.network.threads": 2,
            "num.io.threads": 4,
            # After a hard kill the node must wait for its own old session before it may register again (tried: 9 s).
            "broker.session.timeout.ms": 6000,
            "broker.heartbeat.interval.ms": 1000,
        }

    def healthy(self) -> bool:
        """Ask for the metadata of the cluster, as every client does first."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})
            return bool(admin.list_topics(timeout=HEALTH_TIMEOUT_S).brokers)
        except KafkaException:
            return False
