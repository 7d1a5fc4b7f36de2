"""A stock Faust app whose agent always raises, for tests of what the installed Faust does then. Not Downriver's."""

from __future__ import annotations

import os
from typing import Any

import faust

topic, bootstrap, way = (os.environ[name] for name in ("STOCK_TOPIC", "STOCK_BOOTSTRAP", "STOCK_WAY"))
app = faust.App(
    topic,
    broker=f"kafka://{bootstrap}",
    store="memory://",
    topic_disable_leader=True,
    broker_commit_interval=0.5,
    consumer_auto_offset_reset="earliest",
    datadir=os.environ["STOCK_FOLDER"],
)


@app.agent(app.topic(topic, value_type=bytes, value_serializer="raw"))
async def refuse(stream: Any) -> None:
    """Raise for everything: nothing is ever handled."""
    if way == "take":
        async for batch in stream.take(10, within=0.5):
            msg = f"not handled: {batch}"
            raise ValueError(msg)
    async for value in stream:
        msg = f"not handled: {value!r}"
        raise ValueError(msg)
