"""ClickHouse, the analytics store: the chdb engine behind the HTTP front of deploy.local.clickhouse."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.processes import Launch
from deploy.local.servers.base import Context, Tell, answers


@dataclass(frozen=True, slots=True)
class ClickHouse:
    """The server `clickhouse`."""

    context: Context
    name: str = "clickhouse"
    ports: tuple[str, ...] = ("clickhouse",)
    grace_s: float = 15.0

    @property
    def version(self) -> str:
        """The versions of chdb and of the engine in it."""
        return f"chdb {importlib.metadata.version('chdb')} (engine {importlib.metadata.version('chdb-core')})"

    @property
    def address(self) -> str:
        """The base of the HTTP interface."""
        return f"http://127.0.0.1:{self.context.ports['clickhouse']}"

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Nothing to prepare: the front is a module of this project, run by this Python."""
        data = self.context.home.data(self.name)
        command = [
            # -P: a file in the working folder must not be taken for a module
            *(sys.executable, "-P", "-m", "deploy.local.clickhouse"),
            *("--host", "127.0.0.1", "--port", str(self.context.ports["clickhouse"])),
            *("--path", str(data / "engine")),
        ]
        return Launch(command, data, {"PYTHONUNBUFFERED": "1"})

    def healthy(self) -> bool:
        """GET /ping."""
        return answers(f"{self.address}/ping", "Ok.")
