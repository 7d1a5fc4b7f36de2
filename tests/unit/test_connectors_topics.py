"""Which topics the files want, and how those are shaped."""

from __future__ import annotations

import pytest

from connectors.files import HEARTBEAT_TABLE, Connector, load
from connectors.topics import wanted
from processors.tables import TABLES
from processors.tables.base import PARTITIONS


def connector(**config: str) -> Connector:
    common = {"topic.prefix": "s", "table.include.list": "public.a,public.b", "topic.creation.groups": ""}
    return Connector("c", common | {key.replace("__", "."): value for key, value in config.items()}, "memory")


def test_every_table_has_its_topic() -> None:
    topics = {topic.topic: topic.num_partitions for one in load() for topic in wanted(one)}
    expected = {table.topic("shop"): PARTITIONS for table in TABLES}
    assert topics == expected | {f"{one.prefix}.{HEARTBEAT_TABLE}": 1 for one in load()}


@pytest.mark.parametrize(
    ("groups", "partitions"), [("", {"s.public.a": 3, "s.public.b": 3}), ("few", {"s.public.a": 1, "s.public.b": 3})]
)
def test_a_group_takes_what_it_includes(groups: str, partitions: dict[str, int]) -> None:
    made = connector(
        topic__creation__groups=groups,
        topic__creation__default__partitions="3",
        topic__creation__default__replication__factor="-1",
        topic__creation__default__cleanup__policy="compact",
        topic__creation__few__include=r"nothing,.*\.a",
        topic__creation__few__partitions="1",
    )
    topics = list(wanted(made))
    assert {topic.topic: topic.num_partitions for topic in topics} == partitions
    assert [(topic.replication_factor, topic.config) for topic in topics] == [(-1, {"cleanup.policy": "compact"})] * 2
