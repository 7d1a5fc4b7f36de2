"""One server of the real stack is frozen or killed: status says so, and `up` brings it back with its data."""

from __future__ import annotations

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from downriver.kafka import confluent_config
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.fault]


def health(stack: RunningStack) -> dict[str, str]:
    """Return the health of each server."""
    return {record["name"]: record["health"] for record in stack.stack.status()}


@pytest.mark.parametrize("name", ["redis", "registry", "elasticsearch", "clickhouse"])
def test_a_frozen_server_is_unhealthy_and_recovers_by_itself(faults: RunningStack, name: str) -> None:
    others = {server for server in faults.stack.servers if server not in (name, "connect")}
    with faults.paused(name):
        seen = health(faults)
        assert seen[name] == "unhealthy"
        assert {seen[other] for other in others} == {"healthy"}
    faults.stack.up()
    assert health(faults)[name] == "healthy"


def test_a_killed_server_is_stopped_and_up_brings_it_back_alone(faults: RunningStack) -> None:
    before = {record["name"]: record["pid"] for record in faults.stack.status()}
    faults.kill("redis")
    assert health(faults)["redis"] == "stopped"
    after = {record["name"]: record["pid"] for record in faults.stack.up()}
    changed = {name for name, pid in after.items() if pid != before[name]}
    assert changed == {"redis"}


def test_what_was_committed_survives_a_hard_kill_of_postgres(faults: RunningStack) -> None:
    dsn = faults.settings.postgres.dsn(dbname="postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE test_stack_survivor (id int PRIMARY KEY)")
        connection.execute("INSERT INTO test_stack_survivor VALUES (42)")
    faults.kill("postgres")
    faults.start("postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT id FROM test_stack_survivor").fetchall() == [(42,)]
        connection.execute("DROP TABLE test_stack_survivor")


def test_topics_survive_a_hard_kill_of_kafka(faults: RunningStack) -> None:
    admin = AdminClient(confluent_config(faults.settings.kafka))
    for future in admin.create_topics([NewTopic("test_stack_survivor", 3, 1)]).values():
        future.result(30)
    faults.kill("kafka")
    faults.start("kafka")
    faults.stack.up()
    fresh = AdminClient(confluent_config(faults.settings.kafka))
    assert len(fresh.list_topics(timeout=10).topics["test_stack_survivor"].partitions) == 3
    for future in fresh.delete_topics(["test_stack_survivor"]).values():
        future.result(30)
