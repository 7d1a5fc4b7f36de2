"""The process: `python -m deploy.local.clickhouse --host 127.0.0.1 --port 29109 --path .downriver/clickhouse`.

One process a path, loopback only, ends cleanly on SIGTERM. It prints its address when it listens.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer
import uvicorn

from downriver.exits import BadInput, DownriverError
from downriver.output import say


def serve(
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free port, printed at start.")] = 29109,
    path: Annotated[Path, typer.Option(help="The data folder; made if it is not there.")] = Path(
        ".downriver/clickhouse"
    ),
) -> None:
    """Serve the chdb engine as ClickHouse's HTTP interface. For development: no users, no passwords, loopback only."""
    try:
        check_host(host)
        path = check_path(path)
        lock = lock_folder(path)
        listener = listen(host, port)
    except DownriverError as error:
        say(str(error))
        raise typer.Exit(error.exit_code) from None
    with lock, listener:
        _serve(path, listener)


def check_host(host: str) -> None:
    """Refuse any address that another machine could reach."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        msg = (
            f"--host {host} is not a loopback address: the local ClickHouse knows no users and no passwords, so it listens "
            "on 127.0.0.1 only. For other machines run a ClickHouse server."
        )
        raise BadInput(msg)


def check_path(path: Path) -> Path:
    """Return the folder's absolute path, made if needed; chdb reads `?` in it as the start of its options."""
    path = path.absolute()
    if "?" in str(path):
        msg = f"--path {path}: chdb can't use a folder with a question mark in its path"
        raise BadInput(msg)
    path.mkdir(parents=True, exist_ok=True)
    return path


def lock_folder(path: Path) -> TextIO:
    """Take the folder for this process; the lock goes with it, however it ends.

    Raises:
        BadInput: another process has it; named with its pid.
    """
    file = (path / "front.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        msg = f"{path} is served by another process (pid {file.read().strip() or 'unknown'}): stop it, or use another --path"
        file.close()
        raise BadInput(msg) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket.

    Raises:
        BadInput: the port is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        msg = f"can't listen on {host}:{port}: {error.strerror or error}"
        raise BadInput(msg) from None
    # inherited by every connection; asyncio sets it only on sockets that name their protocol, and without it each
    # answer waits 40 ms for the client's delayed acknowledgement
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Server(uvicorn.Server):
    """Uvicorn, silent about answers that its end cuts off: who reads them loses the server anyway."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let what runs end, cut off what takes too long."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def _serve(path: Path, listener: socket.socket) -> None:
    from deploy.local.clickhouse.engine import Engine
    from deploy.local.clickhouse.http import application

    engine = Engine(path)
    config = uvicorn.Config(
        application(engine),
        log_level="warning",
        access_log=False,
        timeout_keep_alive=3600,  # a pooled connection that the server closes loses the insert that is just being sent
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=2**20,  # statements may come in the URL
    )
    server = Server(config)

    def stop(_number: int, _frame: object) -> None:
        """Uvicorn has handlers of its own while it runs; this one is for before, and for when it raises the signal again."""
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    host, port = listener.getsockname()[:2]
    sys.stdout.write(f"ClickHouse {engine.version} (chdb) at http://{host}:{port}, data in {path}\n")
    sys.stdout.flush()
    try:
        server.run(sockets=[listener])
    finally:
        engine.close()


if __name__ == "__main__":
    typer.run(serve)
