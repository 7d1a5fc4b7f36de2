"""The servers of the local stack, one file each. `all_servers()` lists them in the order in which they are shown."""

from __future__ import annotations

from deploy.local.servers.base import Context, Server
from deploy.local.servers.clickhouse import ClickHouse
from deploy.local.servers.connect import Connect
from deploy.local.servers.elasticsearch import Elasticsearch
from deploy.local.servers.kafka import Kafka
from deploy.local.servers.postgres import Postgres
from deploy.local.servers.redis import Redis
from deploy.local.servers.registry import Registry


def all_servers(context: Context) -> list[Server]:
    """Return every server of the stack. Adding one: a file here, a line here, a port in downriver.settings."""
    return [
        Postgres(context),
        Kafka(context),
        Registry(context),
        Connect(context),
        Redis(context),
        Elasticsearch(context),
        ClickHouse(context),
    ]
