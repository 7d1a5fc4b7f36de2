"""Cleans outboxes again and again, in one process that stays. What goes wrong for a while is told, and tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from connectors.clean import Cleaned, clean
from connectors.connector import Connector
from downriver.exits import BadInput, DownriverError
from downriver.settings import Settings


class Metrics:
    """What the cleaner serves to Prometheus: alert when the newest success is a few rounds old."""

    def __init__(self) -> None:
        """Make the metrics in a registry of their own."""
        self.registry = CollectorRegistry()
        self._removed = Counter(
            "downriver_outbox_removed_rows", "Events removed.", ["connector", "table"], registry=self.registry
        )
        self._cleaned = Gauge(
            "downriver_outbox_cleaned_timestamp_seconds",
            "When the connector's outboxes were last cleaned, since the epoch; 0: not yet.",
            ["connector"],
            registry=self.registry,
        )

    def wait(self, connector: Connector) -> None:
        """Show a connector that was not cleaned yet."""
        self._cleaned.labels(connector.name).set(0)

    def take(self, connector: Connector, cleaned: Sequence[Cleaned]) -> None:
        """Show what a round did."""
        for each in cleaned:
            self._removed.labels(each.connector, each.table).inc(each.removed)
        self._cleaned.labels(connector.name).set_to_current_time()


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one connector in one round: rows removed, or why none were."""

    at_s: float
    connector: str
    cleaned: Sequence[Cleaned] = ()
    problem: str = ""


def rounds(
    settings: Settings,
    connectors: Sequence[Connector],
    keep_s: float,
    wait_s: float,
    every_s: float,
    metrics: Metrics,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Round]:
    """Clean every connector's outboxes, every `every_s` seconds, for ever.

    A source that is away and a slot that is behind or gone are problems of a round: nothing was removed, and the next one tries
    again.

    Raises:
        BadInput: what no later round can do better: no such table, no right to delete.
    """
    for connector in connectors:
        metrics.wait(connector)
    while True:
        began = time.monotonic()
        for connector in connectors:
            try:
                cleaned = clean(settings, connector, keep_s, wait_s)
            except BadInput:
                raise
            except DownriverError as error:
                yield Round(time.time(), connector.name, problem=str(error))
            else:
                metrics.take(connector, cleaned)
                yield Round(time.time(), connector.name, cleaned)
        sleep(max(0.0, every_s - (time.monotonic() - began)))
