"""The Faust defaults of decision 0001 that take a broker to show: a stock app, none of Downriver's code in it.

When one of these fails after an upgrade, Faust changed for the better: read docs/decisions/0001 and judge anew what the
engine still has to replace. What shows without a broker is in tests/unit/test_faust_defaults.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from downriver.kafka import confluent_config
from downriver.settings import Settings
from tests.support.engine import CHECKOUT, START_S, until

pytestmark = pytest.mark.stack
VALUES = [b"first", b"second", b"third"]


@contextmanager
def stock_app(settings: Settings, way: str) -> Iterator[str]:
    """Run the stock app on a topic of its own that holds VALUES; gives the topic, which is the group's name as well."""
    topic = f"stock-{uuid.uuid4().hex[:8]}"
    admin = AdminClient(confluent_config(settings.kafka))
    admin.create_topics([NewTopic(topic, 1, 1)], operation_timeout=10)[topic].result(30)
    producer = Producer(confluent_config(settings.kafka))
    for value in VALUES:
        producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0
    folder = TemporaryDirectory()
    environment = {
        "STOCK_TOPIC": topic,
        "STOCK_BOOTSTRAP": settings.kafka.bootstrap,
        "STOCK_WAY": way,
        "STOCK_FOLDER": folder.name,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "faust", "-A", "tests.support.stock_faust", "worker", "--without-web"],
        cwd=CHECKOUT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield topic
    finally:
        process.kill()
        process.wait(10)
        folder.cleanup()
        wait(admin.delete_topics([topic], operation_timeout=10).values(), 30)
        wait(admin.delete_consumer_groups([topic]).values(), 30)


@pytest.mark.parametrize("way", ["one by one", "take"])
def test_faust_commits_what_its_agent_raised_for(settings: Settings, way: str) -> None:
    with stock_app(settings, way) as topic:
        consumer = Consumer(confluent_config(settings.kafka) | {"group.id": topic})
        try:

            def committed() -> int:
                return int(consumer.committed([TopicPartition(topic, 0)], timeout=10)[0].offset)

            until(lambda: committed() == len(VALUES), "all is committed, and nothing was handled", START_S)
        finally:
            consumer.close()
