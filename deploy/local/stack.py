"""The local stack: all servers of the pipeline on this machine, started together, found again, stopped together.

It starts no worker and makes no topic, table or index: it only runs servers. Every public method may be called from
any process at any time; those that change something hold the folder's lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypedDict

import psutil

from deploy.local import machine, processes
from deploy.local.artifacts import Depot, pinned
from deploy.local.home import Home
from deploy.local.progress import Progress, Silent
from deploy.local.servers import all_servers
from deploy.local.servers.base import Capture, Context, Server
from downriver.exits import BadInput, DownriverError
from downriver.settings import PORT_OFFSETS, Settings
from downriver.settings import Stack as StackSettings

HEALTH_INTERVAL_S = 0.2
LAST = "kafka"
"""Stopped after all others: Connect and the registry can't end well without it."""
NEEDS_KAFKA = frozenset({"registry", "connect"})


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


class Cancelled(BaseException):
    """The start was interrupted: raised in the threads that prepare and wait.

    No Exception, so that no library in between (a download, for one) takes it for a failure of its own.
    """


def capture_of(settings: Settings) -> Capture:
    """Return what Connect must know of the settings."""
    return Capture(
        settings.postgres.database,
        settings.postgres.capture_user,
        settings.postgres.capture_password.get_secret_value(),
        settings.connect.offsets_topic,
    )


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
            start = _Start(self, shown)
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
            failures = _Start(self, Silent()).run([server])
        if failures:
            msg = f"{name}: {failures[name]}"
            raise DownriverError(msg)

    def stop(self, name: str) -> None:
        """Stop one server."""
        server = self.server(name)
        with self._lock():
            processes.stop(self.home, name, server.grace_s)

    def down(self) -> None:
        """Stop every process of this folder's stack, whoever started it; Kafka last. Nothing running is no error."""
        with self._lock():
            others = [server for server in self.servers.values() if server.name != LAST]
            with ThreadPoolExecutor(len(others)) as pool:
                list(pool.map(lambda server: processes.stop(self.home, server.name, server.grace_s), others))
            processes.stop(self.home, LAST, self.servers[LAST].grace_s)
            left = processes.all_processes(self.home)
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


class _Start:
    """One start of some servers, all at once: a thread for each prepares, starts and waits."""

    def __init__(self, stack: Stack, progress: Progress) -> None:
        self._stack = stack
        self._home = stack.home
        self._progress = progress
        self._cancelled = threading.Event()
        self._failures: dict[str, str] = {}
        self._begun: list[Server] = []
        self._limit_s = stack._settings.start_timeout_s

    def run(self, servers: list[Server]) -> dict[str, str]:
        """Return why servers did not come up, by name; empty if all are healthy."""
        with ThreadPoolExecutor(len(servers), thread_name_prefix="start") as pool:
            futures = [pool.submit(self._one, server) for server in servers]
            try:
                while wait(futures, timeout=0.5).not_done:  # short, so that Ctrl-C is heard
                    pass
            except BaseException:
                self.undo()
                raise
        for future in futures:
            future.result()
        return dict(self._failures)

    def undo(self) -> None:
        """Stop what this start began; what ran before stays."""
        self._cancelled.set()
        for server in [*self._begun]:
            processes.stop(self._home, server.name, grace_s=3)

    def _one(self, server: Server) -> None:
        try:
            self._bring_up(server)
        except Cancelled:
            return
        except DownriverError as error:
            self._failures[server.name] = str(error)
            self._progress.failed(server.name, str(error))

    def _bring_up(self, server: Server) -> None:
        begun = time.monotonic()
        process: psutil.Popen | None = None
        if processes.main_process(self._home, server.name) is None:
            self._begun.append(server)
            self._progress.state(server.name, "preparing")
            launch = server.prepare(lambda text: self._tell(server, text), lambda size: self._received(server, size))
            self._stop_if_cancelled()
            self._progress.state(server.name, "starting")
            ports = {name: self._stack._ports[name] for name in server.ports}
            process = processes.spawn(self._home, server.name, launch, ports)
        while not server.healthy():
            self._stop_if_cancelled()
            self._check_alive(server, process, time.monotonic() - begun)
            self._cancelled.wait(HEALTH_INTERVAL_S)
        self._progress.state(server.name, f"healthy after {time.monotonic() - begun:.1f} s" if process else "healthy")

    def _check_alive(self, server: Server, process: psutil.Popen | None, waited_s: float) -> None:
        log = self._home.log(server.name)
        if process is not None and (code := process.poll()) is not None:
            msg = f"it ended with code {code} while starting. The end of {log}:\n{processes.tail(log)}"
            raise DownriverError(msg)
        if server.name in NEEDS_KAFKA and LAST in self._failures:
            raise DownriverError("it needs kafka, which did not come up.")
        if waited_s > self._limit_s:
            msg = (
                f"it does not answer after {waited_s:.0f} s. The end of {log}:\n{processes.tail(log)}\n"
                "A slow machine may need more: DOWNRIVER_STACK__START_TIMEOUT_S."
            )
            raise DownriverError(msg)

    def _tell(self, server: Server, text: str) -> None:
        self._stop_if_cancelled()
        self._progress.state(server.name, text)

    def _received(self, server: Server, size: int) -> None:
        self._stop_if_cancelled()
        self._progress.received(server.name, size)

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled
