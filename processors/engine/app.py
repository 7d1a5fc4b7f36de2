"""Builds the Faust app of one sink's worker. Plain Faust works too: `faust -A processors.engine.app:cache worker`.

Every setting below that differs from Faust's default has its reason in docs/decisions/0001; a test holds the defaults
against the installed version.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import faust
from faust.transport.drivers import TRANSPORTS

from downriver import tls
from downriver.exits import DownriverError
from downriver.settings import Kafka, Settings, load
from processors.engine.transport import SCHEME, BatchSchema
from processors.engine.waiting import WaitedTooLong
from processors.sinks import SINKS
from processors.tables.base import Lane

if TYPE_CHECKING:
    from processors.engine.worker import StreamWorker

TRANSPORTS.aliases[SCHEME] = "processors.engine.transport:Transport"


class App(faust.App):  # type: ignore[misc]  # faust ships no types
    """A Faust app that knows its delivery; the transport asks it there."""

    logger = logging.getLogger("faust.app")
    worker: StreamWorker

    @property
    def delivery(self) -> Any:
        """What the transport feeds."""
        return self.worker.deliverer

    async def on_start(self) -> None:
        """Check and open what the worker needs, then start consuming. Raises SystemExit where that can't be."""
        try:
            await self.worker.start()
        except (DownriverError, WaitedTooLong) as error:  # Faust would end with a traceback, and with 1 whatever it is
            raise SystemExit(self.worker.refused(error)) from None
        await super().on_start()

    async def on_shutdown(self) -> None:
        """Close what the worker opened; the consumer has drained the delivery and committed before."""
        await super().on_shutdown()
        await self.worker.stop()


def build(kind: str, settings: Settings, lanes: Sequence[Lane] = tuple(Lane)) -> App:
    """Build the app of the sink of that kind for the lanes. Connects to nothing.

    Raises:
        BadInput: no such sink, its extra is missing, or no table of the lanes feeds it.
    """
    from processors.engine.worker import StreamWorker

    worker = StreamWorker(kind, settings, lanes)
    kafka = settings.kafka
    app = App(
        worker.group,
        broker=[f"{SCHEME}://{address}" for address in kafka.bootstrap.split(",")],
        broker_producer=[f"kafka://{address}" for address in kafka.bootstrap.split(",")],
        broker_credentials=_credentials(kafka),
        broker_client_id="downriver",
        # a worker that was killed is replaced well within the strictest rule
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
        broker_rebalance_timeout=10.0,
        broker_commit_interval=1.0,
        broker_commit_every=None,
        broker_max_poll_records=settings.worker.max_batch,
        consumer_auto_offset_reset="earliest",
        # a table's topic is made with its first row: notice it soon
        consumer_metadata_max_age_ms=5_000,
        stream_wait_empty=False,
        stream_buffer_maxsize=4_096,
        # Connect owns the topics; nothing is declared, nothing is led
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=8,
        # we serve health and metrics ourselves; if Faust's own server is asked for, it stays harmless
        web_enabled=False,
        web_bind="127.0.0.1",
        web_host="127.0.0.1",
        web_tables_enabled=False,
        store="memory://",
        datadir=str(Path(gettempdir()) / f"downriver-faust-{os.getuid()}"),  # nothing is kept there
        loghandlers=[],
    )
    app.worker = worker

    @app.agent(app.topic(*worker.plans, schema=BatchSchema()), name=f"{worker.group}.deliver", concurrency=1)
    async def deliver(stream: Any) -> None:
        async for event in stream.noack().events():
            worker.deliverer.submit(event.message.value)

    @app.timer(interval=1.0)
    async def measure() -> None:
        worker.measure(app.consumer)

    return app


def _credentials(kafka: Kafka) -> Any:
    if kafka.sasl_mechanism and kafka.sasl_password:
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value(),
            mechanism=kafka.sasl_mechanism,
            ssl_context=tls.context(kafka.tls, "kafka") if kafka.security_protocol == "SASL_SSL" else None,
        )
    if kafka.security_protocol == "SSL":
        return faust.SSLCredentials(tls.context(kafka.tls, "kafka"))
    return None


def __getattr__(name: str) -> App:
    """Build `cache`, `search`, … when `faust -A processors.engine.app:cache` asks for it."""
    if name in SINKS:
        made = build(name, load())
        globals()[name] = made
        return made
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
