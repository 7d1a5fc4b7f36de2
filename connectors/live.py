"""Connectors as they are on Kafka Connect, found by name; what their settings leave out stands at Debezium's default.

The commands that operate connectors start here, so that they reach the same Connect in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches

from connectors.connect import ConnectClient, Live
from connectors.connector import POSTGRES_CONNECTOR, Connector, masked
from connectors.files import load
from connectors.overlays import meant as overlay_meant
from downriver import settings as settings_module
from downriver.exits import BadInput
from downriver.settings import Settings

DEFAULTS = {
    "slot.name": "debezium",
    "publication.name": "dbz_publication",
    "topic.prefix": "",
    "table.include.list": "",
}
"""What Debezium takes where a connector's settings don't say."""
PATIENCE_S = 30.0
"""A rebalance, or a start, of a small cluster is over by then."""


def in_use(context: str | None = None) -> Settings:
    """Return the settings of the environment that the command is for."""
    return settings_module.load(context)


def client(
    settings: Settings, patience_s: float = PATIENCE_S, tell: Callable[[str], None] = lambda _: None
) -> ConnectClient:
    """Return a client of that environment's Connect."""
    return ConnectClient(settings.connect, patience_s, tell)


def described(live: Live) -> Connector:
    """Return a live connector in the words of the files."""
    return Connector(live.name, DEFAULTS | dict(live.config), "Kafka Connect")


def captures(connector: Connector) -> bool:
    """Tell whether it is a Debezium connector for PostgreSQL: of others the source can't be watched."""
    return connector.config.get("connector.class") == POSTGRES_CONNECTOR


def named(client: ConnectClient, names: Sequence[str]) -> list[Live]:
    """Return the live connectors of these names, in their order.

    Raises:
        BadInput: Connect has none of a name; what it has is told.
    """
    there = client.connectors()
    if missing := [name for name in names if name not in there]:
        raise BadInput("\n".join(unknown(name, there) for name in missing))
    return [there[name] for name in names]


def unknown(name: str, there: Iterable[str]) -> str:
    """Say that Connect has no connector of that name, and which it has."""
    known = sorted(there)
    close = get_close_matches(name, known, 1)
    meant = f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(known) or 'none'}"
    return f"Kafka Connect has no connector {name!r}{meant}"


def wanted(settings: Settings) -> dict[str, Connector]:
    """Return the connectors of the default files as that environment wants them, by name."""
    return {connector.name: connector for connector in load(overlay=overlay_meant(settings, None, None))}


def shown(config: Mapping[str, str]) -> dict[str, str]:
    """Return the settings as they may be shown: a secret that is written out is masked."""
    return {key: masked(key, value) for key, value in sorted(config.items())}
