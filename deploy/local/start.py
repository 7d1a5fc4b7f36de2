"""One start of some servers, all at once: prepares, starts, waits for the health of each, and can undo itself.

It checks nothing beforehand and takes no lock: deploy.local.stack does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait

import psutil

from deploy.local import processes
from deploy.local.home import Home
from deploy.local.progress import Progress
from deploy.local.servers.base import Server
from downriver.exits import DownriverError

HEALTH_INTERVAL_S = 0.2
LAST = "kafka"
"""Stopped after all others: Connect and the registry can't end well without it."""
NEEDS_KAFKA = frozenset({"registry", "connect"})


class Cancelled(BaseException):
    """The start was interrupted: raised in the threads that prepare and wait.

    No Exception, so that no library in between (a download, for one) takes it for a failure of its own.
    """


class Start:
    """One start of some servers, all at once: a thread for each prepares, starts and waits."""

    def __init__(self, home: Home, ports: Mapping[str, int], limit_s: float, progress: Progress) -> None:
        self._home = home
        self._ports = ports
        self._limit_s = limit_s
        self._progress = progress
        self._cancelled = threading.Event()
        self._failures: dict[str, str] = {}
        self._begun: list[Server] = []

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
            ports = {name: self._ports[name] for name in server.ports}
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
