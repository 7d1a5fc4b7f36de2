"""How fast records reach an agent: our transport (one message a record batch) against stock Faust, bytes counted.

Run as a module it is one measured worker: `python -m bench.transport ours|stock TOPIC COUNT GROUP`; prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import faust
from faust.transport.drivers import TRANSPORTS

from downriver.settings import Settings, load
from processors.engine.batch import Batch, Partition
from processors.engine.ledger import Ledger
from processors.engine.transport import SCHEME, BatchSchema, Delivery
from processors.sinks.base import Pace

TIMEOUT_S = 300.0


class Counting:
    """A delivery that only counts: what the transport costs by itself."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.pace = Pace(max_records=1, extra=0)

    def is_open(self, _: Partition) -> bool:
        return True

    def fetched(self, _: Batch) -> None:
        """Nothing to bound."""

    def removed(self, partition: Partition, committed: int, first: int) -> None:
        """A topic of our own: it keeps everything."""

    async def revoke(self, _: set[Partition]) -> None:
        """Nothing under way."""

    async def assign(self, _: set[Partition]) -> None:
        """Nothing to restore."""

    async def drain(self) -> None:
        """Nothing under way."""


def measure(kind: str, topic: str, count: int, group: str, settings: Settings) -> None:
    """Consume `count` records of the topic, print records, bytes and seconds from first to last, and leave."""
    TRANSPORTS.aliases[SCHEME] = "processors.engine.transport:Transport"
    scheme = SCHEME if kind == "ours" else "kafka"
    app = faust.App(
        group,
        broker=f"{scheme}://{settings.kafka.bootstrap}",
        broker_producer=f"kafka://{settings.kafka.bootstrap}",
        broker_max_poll_records=5_000,
        broker_commit_interval=1.0,
        # it ends without leaving its group, which can be removed once the broker has missed it
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        store="memory://",
        datadir=tempfile.mkdtemp(),
    )
    delivery: Delivery = Counting()
    app.delivery = delivery
    records = size = 0
    began = 0.0

    def counted(more: int, more_bytes: int) -> None:
        nonlocal records, size, began
        began = began or time.perf_counter()
        records += more
        size += more_bytes
        if records >= count:
            seconds = time.perf_counter() - began
            sys.stdout.write(json.dumps({"records": records, "bytes": size, "seconds": seconds}) + "\n")
            sys.stdout.flush()
            os._exit(0)  # a measured process: nothing to give back

    if kind == "ours":

        @app.agent(app.topic(topic, schema=BatchSchema()))
        async def batches(stream: Any) -> None:
            async for event in stream.noack().events():
                batch: Batch = event.message.value
                counted(
                    len(batch.records), sum(len(each.key or b"") + len(each.value or b"") for each in batch.records)
                )
                app.delivery.ledger.delivered(batch)

    else:

        @app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"))
        async def messages(stream: Any) -> None:
            async for event in stream.events():
                counted(1, len(event.key or b"") + len(event.value or b""))

    loop = asyncio.new_event_loop()
    faust.Worker(app, loop=loop, loglevel="ERROR", quiet=True, redirect_stdouts=False).execute_from_commandline()


def run(kind: str, topic: str, count: int, group: str) -> dict[str, float]:
    """Measure in a process of its own, with a consumer group of its own; returns records, bytes and seconds."""
    command = [sys.executable, "-m", "bench.transport", kind, topic, str(count), group]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    for line in done.stdout.splitlines():
        if "{" in line:  # Faust's spinner writes before it
            return dict(json.loads(line[line.index("{") :]))
    msg = f"{' '.join(command[2:])} measured nothing:\n{done.stderr[-2000:]}"
    raise RuntimeError(msg)


if __name__ == "__main__":
    measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], load())
