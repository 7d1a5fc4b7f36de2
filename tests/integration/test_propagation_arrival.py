"""Everything up to now is visible: what is waited for, in which order, and what is not, on real servers."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from downriver.kafka import aiokafka_config
from downriver.settings import Settings
from processors.propagation.arrival import Arrival, arrived
from tests.support.avro import table
from tests.support.river import River, river_on

pytestmark = pytest.mark.stack


@pytest.fixture
async def river(settings: Settings) -> AsyncIterator[River]:
    """A source with topics and slots of its own, and all that is written to it."""
    async with river_on(settings) as made:
        yield made


@pytest.fixture
def connect() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """A Kafka Connect that only tells offsets: its URL, and connector name → offset."""
    offsets: dict[str, dict[str, Any]] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            offset = offsets.get(self.path.split("/")[2])
            body = json.dumps({"offsets": [{"partition": {}, "offset": offset}] if offset else []}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", offsets
    server.shutdown()
    thread.join()
    server.server_close()


async def test_everything_up_to_now_is_visible_only_when_captured_and_seen(
    river: River, connect: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    url, offsets = connect
    mine = river.settings.model_copy(update={"connect": river.settings.connect.model_copy(update={"url": url})})
    inventory = table("inventory").topic(mine.source)
    await river.change("inventory", "c", partition=3)
    said: list[str] = []

    async def wait(timeout_s: float) -> Arrival:
        return await arrived(mine, ["cache"], timeout_s, said.append, connectors=river.connectors)

    far = 1 << 50
    offsets.update({each.name: {"lsn": far} for each in river.connectors})
    offsets[river.connectors[0].name] = {"lsn": far, "snapshot": "INITIAL"}  # a snapshot's position says nothing
    cut = await wait(0.5)
    assert [str(each).partition(" up to")[0] for each in cut.missing] == ["lane accounts: captured"]
    assert cut.missing[0].wanted == cut.lsn > 0
    offsets[river.connectors[0].name] = {"lsn": 8, "lsn_commit": far}
    cut = await wait(0.5)
    assert [str(each) for each in cut.missing] == [f"cache: {inventory}/3 is visible up to 0 of 1"]
    assert "waiting for capture: accounts" in said
    assert "waiting to be visible: cache 1 records" in said
    waiting = asyncio.create_task(wait(30))
    while said[-1] != "waiting to be visible: cache 1 records" or len(said) < 3:
        await asyncio.sleep(0.02)
    await river.show("cache", "inventory", 1, partition=3, dead_letters=2)
    done = await waiting
    assert done.complete
    assert done.dead_letters == {"cache": 2}


async def test_the_marker_that_ends_a_transaction_is_not_waited_for(
    river: River, connect: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    url, offsets = connect
    mine = river.settings.model_copy(update={"connect": river.settings.connect.model_copy(update={"url": url})})
    offsets.update({each.name: {"lsn_proc": 1 << 50} for each in river.connectors})
    record = river.capture.record("inventory", "c")
    writer = AIOKafkaProducer(**aiokafka_config(mine.kafka), transactional_id=mine.source)
    await writer.start()
    try:
        async with writer.transaction():
            await writer.send(record.topic, record.value, record.key, 0)
    finally:
        await writer.stop()
    await river.show("cache", "inventory", 1)
    done = await arrived(mine, ["cache"], 20, connectors=river.connectors)
    assert done.complete
    assert done.waited_s < 20
    await river.change("inventory", "c")
    late = await arrived(mine, ["cache"], 0.2, connectors=river.connectors)
    assert [(each.stands, each.wanted) for each in late.missing] == [(1, 3)]
