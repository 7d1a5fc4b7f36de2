"""One stream worker: the parts of a delivery put together, started and stopped with the Faust app."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from downriver.exits import BadInput, Exit
from downriver.kafka import aiokafka_config
from downriver.settings import Settings
from processors.decode import Decoder
from processors.engine import start
from processors.engine.contract import Contracts
from processors.engine.deadletter import DeadLetters
from processors.engine.deliver import Deliverer
from processors.engine.garbage import settle
from processors.engine.metrics import Metrics
from processors.engine.prepare import TopicPlan
from processors.engine.waiting import WaitedTooLong, Waits
from processors.engine.watchdog import Pulse, Watchdog
from processors.engine.web import Web, application
from processors.propagation.recorder import Recorder
from processors.propagation.rules import load_rules, rule_set
from processors.propagation.topic import topic_name
from processors.sinks import build as build_sink
from processors.sinks.base import RawRoute, Route
from processors.tables import TABLES
from processors.tables.base import Lane, Table
from schemas.registry import SchemaRegistry

log = structlog.get_logger(__name__)


class StreamWorker:
    """The worker of one kind of sink: builds its parts, connects to nothing before `start`."""

    def __init__(self, kind: str, settings: Settings, lanes: Sequence[Lane]) -> None:
        self.kind = kind
        self.settings = settings
        self.lanes = tuple(lanes)
        self.group = f"{settings.group_prefix}-{kind}"
        self.sink = build_sink(kind, settings)
        self.tables: dict[str, Table] = {
            table.topic(settings.source): table for table in TABLES if table.lane in lanes and table.route(kind)
        }
        if not self.tables:
            msg = f"no table of the lanes {', '.join(lanes)} feeds the sink {kind!r}"
            raise BadInput(msg)
        rules = rule_set(load_rules()).for_sink(kind)
        self.plans: dict[str, TopicPlan] = {}
        for topic, table in self.tables.items():
            route = table.route(kind)
            assert route is not None  # noqa: S101  # chosen by it, above
            self.plans[topic] = TopicPlan.of(table, route, rules.for_table(table.id))
        self.prometheus = CollectorRegistry()
        self.metrics = Metrics(self.prometheus, self.sink.name)
        self.rules = rules
        worker = settings.worker
        self.waits = Waits(worker.retry_initial_s, worker.retry_max_s, worker.max_wait_s)
        self.registry = SchemaRegistry(settings.registry)
        self.watchdog = Watchdog(
            Pulse(lambda: self._lag, lambda: self.deliverer.progress_at, lambda: bool(self.waits.current())),
            worker.loop_stall_s,
            worker.stall_s,
        )
        self.web = Web(application(self.prometheus, self.health), worker.host, worker.port)
        self._producer: AIOKafkaProducer | None = None
        self._lag = 0
        recorder = Recorder(
            self.sink.name, self.rules, settings=settings, publish=self._publish, registry=self.prometheus
        )
        decoder = Decoder(
            settings.source, settings.epoch, list(self.tables.values()), self.registry, worker.max_record_bytes
        )
        self.deliverer = Deliverer(
            sink=self.sink,
            plans=self.plans,
            rank=self.rank,
            decoder=decoder,
            recorder=recorder,
            dead_letters=DeadLetters(self._send, self.sink.name),
            metrics=self.metrics,
            waits=self.waits,
            pace=self.sink.pace,
            max_bytes=worker.max_buffered_bytes,
            ended=self._ended,
            contract=Contracts(self.registry, self._routed(), self.sink.name),
        )

    def _routed(self) -> dict[str, tuple[Table, Route | RawRoute]]:
        """Return the tables by topic, each with the route to our sink."""
        routed = {topic: (table, table.route(self.kind)) for topic, table in self.tables.items()}
        return {topic: (table, route) for topic, (table, route) in routed.items() if route is not None}

    def rank(self, topic: str) -> int:
        """Return the priority of the topic's lane, 0 first."""
        return list(Lane).index(self.tables[topic].lane)

    async def start(self) -> None:
        """Open what the worker needs. Called by the app before it consumes."""
        settings = self.settings
        self.web.start()  # first: whoever watches must see who is waited for
        about = {"sink": self.sink.name, "group": self.group, "lanes": list(self.lanes), "web": self.web.url}
        log.info("worker_starts", **about)
        await start.check(settings, self.tables, self.waits, self.registry)
        # not idempotent: what it writes twice does no harm, and aiokafka's idempotent producer never recovers from a
        # broker that was restarted and forgot its producer id (tests/faults/test_servers.py)
        self._producer = AIOKafkaProducer(
            **aiokafka_config(settings.kafka), acks="all", compression_type="lz4", linger_ms=5
        )
        await self._producer.start()
        self.deliverer.start()
        self.watchdog.start()
        settle()
        log.info("worker_up", **about)

    async def stop(self) -> None:
        """Close everything; the consumer has drained the delivery before."""
        self.watchdog.stop()
        await self.deliverer.stop()
        if self._producer is not None:
            await self._producer.stop()
        self.registry.close()
        self.web.stop()
        log.info("worker_down", sink=self.sink.name)

    async def _send(self, topic: str, **record: Any) -> asyncio.Future[Any]:
        assert self._producer is not None  # noqa: S101  # nothing is sent before the start
        return cast("asyncio.Future[Any]", await self._producer.send(topic, **record))

    async def _publish(self, key: bytes, value: bytes) -> None:
        await (await self._send(topic_name(self.settings), key=key, value=value))

    def refused(self, error: Exception) -> int:
        """Log why the worker can't start; return the exit code."""
        code = _exit_code(error)
        log.critical("worker_ends", code=int(code), reason=str(error))
        return int(code)

    def _ended(self, error: BaseException) -> None:
        self.watchdog.end(_exit_code(error), f"{error}" or type(error).__name__)

    def measure(self, consumer: Any) -> None:
        """Set the gauges: lag of every assigned partition, waits. Called every second by the app."""
        total = 0
        for partition in self.deliverer.partitions:
            try:
                end = consumer.highwater(partition)
            except (KafkaError, AssertionError, KeyError):
                continue  # between two assignments
            done = self.deliverer.ledger.committable(partition)
            if done is None:
                done = consumer._committed_offset.get(partition) or 0
            lag = max((end or 0) - done, 0)
            if partition not in self.deliverer.stopped:  # it waits for a person: no reason to end this process
                total += lag
            self.metrics.lag.labels(self.sink.name, partition.topic, str(partition.partition)).set(lag)
        self._lag = total
        self.metrics.waiting.labels(self.sink.name).set(max(self.waits.current().values(), default=0.0))

    def health(self) -> Mapping[str, Any]:
        """Return what /health shows; called in the web server's thread."""
        waiting = {who: round(seconds, 1) for who, seconds in self.waits.current().items()}
        return {
            "ready": self._producer is not None and not waiting,
            "sink": self.sink.name,
            "group": self.group,
            "lanes": list(self.lanes),
            "partitions": len(self.deliverer.partitions),
            "lag": self._lag,
            "waiting_s": waiting,
            "stopped": {stop.topic: str(stop) for stop in list(self.deliverer.stopped.values())},
        }


def _exit_code(error: BaseException) -> Exit:
    return Exit.SERVER_AWAY if isinstance(error, WaitedTooLong) else getattr(error, "exit_code", Exit.FAILED)
