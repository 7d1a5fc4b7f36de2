"""PostgreSQL servers of a test's own beside the shared stack: a primary, its standby, its backup, any of them at one address.

Small: a server takes some 40 MB. Kafka and Connect are the shared stack's, which reaches these by their port.
"""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg

from deploy.local import processes
from deploy.local.artifacts import Depot
from deploy.local.home import Home
from deploy.local.processes import Launch
from deploy.local.servers.base import Capture, Context
from deploy.local.servers.postgres import Postgres
from tests.support.lane import until

NAME = "postgres"


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@dataclass(frozen=True, slots=True)
class OwnPostgres:
    """One server, or the folder of one."""

    home: Home

    def start(self, port: int) -> None:
        """Start it there; a new folder becomes a new cluster. Returns when it answers."""
        server = self._server(port)
        self.home.make()
        processes.spawn(self.home, NAME, server.prepare(lambda _: None, lambda _: None), {NAME: port})
        until(server.healthy, f"PostgreSQL of {self.home.folder}: {processes.tail(self.home.log(NAME))}")

    def stop(self) -> None:
        """End it in order; a standby has everything then. Not running is no error."""
        processes.stop(self.home, NAME, 20, signal.SIGINT)

    def copy_to(self, other: OwnPostgres, port: int, *options: str) -> None:
        """Make a base backup of the server at `port` the other's data folder."""
        other.home.make()
        data = other.home.data(NAME, as_identity=True)
        programs = Path(self._server(port).prepare(lambda _: None, lambda _: None).command[0]).parent
        command = [
            *(str(programs / "pg_basebackup"), "--dbname", f"host=127.0.0.1 port={port} user=postgres dbname=postgres"),
            *("--pgdata", str(data), "--checkpoint", "fast", "--wal-method", "stream", "--no-sync", *options),
        ]
        done = processes.run(other.home, NAME, Launch(command, data, identity=other.home.identity))
        assert done.returncode == 0, done.stderr

    def configure(self, text: str) -> None:
        """Add lines to what ALTER SYSTEM would write; the next start reads them."""
        with (self.home.data(NAME, as_identity=True) / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.write(text)

    def _server(self, port: int) -> Postgres:
        return Postgres(Context(self.home, Depot(self.home.artifacts), {}, {NAME: port}, Capture()))


def ask(port: int, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement at the server there; return its rows."""
    with psycopg.connect(f"host=127.0.0.1 port={port} user=postgres dbname=postgres", autocommit=True) as connection:
        cursor = connection.execute(query.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def own_servers(folder: Path, *names: str) -> Iterator[list[OwnPostgres]]:
    """Give the folders of servers, none of them started; stops and removes them at the end."""
    made = [OwnPostgres(Home.at(folder / f"{name}-{token_hex(3)}")) for name in names]
    try:
        yield made
    finally:
        for server in made:
            server.stop()
            for path in {server.home.folder, server.home.open_folder}:
                shutil.rmtree(path, ignore_errors=True)
