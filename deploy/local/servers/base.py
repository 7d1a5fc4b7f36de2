"""What a server of the stack is: how it is prepared, started and asked for its health. The stack does the rest.

A server knows its own files and flags; it starts no process itself and knows nothing of the others but their ports.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from deploy.local.artifacts import Depot, Pinned
from deploy.local.home import Home
from deploy.local.processes import Launch

HEALTH_TIMEOUT_S = 2.0

Tell = Callable[[str], None]
"""Told, in a word or two, what a server is doing now."""


@dataclass(frozen=True, slots=True)
class Capture:
    """What Kafka Connect must know for our connectors: their files name these by ${env:DOWNRIVER_…}."""

    database: str = "shop"
    user: str = "downriver_capture"
    password: str = ""
    """Empty: the random one that the stack made for itself."""
    offsets_topic: str = "downriver_connect_offsets"


@dataclass(frozen=True, slots=True)
class Context:
    """All that a server is built from."""

    home: Home
    depot: Depot
    pins: dict[str, Pinned]
    ports: dict[str, int]
    capture: Capture


class Server(Protocol):
    """One server. The stack calls `prepare()`, starts what it returns, then asks `healthy()` until it is True."""

    @property
    def name(self) -> str:
        """Its name, as in `downriver stack logs NAME`."""

    @property
    def version(self) -> str:
        """The version that is pinned."""

    @property
    def ports(self) -> tuple[str, ...]:
        """The ports it opens, as named in downriver.settings.PORT_OFFSETS; the first is the one to talk to."""

    @property
    def address(self) -> str:
        """Where clients reach it."""

    @property
    def grace_s(self) -> float:
        """How long it gets to stop by itself."""

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Fetch, unpack, configure, initialise; return how to start it. May be called again at any time.

        Raises:
            DownriverError: it can't be prepared; the message says why.
        """

    def healthy(self) -> bool:
        """Ask the server itself, once, without waiting long."""


def answers(url: str, expected: str = "") -> bool:
    """Tell whether a GET is answered with status 200 and a body that contains `expected`.

    Proxies that the environment names are not used: everything is on loopback.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=HEALTH_TIMEOUT_S) as response:
            return response.status == 200 and expected in response.read(65_536).decode(errors="replace")
    except (OSError, ValueError, urllib.error.URLError):
        return False
