"""Dead letters: a record that can't be delivered goes to `<topic>.dlq`, whole, and only then counts as dealt with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from processors.change import Record

if TYPE_CHECKING:
    from processors.engine.prepare import Refused

SUFFIX = ".dlq"
MAX_REASON = 2_000


class Send(Protocol):
    """Sends one record; returns a future that is done when all in-sync replicas have it (aiokafka's, acks=all)."""

    async def __call__(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None,
        timestamp_ms: int | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> asyncio.Future[Any]: ...


class DeadLetters:
    """Writes dead letters and waits until the broker has them."""

    def __init__(self, send: Send, sink: str) -> None:
        self._send = send
        self._sink = sink

    async def write(self, refused: Sequence[Refused], attempt: int) -> None:
        """Write the records to their dead-letter topics; returns when every one is acknowledged by all in-sync replicas.

        Key, value and headers are the original's bytes; headers `downriver.dlq.*` are added. The topic has one
        partition: a dead letter is looked at and sent again by hand, in the order in which it died.

        Raises:
            aiokafka.errors.KafkaError: not acknowledged; write all of them again.
        """
        sent = [
            await self._send(
                item.record.topic + SUFFIX,
                value=item.record.value,
                key=item.record.key,
                timestamp_ms=item.record.timestamp,
                headers=[*item.record.headers, *self.headers(item.record, item.reason, attempt)],
            )
            for item in refused
        ]
        await asyncio.gather(*sent)

    def headers(self, record: Record, reason: str, attempt: int) -> list[tuple[str, bytes]]:
        """Return the headers that say where the record came from and why it died."""
        named = {
            "error": reason[:MAX_REASON],
            "topic": record.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
            "sink": self._sink,
            "attempt": str(attempt),
        }
        return [(f"downriver.dlq.{name}", value.encode()) for name, value in named.items()]
