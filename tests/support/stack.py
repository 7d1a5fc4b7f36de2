"""The local stack for tests: one for the session, and the ways to break one of its servers on purpose.

`DOWNRIVER_TEST_REUSE=1` uses the stack that already runs at the settings' addresses; else a stack of its own is started
in `.downriver-test`, on free ports, with the archives that the default stack has unpacked already.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local import machine, processes
from deploy.local.progress import Shown
from deploy.local.stack import Stack, capture_of
from downriver import settings as settings_module
from downriver.settings import PORT_OFFSETS, Settings

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDER = CHECKOUT / ".downriver-test"
ARTIFACTS = CHECKOUT / ".downriver" / "artifacts"
FIRST_PORT, LAST_PORT, STEP = 21_000, 28_000, 20
"""Below the ports that the system hands out to outgoing connections."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that is up, and what processes must have in their environment to use it."""

    stack: Stack
    settings: Settings
    environment: dict[str, str]

    def pids(self, name: str) -> list[psutil.Process]:
        """Return the processes of one server."""
        self.stack.server(name)
        return processes.all_processes(self.stack.home, name)

    def pause(self, name: str) -> None:
        """Freeze a server: its connections stay open, and nothing answers."""
        for process in self.pids(name):
            process.send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused server go on."""
        for process in self.pids(name):
            process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Freeze a server for the length of a block."""
        self.pause(name)
        try:
            yield
        finally:
            self.resume(name)

    def kill(self, name: str) -> None:
        """End a server the hard way, as a power cut would, and return when it is gone."""
        victims = self.pids(name)
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(victims, timeout=10)

    def stop(self, name: str) -> None:
        """End a server politely."""
        self.stack.stop(name)

    def start(self, name: str) -> None:
        """Start a server that was stopped or killed; return when it is healthy."""
        self.stack.start(name)

    def heal(self) -> None:
        """Undo whatever a test did: resume what is paused, start what is gone."""
        for name in self.stack.servers:
            self.resume(name)
        self.stack.up()


def reused() -> bool:
    """Tell whether tests use the stack that runs already."""
    return os.environ.get("DOWNRIVER_TEST_REUSE") == "1"


def free_port_base() -> int:
    """Return the first of a block of ports of which none is taken."""
    for base in range(FIRST_PORT, LAST_PORT, STEP):
        if not any(machine.taken(base + offset) for offset in PORT_OFFSETS.values()):
            return base
    msg = f"No block of {len(PORT_OFFSETS)} free ports between {FIRST_PORT} and {LAST_PORT}."
    raise RuntimeError(msg)


@contextlib.contextmanager
def running_stack() -> Iterator[RunningStack]:
    """Give the stack of this session; stop it at the end if it was started here.

    The environment of this process names the stack for the length of the block, so that `settings.load()` and every
    process that a test starts mean the same one.
    """
    if reused():
        settings = settings_module.load()
        yield RunningStack(Stack(settings.stack, capture_of(settings)), settings, {})
        return
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "session.lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"Another test session uses {FOLDER}: wait for it."
            raise RuntimeError(msg) from None
        environment = {
            "DOWNRIVER_STACK__FOLDER": str(FOLDER),
            "DOWNRIVER_STACK__PORT_BASE": str(free_port_base()),
            "DOWNRIVER_CONFIG": os.devnull,
        }
        with _environment(environment):
            settings = settings_module.load()
            stack = Stack(settings.stack, capture_of(settings), artifacts=ARTIFACTS)
            try:
                stack.reset()  # what a session that was killed left behind
                with Shown() as progress:
                    stack.up(progress)
                yield RunningStack(stack, settings, environment)
            finally:
                stack.down()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    settings_module.load.cache_clear()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        settings_module.load.cache_clear()
