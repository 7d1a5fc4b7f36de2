"""Processes of a stack: start them so that they outlive us, find them again whatever happened, stop them.

A process is known by the mark in its environment (which its children inherit), and by its run file: process id and
start time together, since ids are used again. Only processes of this stack's folder are ever touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deploy.local.home import Home, Identity

MARK = "STACK_OF_DOWNRIVER"
"""In the environment of every process of a stack: its folder. Not DOWNRIVER_…: those are settings, and checked."""
SERVER_MARK = "SERVER_OF_DOWNRIVER"
"""Beside it: the server's name."""

INHERITED = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""All that servers get of our own environment: JAVA_TOOL_OPTIONS, PGDATA, LC_ALL, TZ and others would change them."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one process."""

    command: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    identity: Identity | None = None


def environment(home: Home, server: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a process of `server`: the same whatever shell started the stack."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {
        **inherited,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "HOME": str(home.folder),
        MARK: str(home.folder),
        SERVER_MARK: server,
        **extra,
    }


def identity_arguments(identity: Identity | None) -> dict[str, Any]:
    """Return what subprocess needs to run as `identity`."""
    if identity is None:
        return {}
    return {"user": identity.uid, "group": identity.gid, "extra_groups": []}


def run(home: Home, server: str, launch: Launch) -> subprocess.CompletedProcess[str]:
    """Run a preparing command of a server (initdb, format) to its end; its output is captured as text."""
    return subprocess.run(
        launch.command,
        cwd=launch.cwd,
        env=environment(home, server, launch.env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        start_new_session=True,
        check=False,
        **identity_arguments(launch.identity),
    )


def spawn(home: Home, server: str, launch: Launch, ports: Mapping[str, int]) -> psutil.Popen:
    """Start a server in a session of its own, its output in its log file, and write its run file.

    The log of the start before is kept beside it, as NAME.previous.log.
    """
    log = home.log(server)
    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    with log.open("ab") as output:
        process = psutil.Popen(
            list(launch.command),
            cwd=launch.cwd,
            env=environment(home, server, launch.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **identity_arguments(launch.identity),
        )
    created = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):  # died at once: whoever waits for its health tells why
        created = process.create_time()
    noted = {"pid": process.pid, "created": created, "ports": dict(ports)}
    home.run_file(server).write_text(json.dumps(noted), encoding="utf-8")
    return process


def main_process(home: Home, server: str) -> psutil.Process | None:
    """Return the running process that the run file of `server` names, if it is still the same one."""
    try:
        noted = json.loads(home.run_file(server).read_text(encoding="utf-8"))
        process = psutil.Process(noted["pid"])
        if abs(process.create_time() - noted["created"]) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (OSError, ValueError, TypeError, KeyError, psutil.Error):
        return None  # no file, a file cut short by a hard kill, or no such process any more: not running
    return None


def noted_ports(home: Home, server: str) -> dict[str, int]:
    """Return the ports that the run file of `server` says it was started on; empty if there is none."""
    try:
        noted = json.loads(home.run_file(server).read_text(encoding="utf-8"))
        return {name: int(port) for name, port in noted["ports"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def all_processes(home: Home, server: str | None = None) -> list[psutil.Process]:
    """Return the stack's living processes, or those of one server: by mark, and by run file with all descendants.

    PostgreSQL writes its title over its environment, so its postmaster is found by its run file or its data folder.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["environ", "name", "cwd", "status"]):
        info = process.info
        env = info["environ"] or {}
        if info["status"] == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
            continue
        marked = env.get(MARK) == str(home.folder) and server in (None, env.get(SERVER_MARK))
        is_postgres = server in (None, "postgres") and info["name"] == "postgres"
        if marked or (is_postgres and info["cwd"] == str(home.open_folder / "data" / "postgres")):
            found[process.pid] = process
    names = [server] if server else [path.stem for path in (home.folder / "run").glob("*.json")]
    for name in names:
        if (main := main_process(home, name)) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {one.pid: one for one in (main, *main.children(recursive=True))}
    return list(found.values())


def marked(home: Home) -> set[str]:
    """Return the names (SERVER_MARK) of all living processes that carry the mark of this stack."""
    names = set()
    for process in psutil.process_iter(["environ", "status"]):
        env = process.info["environ"] or {}
        if env.get(MARK) == str(home.folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
            names.add(env.get(SERVER_MARK, ""))
    return names - {""}


def stop(home: Home, server: str, grace_s: float, first: signal.Signals = signal.SIGTERM) -> None:
    """Stop all processes of one server: politely, and hard once `grace_s` seconds are over. Returns when none is left."""
    processes = all_processes(home, server)
    main = main_process(home, server)
    _signal(processes, signal.SIGCONT)  # one that was paused would not hear the rest
    # Children end by themselves when their parent does; only one without a parent of ours is asked directly.
    ids = {process.pid for process in processes}
    _signal([one for one in processes if one == main or _parent(one) not in ids], first)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    deadline = time.monotonic() + 10
    while alive and time.monotonic() < deadline:
        _signal(alive, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=2)
        alive = all_processes(home, server)
    home.run_file(server).unlink(missing_ok=True)


def end(found: Sequence[psutil.Process], grace_s: float) -> list[psutil.Process]:
    """Stop processes that belong to no server of the stack, hard once `grace_s` seconds are over; return what is left."""
    _signal(found, signal.SIGTERM)
    _, alive = psutil.wait_procs(found, timeout=grace_s)
    _signal(alive, signal.SIGKILL)
    return list(psutil.wait_procs(alive, timeout=5)[1])


def _parent(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.NoSuchProcess:
        return None


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def memory_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the memory of the processes together, in bytes; pages that several share are counted once (PSS)."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def tail(path: Path, lines: int = 30) -> str:
    """Return the last lines of a log file, or a word that there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
