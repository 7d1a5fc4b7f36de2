"""What the machine must offer before the stack starts: free disk, free memory, free ports. It changes nothing."""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
from pathlib import Path

import psutil

GIB = 2**30
DISK_NEEDED = 4 * GIB
MEMORY_NEEDED = 4 * GIB
"""What all servers together hold after a start, with room for a small load."""

CGROUP = Path("/sys/fs/cgroup")


def shortages(folder: Path, memory_needed: int = MEMORY_NEEDED) -> list[str]:
    """Return a sentence, with figures, for everything of which the machine has too little."""
    found = []
    free = shutil.disk_usage(folder).free
    if free < DISK_NEEDED:
        found.append(
            f"disk: {free / GIB:.1f} GiB are free at {folder}, {DISK_NEEDED / GIB:.0f} GiB are needed. "
            "Free some, or move the folder (DOWNRIVER_STACK__FOLDER)."
        )
    available = available_memory()
    if available < memory_needed:
        found.append(
            f"memory: {available / GIB:.1f} GiB are available, {memory_needed / GIB:.1f} GiB are needed. "
            "Stop other programs first."
        )
    return found


def available_memory(cgroup: Path = CGROUP) -> int:
    """Return the bytes of memory that can still be used: the machine's, or what a container's limit leaves."""
    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no limit is the word "max"; no cgroup v2 is no file
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text(encoding="ascii").splitlines())
        available = min(available, limit - used + int(statistics.get("inactive_file", 0)))
    return available


def taken(port: int) -> str | None:
    """Tell who listens on a loopback port ("pid 12, postgres"), or return None if it is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that lingers does not matter
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return _owner(port)
    return None


def _owner(port: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.pid:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(connection.pid)
                return f"pid {process.pid}, {process.name()}"
    return "a process of another user"
