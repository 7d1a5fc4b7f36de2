"""The real servers are there, on loopback only, set up as the pipeline needs them, within their memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from typing import Any

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from deploy.local import processes
from downriver.kafka import confluent_config
from downriver.settings import Settings
from tests.support.stack import RunningStack

pytestmark = pytest.mark.stack

NAMES = ["postgres", "kafka", "registry", "connect", "redis", "elasticsearch", "clickhouse"]
MEMORY_LIMIT_MB = 5 * 1024


def cli(stack: RunningStack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `downriver stack …` as a person would, against the stack of this session."""
    return subprocess.run(
        [sys.executable, "-m", "downriver.cli", "stack", *arguments],
        env=os.environ | stack.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def get(url: str) -> Any:
    """GET a JSON document."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310
        return json.load(response)


def test_status_lists_every_server_with_version_address_pid_and_health(stack: RunningStack) -> None:
    answer = cli(stack, "status", "-o", "json")
    assert answer.returncode == 0, answer.stderr
    records = json.loads(answer.stdout)
    assert [record["name"] for record in records] == NAMES
    for record in records:
        assert record["health"] == "healthy"
        assert record["version"][0].isdigit() or record["version"].startswith(("Valkey", "chdb"))
        assert "127.0.0.1:" in record["address"]
        assert psutil.pid_exists(record["pid"])


def test_up_again_changes_nothing(stack: RunningStack) -> None:
    before = {record["name"]: record["pid"] for record in stack.stack.status()}
    answer = cli(stack, "up", "-o", "json")
    assert answer.returncode == 0, answer.stderr
    assert {record["name"]: record["pid"] for record in json.loads(answer.stdout)} == before


def test_all_servers_together_stay_within_their_memory(stack: RunningStack) -> None:
    used = {record["name"]: record["rss_mb"] for record in stack.stack.status()}
    assert sum(used.values()) < MEMORY_LIMIT_MB, used


def test_everything_listens_on_loopback_only(stack: RunningStack) -> None:
    owner = {process.pid: name for name in NAMES for process in stack.pids(name)}
    listening: dict[str, set[str]] = {name: set() for name in NAMES}
    for connection in psutil.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN and connection.pid in owner and connection.laddr:
            listening[owner[connection.pid]].add(connection.laddr.ip)
    for name, addresses in listening.items():
        assert addresses, name
        assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, name


@pytest.mark.skipif(os.geteuid() != 0, reason="as a plain user all servers run as that user")
@pytest.mark.parametrize("name", ["postgres", "elasticsearch"])
def test_as_root_the_servers_that_refuse_root_run_as_another_user(stack: RunningStack, name: str) -> None:
    assert {process.uids().real for process in stack.pids(name)} == {65534}


def test_logs_shows_the_end_of_a_servers_log(stack: RunningStack) -> None:
    answer = cli(stack, "logs", "postgres", "-n", "1000000")
    assert "database system is ready to accept connections" in answer.stdout
    assert cli(stack, "logs", "nothing").returncode == 2


def test_postgres_decodes_logically_in_utc_and_bounds_what_slots_keep(settings: Settings) -> None:
    with psycopg.connect(settings.postgres.dsn(dbname="postgres")) as connection:
        wanted = {
            "wal_level": "logical",
            "TimeZone": "UTC",
            "track_commit_timestamp": "on",
            "max_slot_wal_keep_size": "8GB",
            "server_encoding": "UTF8",
        }
        for name, value in wanted.items():
            assert connection.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)
        for name in ("max_replication_slots", "max_wal_senders"):
            row = connection.execute("SELECT current_setting(%s)::int >= 20", [name]).fetchone()
            assert row == (True,)
        assert connection.execute("SELECT upper('é')").fetchone() == ("É",)


def test_kafka_makes_no_topic_by_itself(settings: Settings) -> None:
    admin = AdminClient(confluent_config(settings.kafka))
    (future,) = admin.describe_configs([ConfigResource(ResourceType.BROKER, "1")]).values()
    config = {name: entry.value for name, entry in future.result().items()}
    assert config["auto.create.topics.enable"] == "false"
    assert config["group.initial.rebalance.delay.ms"] == "0"


def test_kafka_compacts_the_topics_connect_keeps_its_state_in(settings: Settings) -> None:
    admin = AdminClient(confluent_config(settings.kafka))
    topics = ("downriver_connect_configs", settings.connect.offsets_topic, "downriver_connect_status")
    for future in admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic) for topic in topics]).values():
        assert future.result()["cleanup.policy"].value == "compact"


def test_kafka_takes_and_drops_a_topic(settings: Settings) -> None:
    admin = AdminClient(confluent_config(settings.kafka))
    for future in admin.create_topics([NewTopic("test_stack_topic", 8, 1)]).values():
        future.result(30)
    try:
        assert len(admin.list_topics("test_stack_topic", timeout=10).topics["test_stack_topic"].partitions) == 8
    finally:
        for future in admin.delete_topics(["test_stack_topic"]).values():
            future.result(30)


def test_connect_finds_every_plugin_our_connectors_name(settings: Settings) -> None:
    found = {plugin["class"] for plugin in get(f"{settings.connect.url}/connector-plugins?connectorsOnly=false")}
    assert {
        "io.debezium.connector.postgresql.PostgresConnector",
        "io.debezium.transforms.partitions.PartitionRouting",
        "io.debezium.transforms.outbox.EventRouter",
        "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
        "io.apicurio.registry.utils.converter.AvroConverter",
    } <= found


def test_connect_lets_connectors_read_only_what_is_meant_for_them(stack: RunningStack) -> None:
    config = (stack.stack.home.data("connect") / "connect.properties").read_text(encoding="ascii")
    assert "config.providers.env.param.allowlist.pattern=DOWNRIVER_.*" in config
    assert f"config.providers.file.param.allowed.paths={stack.stack.home.folder}/secrets" in config
    assert "override.policy=Allowlist" in config
    assert "bootstrap.servers" not in config.split("override.allowlist=")[1].splitlines()[0]
    main = processes.main_process(stack.stack.home, "connect")
    assert main is not None
    env = main.environ()
    assert env["DOWNRIVER_CAPTURE_PASSWORD"] == stack.stack.capture_password()
    assert env["DOWNRIVER_REGISTRY_URL"] == stack.settings.registry.native_url


def test_the_registry_keeps_its_schemas_in_kafka(settings: Settings) -> None:
    assert isinstance(get(f"{settings.registry.url}/subjects"), list)
    topics = AdminClient(confluent_config(settings.kafka)).list_topics(timeout=10).topics
    assert "kafkasql-journal" in topics


def test_redis_persists_nothing_and_evicts(settings: Settings) -> None:
    import redis

    with redis.Redis.from_url(settings.redis.url) as client:
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"


def test_elasticsearch_makes_no_index_by_itself(settings: Settings) -> None:
    answer = get(f"{settings.elasticsearch.url}/_nodes/settings?filter_path=nodes.*.settings.action")
    (node,) = answer["nodes"].values()
    assert node["settings"]["action"]["auto_create_index"] == "false"
