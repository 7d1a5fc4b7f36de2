"""What the shop is called where PostgreSQL meets the connectors: tables by lane, the capture role, the publications.

The lanes repeat what processors.tables says, from the shop's side; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

LANES: dict[str, tuple[str, ...]] = {
    "inventory": ("inventory",),
    "catalog": ("products", "reviews"),
    "accounts": ("users", "addresses", "orders", "order_items", "payments"),
}
"""Lane → the tables that it carries. A lane has one connector, one slot and one publication."""

OUTBOX = "outbox"
"""The table of events. No lane carries it: its rows leave as events, by a connector, slot and publication of their own."""

EVENTS = "events"
"""Ends the name of that publication, as a lane does of its own."""

TABLES: tuple[str, ...] = (
    "users",
    "addresses",
    "products",
    "inventory",
    "reviews",
    "orders",
    "order_items",
    "payments",
    "outbox",
)
"""Every captured table, the outbox among them, parents before the tables that refer to them."""

HEARTBEAT = "downriver_heartbeat"
"""The table that the connectors' heartbeats write; published in every lane, one row each."""


@dataclass(frozen=True, slots=True)
class CaptureNames:
    """Names that are not the schema's own. Roles are cluster-wide: a test that shares a server takes names of its own.

    Attributes:
        role: what the connectors log in as.
        publication_prefix: in front of `_<lane>`. Debezium makes the slot of the same name by itself.
    """

    role: str = "downriver_capture"
    publication_prefix: str = "downriver"

    def publication(self, lane: str) -> str:
        """Return the name of the lane's publication."""
        return f"{self.publication_prefix}_{lane}"
