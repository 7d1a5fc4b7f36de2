"""The local stack: all servers of the pipeline on this machine, started together, found again, stopped together.

It starts no worker and makes no topic, table or index: it only runs servers. Every public method may be called from
any process at any time; those that change something hold the folder's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from deploy.local import machine, processes
from deploy.local.artifacts import Depot, pinned
from deploy.local.home import Home
from deploy.local.progress import Progress, Silent
from deploy.local.servers import all_servers
from deploy.local.servers.base import Capture, Context, Server
from deploy.local.start import LAST, Start
from downriver.exits import BadInput, DownriverError
from downriver.settings import PORT_OFFSETS, Settings
from downriver.settings import Stack as StackSettings


class Record(TypedDict):
    """What `status` says of one server. health: healthy, unhealthy (it runs and does not answer) or stopped."""

    name: str
    version: str
    address: str
    pid: int | None
    health: str
    rss_mb: int
    """Its memory in MiB, over all its processes; pages they share are counted once."""
    log: str


def capture_of(settings: Settings) -> Capture:
    """Return what Connect must know of the settings."""
    return Capture(
        settings.postgres.database,
        settings.postgres.capture_user,
        settings.postgres.capture_password.get_secret_value(),
        settings.connect.offsets_topic,
    )


WORKER_GRACE_S = 15.0


class Stack:
    """The stack in one folder.

    Args:
        settings: folder, ports, time-out.
        capture: what Connect tells our connectors (`capture_of(settings)`); the defaults are those of the settings.
        artifacts: where archives are unpacked, to share them between stacks; default: in the folder.
    """

    def __init__(
        self, settings: StackSettings, capture: Capture | None = None, *, artifacts: Path | None = None
    ) -> None:
        self.home = Home.at(settings.folder, artifacts)
        self._settings = settings
        self._depot = Depot(self.home.artifacts)
        self._ports = {name: settings.port(name) for name in PORT_OFFSETS}
        self._capture = capture or Capture()
        self.servers: dict[str, Server] = {
            server.name: server
            for server in all_servers(Context(self.home, self._depot, pinned(), self._ports, self._capture))
        }

    def capture_password(self) -> str:
        """Return the password of the capture role: the one from the settings, or the stack's own random one."""
        return self._capture.password or self.home.secret("capture_password")

    def server(self, name: str) -> Server:
        """Return a server by name. Raises BadInput for a name it does not know."""
        try:
            return self.servers[name]
        except KeyError:
            msg = f"No server is named {name!r}; there are: {', '.join(self.servers)}."
            raise BadInput(msg) from None

    def up(self, progress: Progress | None = None) -> list[Record]:
        """Start what does not run, and return when every server answers its own health check.

        Raises:
            BadInput: nothing was started: too little disk or memory, a taken port, or another command is at work.
            DownriverError: a server did not come up; the others run. Its message holds the end of the log.
        """
        shown = progress or Silent()
        with self._lock():
            self._check(list(self.servers.values()))
            start = self._begin(shown)
            try:
                failures = start.run(list(self.servers.values()))
            except BaseException:
                start.undo()
                raise
        if failures:
            reasons = failures if progress is None else {name: text.splitlines()[0] for name, text in failures.items()}
            raise DownriverError(
                "\n".join(f"{name}: {reason}" for name, reason in reasons.items())
                + "\nThe other servers run. `downriver stack up` tries again, `downriver stack down` stops them."
            )
        return self.status()

    def start(self, name: str) -> None:
        """Start one server and wait until it is healthy."""
        server = self.server(name)
        with self._lock():
            self._check([server])
            failures = self._begin(Silent()).run([server])
        if failures:
            msg = f"{name}: {failures[name]}"
            raise DownriverError(msg)

    def stop(self, name: str) -> None:
        """Stop one server."""
        server = self.server(name)
        with self._lock():
            processes.stop(self.home, name, server.grace_s)

    def down(self) -> None:
        """Stop every process of this folder's stack, whoever started it; Kafka last. Nothing running is no error.

        Workers that a demo left running carry the stack's mark too: they go first, while there is something to commit to.
        """
        with self._lock():
            for name in processes.marked(self.home) - self.servers.keys():
                processes.stop(self.home, name, WORKER_GRACE_S)
            others = [server for server in self.servers.values() if server.name != LAST]
            with ThreadPoolExecutor(len(others)) as pool:
                list(pool.map(lambda server: processes.stop(self.home, server.name, server.grace_s), others))
            processes.stop(self.home, LAST, self.servers[LAST].grace_s)
            left = processes.end(processes.all_processes(self.home), WORKER_GRACE_S)
            if left:
                told = ", ".join(str(process.pid) for process in left)
                msg = f"These processes of the stack did not end: {told}."
                raise DownriverError(msg)

    def reset(self) -> None:
        """Stop everything and delete data, logs and secrets. Downloaded and unpacked artifacts stay."""
        self.down()
        with self._lock():
            self.home.remove_data()

    def status(self) -> list[Record]:
        """Ask every server, all at once. Starts and changes nothing."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            return list(pool.map(self._record, self.servers.values()))

    def _begin(self, progress: Progress) -> Start:
        return Start(self.home, self._ports, self._settings.start_timeout_s, progress)

    def _record(self, server: Server) -> Record:
        main = processes.main_process(self.home, server.name)
        members = processes.all_processes(self.home, server.name) if main else []
        health = "stopped" if main is None else "healthy" if server.healthy() else "unhealthy"
        return Record(
            name=server.name,
            version=server.version,
            address=server.address,
            pid=main.pid if main else None,
            health=health,
            rss_mb=round(processes.memory_bytes(members) / 2**20),
            log=str(self.home.log(server.name)),
        )

    def _check(self, servers: list[Server]) -> None:
        """Refuse to start what can't work, before anything starts."""
        missing = [server for server in servers if processes.main_process(self.home, server.name) is None]
        for server in servers:
            bases = {port - PORT_OFFSETS[name] for name, port in processes.noted_ports(self.home, server.name).items()}
            if server not in missing and (other := bases - {self._settings.port_base}):
                msg = (
                    f"{server.name} runs already, with the port base {min(other)}; the settings say "
                    f"{self._settings.port_base}. First `downriver stack down`."
                )
                raise BadInput(msg)
        for server in missing:  # what a hard kill left of a server whose main process is gone
            processes.stop(self.home, server.name, server.grace_s)
        problems = []
        if missing:
            problems = machine.shortages(self.home.folder, machine.MEMORY_NEEDED * len(missing) // len(self.servers))
        for server in missing:
            for name in server.ports:
                if owner := machine.taken(self._ports[name]):
                    problems.append(
                        f"port {self._ports[name]} ({name}) is taken by {owner}. "
                        "Stop it, or move the ports (DOWNRIVER_STACK__PORT_BASE)."
                    )
        if problems:
            raise BadInput("The stack can't start:\n" + "\n".join(f"  {problem}" for problem in problems))

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the folder: one command at a time changes the stack. The lock ends with the process, however it ends."""
        self.home.make()
        with (self.home.folder / "lock").open("a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                msg = (
                    f"Another `downriver stack` command (pid {file.read().strip() or '?'}) works on "
                    f"{self.home.folder}: wait for it, or stop it."
                )
                raise BadInput(msg) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
