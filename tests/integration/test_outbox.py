"""The outbox on the real servers: events as other services read them, and what is never an event."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from connectors import preflight
from connectors.clean import BATCH, Cleaned, clean
from connectors.cleaner import Metrics, Round, rounds
from connectors.connect import Refused
from connectors.connector import HEARTBEAT_TABLE
from downriver.exits import BadInput
from downriver.kafka import confluent_config
from downriver.settings import Settings
from tests.support.commands import Commands
from tests.support.lane import OwnLane, own_lane, until

pytestmark = pytest.mark.stack

WAIT_S = 60.0
FIRST = uuid.UUID(int=1)
DOCUMENT = Path(__file__).parents[2] / "docs" / "outbox.md"
ORDER = uuid.UUID("00000000-0000-4000-8000-000000000001")
"""The order of the documents' examples."""


@dataclass(frozen=True, slots=True)
class Event:
    """One record of an event topic, as a reader gets it."""

    partition: int
    key: str
    value: str | None
    headers: dict[str, str | None]

    @property
    def id(self) -> uuid.UUID:
        return uuid.UUID(self.headers["id"])


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    """The events connector of a shop of our own; its outbox held an event before the connector was there."""
    with own_lane(settings, "events") as made:
        insert(made, "early", "1", id_=FIRST)
        made.start()
        yield made


def insert(lane: OwnLane, kind: str, aggregate: str, *, id_: uuid.UUID | None = None, payload: str = "{}") -> uuid.UUID:
    """Commit one event; return its id."""
    event = id_ or uuid.uuid4()
    lane.execute(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES (%s, %s, %s, 'x', %s)",
        event, kind, aggregate, payload,
    )  # fmt: skip
    return event


def topic(lane: OwnLane, kind: str) -> str:
    return f"{lane.settings.source}.outbox.event.{kind}"


@contextmanager
def reading(lane: OwnLane, name: str) -> Iterator[Consumer]:
    """A consumer at the beginning of every partition of a topic, once the topic is there."""
    consumer = Consumer(confluent_config(lane.settings.kafka) | {"group.id": lane.settings.source})
    try:
        places: list[TopicPartition] = []

        def there() -> bool:
            places[:] = [
                TopicPartition(name, number, OFFSET_BEGINNING)
                for number in consumer.list_topics(name, timeout=10).topics[name].partitions
            ]
            return bool(places)

        until(there, f"topic {name}", WAIT_S)
        consumer.assign(places)
        yield consumer
    finally:
        consumer.close()


def events(lane: OwnLane, kind: str, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Read a kind's topic from its beginning until `enough` says so; each partition is in order."""
    found: list[Event] = []
    give_up_at = time.monotonic() + WAIT_S
    with reading(lane, topic(lane, kind)) as consumer:
        while not enough(found):
            assert time.monotonic() < give_up_at, found
            for message in consumer.consume(500, timeout=0.2):
                assert message.error() is None
                headers = [(name, None if text is None else text.decode()) for name, text in message.headers()]
                assert len(dict(headers)) == len(headers), "each header once"
                value = message.value()
                text = None if value is None else value.decode()
                found.append(Event(message.partition(), message.key().decode(), text, dict(headers)))
    return found


def until_id(wanted: uuid.UUID, times: int = 1) -> Callable[[list[Event]], bool]:
    return lambda found: sum(event.id == wanted for event in found) >= times


def example(section: str, language: str) -> str:
    """Return the example of a section of the document."""
    (text,) = re.findall(
        rf"^## {section}\n(.*?)(?=^## )", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (found,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(found)


def program(section: str) -> dict[str, Any]:
    """Run the Python of a section; return what it defines."""
    names: dict[str, Any] = {}
    exec(compile(example(section, "python"), str(DOCUMENT), "exec"), names)  # noqa: S102 - our own document
    return names


def test_what_was_written_before_the_connector_was_there_is_sent(lane: OwnLane) -> None:
    (event,) = events(lane, "early", until_id(FIRST))
    assert (event.id, event.key, event.value) == (FIRST, "1", "{}")


def test_the_examples_of_the_document_send_what_it_says(lane: OwnLane) -> None:
    user = uuid.uuid4()
    lane.execute("INSERT INTO users (id, email, name, password_hash) VALUES (%s, 'a@example.com', 'Ann', 'x')", user)
    lane.execute("INSERT INTO orders (id, user_id, total) VALUES (%s, %s, 1)", ORDER, user)
    with psycopg.connect(lane.settings.postgres.dsn(), autocommit=True) as connection:
        connection.execute(example("Write an event", "sql").encode())
    assert lane.execute("SELECT status FROM orders WHERE id = %s", ORDER) == [("shipped",)]
    second = program("Write an event")["ship"](lane.settings.postgres.dsn(), ORDER, "request-4712")
    found = events(lane, "order", until_id(second))
    written = lane.execute("SELECT id, created_at FROM outbox WHERE aggregatetype = 'order' ORDER BY created_at")
    assert [event.id for event in found] == [row[0] for row in written]
    assert [event.id for event in found][1] == second
    assert [event.key for event in found] == [str(ORDER)] * 2
    assert [orjson.loads(event.value or "") for event in found] == [{"orderId": str(ORDER), "status": "shipped"}] * 2
    common = {"eventType": "com.platform.orders.order.updated.v1", "userId": None}
    told = [{name: text for name, text in event.headers.items() if name not in {"id", "createdAt"}} for event in found]
    assert told == [
        common | {"correlationId": "request-4711", "causationId": "command-12"},
        common | {"correlationId": "request-4712", "causationId": None},
    ]
    stamps = [lane.execute("SELECT %s::timestamptz", event.headers["createdAt"])[0][0] for event in found]
    assert stamps == [row[1] for row in written]
    assert all((event.headers["createdAt"] or "").endswith("Z") for event in found)


def test_each_aggregate_has_one_partition_and_its_events_come_in_order(lane: OwnLane) -> None:
    aggregates = [f"a{number}" for number in range(20)]
    written: dict[str, list[uuid.UUID]] = {each: [] for each in aggregates}
    with psycopg.connect(lane.settings.postgres.dsn()) as connection:
        for _ in range(10):  # transactions of several events, also two for one aggregate
            for each in (*aggregates, *aggregates[::3]):
                written[each].append(uuid.uuid4())
                connection.execute(
                    "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (%s, 'sorted', %s, 'x')",
                    [written[each][-1], each],
                )
            connection.commit()
    count = sum(map(len, written.values()))
    found = events(lane, "sorted", lambda so_far: len(so_far) >= count)
    assert {each: [event.id for event in found if event.key == each] for each in aggregates} == written
    partitions = {each: {event.partition for event in found if event.key == each} for each in aggregates}
    assert all(len(each) == 1 for each in partitions.values())
    assert len(set.union(*partitions.values())) > 1
    assert {event.value for event in found} == {None}, "a payload of NULL"


def test_what_was_rolled_back_or_removed_is_never_an_event(lane: OwnLane) -> None:
    before = insert(lane, "quiet", "1")
    with psycopg.connect(lane.settings.postgres.dsn()) as connection:
        statement = "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (%s, 'quiet', '1', 'x')"
        connection.execute(statement, [uuid.uuid4()])
        connection.rollback()
        at_once = uuid.uuid4()  # written and removed in one transaction: sent all the same
        connection.execute(statement, [at_once])
        connection.execute("DELETE FROM outbox WHERE id = %s", [at_once])
        connection.commit()
    lane.execute("DELETE FROM outbox WHERE id = %s", before)
    last = insert(lane, "quiet", "1")  # the same key, so the same partition: what comes before it has come
    found = events(lane, "quiet", until_id(last))
    assert [(event.id, event.value) for event in found] == [(before, "{}"), (at_once, None), (last, "{}")]


PAYLOADS = [
    '{"n": 1.10, "big": 12345678901234567890123}',
    '{"ü": "€\\u001f\\"", "nested": [1, "a", null, {}]}',
    "[]",
    '"text"',
    "7",
    "null",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_arrives_as_postgresql_keeps_it(lane: OwnLane, payload: str) -> None:
    event = insert(lane, "payloads", "1", payload=payload)
    ((kept,),) = lane.execute("SELECT payload::text FROM outbox WHERE id = %s", event)
    (found,) = [each for each in events(lane, "payloads", until_id(event)) if each.id == event]
    assert found.value == kept


def test_topics_of_events_are_made_as_the_file_says(lane: OwnLane) -> None:
    event = insert(lane, "made", "1")
    events(lane, "made", until_id(event))
    admin = AdminClient(confluent_config(lane.settings.kafka))
    name = topic(lane, "made")
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 8
    (answer,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
    config = answer.result(30)
    kept = [config[key].value for key in ("cleanup.policy", "retention.ms", "max.message.bytes")]
    assert kept == ["delete", "604800000", "16777216"]
    own = {each for each in admin.list_topics(timeout=10).topics if lane.settings.source in each}
    assert f"{lane.connector.prefix}.public.outbox" not in own


def test_the_source_is_ready_and_heartbeats_move_an_idle_connector(lane: OwnLane) -> None:
    assert preflight.check(lane.settings, [lane.connector]) == []
    lane.execute("CREATE TABLE IF NOT EXISTS elsewhere (n int)")
    lane.execute("INSERT INTO elsewhere SELECT generate_series(1, 100)")
    ((position,),) = lane.execute("SELECT pg_current_wal_insert_lsn()::text")
    confirmed = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
    until(lambda: lane.execute(confirmed, position, lane.name) == [(True,)], "the idle slot moves")
    assert lane.state() == {"RUNNING"}
    for name in (f"{lane.connector.prefix}.{HEARTBEAT_TABLE}", f"__debezium-heartbeat.{lane.connector.prefix}"):
        with reading(lane, name) as consumer:
            (place,) = consumer.assignment()
            _, end = consumer.get_watermark_offsets(place, timeout=10)

            def further(consumer: Consumer = consumer, place: TopicPartition = place, end: int = end) -> bool:
                return bool(consumer.get_watermark_offsets(place, timeout=10)[1] > end)

            until(further, f"heartbeats on {name}")


def stop(lane: OwnLane) -> list[dict[str, Any]]:
    """Stop the connector; return its stored offsets once its task has ended."""
    with lane.client() as client:
        client.stop(lane.name)
        until(lambda: lane.state() == {"STOPPED"}, "stopped")
        inactive = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s"
        until(lambda: lane.execute(inactive, lane.name) == [(True,)], "nobody reads the slot")
        return client.positions(lane.name)


def resume(lane: OwnLane, offsets: list[dict[str, Any]] | None = None) -> None:
    with lane.client() as client:
        if offsets is not None:

            def put() -> bool:
                try:
                    client.set_offsets(lane.name, offsets)
                except Refused:  # its task has not ended yet
                    return False
                return True

            until(put, "offsets put back")
        client.resume(lane.name)


def test_events_that_are_sent_again_have_the_same_ids_and_order(lane: OwnLane) -> None:
    """What a Connect does that died before it stored a position: slot and offset stand where they stood before the events."""
    first = insert(lane, "again", "1")
    events(lane, "again", until_id(first))
    offsets = stop(lane)
    spare = f"{lane.name}_spare"
    lane.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", lane.name, spare)
    resume(lane)
    written = [insert(lane, "again", "1", payload=f'{{"n": {number}}}') for number in range(5)]
    sent = [event for event in events(lane, "again", until_id(written[-1])) if event.id in written]
    assert [event.id for event in sent] == written
    stop(lane)
    lane.drop_slot()
    lane.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", spare, lane.name)
    lane.execute("SELECT pg_drop_replication_slot(%s)", spare)
    resume(lane, offsets)
    found = [event for event in events(lane, "again", until_id(written[-1], 2)) if event.id in written]
    assert found == sent + sent, "the same ids, keys, headers and values, in the same order"


def test_what_is_in_the_outbox_is_sent_again_by_a_reset_as_the_document_says(
    lane: OwnLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out of a lost slot, too: rows that are still there come again, with the same ids."""
    run = Commands(monkeypatch, lane.settings, [lane.connector])
    kept, removed = insert(lane, "reset", "1"), insert(lane, "reset", "1")
    first = events(lane, "reset", until_id(removed))
    lane.execute("DELETE FROM outbox WHERE id = %s", removed)
    refused = run("reread", "public.outbox", "--connector", lane.name)
    assert (refused.code, "is an outbox" in refused.told) == (2, True)
    stop(lane)
    assert run("offsets", "reset", lane.name, "--drop-slot", "--yes").code == 0
    resume(lane)
    until(lane.slot, "a new slot")
    last = insert(lane, "reset", "1")
    found = events(lane, "reset", until_id(last))
    assert [event.id for event in found] == [kept, removed, kept, last]
    assert found[2] == first[0]


def test_a_connector_that_restarts_sends_what_was_committed_meanwhile(lane: OwnLane) -> None:
    stop(lane)
    meanwhile = [insert(lane, "meanwhile", "1") for _ in range(3)]
    lane.execute("DELETE FROM outbox WHERE id = %s", meanwhile[1])  # the WAL has it
    resume(lane)
    assert [event.id for event in events(lane, "meanwhile", until_id(meanwhile[-1]))] == meanwhile


def test_the_cleaner_removes_what_kafka_has_and_nobody_sees_it(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Commands(monkeypatch, lane.settings, [lane.connector])
    old, young = insert(lane, "cleaned", "1"), insert(lane, "cleaned", "1")
    lane.execute("DELETE FROM outbox WHERE NOT id = ANY(%s)", [old, young])
    with psycopg.connect(lane.settings.postgres.dsn(), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # past the trigger that refuses updates
        connection.execute("UPDATE outbox SET created_at = now() - interval '2 hours' WHERE id = %s", [old])
    done = run("clean-outbox", "--keep", "3600", "-o", "json")
    assert (done.code, done.document) == (
        0,
        [{"connector": lane.name, "table": "public.outbox", "removed": 1}],
    )
    assert lane.execute("SELECT id FROM outbox") == [(young,)]
    assert run("clean-outbox", lane.name, "--keep", "0").code == 0
    assert lane.execute("SELECT id FROM outbox") == []
    last = insert(lane, "cleaned", "1")
    assert [event.id for event in events(lane, "cleaned", until_id(last))] == [old, young, last]


def test_the_cleaner_removes_nothing_that_kafka_may_lack(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Commands(monkeypatch, lane.settings, [lane.connector])
    stop(lane)
    try:
        waiting = insert(lane, "waiting", "1")
        behind = run("clean-outbox", "--keep", "0", "--wait", "0")
        assert behind.code == 1
        assert "nothing was removed" in behind.told
        assert (waiting,) in lane.execute("SELECT id FROM outbox")
        other = replace(lane.connector, config=dict(lane.connector.config) | {"slot.name": "nobodys"})
        gone = Commands(monkeypatch, lane.settings, [other])("clean-outbox", "--keep", "0")
        assert (gone.code, "slot nobodys does not exist" in gone.told) == (1, True)
        assert (waiting,) in lane.execute("SELECT id FROM outbox")
    finally:
        resume(lane)
    assert [event.id for event in events(lane, "waiting", until_id(waiting))] == [waiting]


def test_the_cleaner_leaves_what_was_committed_after_it_asked(lane: OwnLane) -> None:
    """An event of a transaction that began before and ended while it waited: its row is as old, Kafka need not have it."""
    lane.execute("DELETE FROM outbox")
    stop(lane)
    before, late = insert(lane, "late", "1"), uuid.uuid4()
    with psycopg.connect(lane.settings.postgres.dsn()) as writer:
        writer.execute(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type) VALUES (%s, 'late', '1', 'x')", [late]
        )

        def waiting(_: str) -> None:
            writer.commit()
            resume(lane)

        done = clean(lane.settings, lane.connector, 0, WAIT_S, waiting)
    assert done == [Cleaned(lane.name, "public.outbox", 1)]
    assert lane.execute("SELECT id FROM outbox") == [(late,)]
    assert [event.id for event in events(lane, "late", until_id(late))] == [before, late]


def test_whoever_cleans_needs_to_read_and_delete_the_table_and_no_more(lane: OwnLane) -> None:
    role = f"{lane.name}_cleaner"
    own = lane.settings.model_copy(update={"postgres": lane.settings.postgres.model_copy(update={"user": role})})
    lane.execute("DELETE FROM outbox")
    lane.execute(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type)"
        " SELECT gen_random_uuid(), 'rights', '1', 'x' FROM generate_series(1, %s::int)",
        BATCH + 1,
    )
    lane.execute(f'CREATE ROLE "{role}" LOGIN')
    try:
        with pytest.raises(BadInput, match="permission denied"):
            clean(own, lane.connector, 0, WAIT_S)
        lane.execute(f'GRANT SELECT, DELETE ON outbox TO "{role}"')
        assert lane.execute("SELECT count(*) FROM outbox") == [(BATCH + 1,)]
        (done,) = clean(own, lane.connector, 0, WAIT_S)
        assert done.removed == BATCH + 1
        assert lane.execute("SELECT id FROM outbox") == []
    finally:
        lane.execute(f'DROP OWNED BY "{role}"')
        lane.execute(f'DROP ROLE "{role}"')


def test_a_cleaner_that_stays_removes_them_once_kafka_has_them(lane: OwnLane) -> None:
    lane.execute("DELETE FROM outbox")
    stop(lane)
    waiting = insert(lane, "stays", "1")
    running = rounds(lane.settings, [lane.connector], 0, 5, 0, Metrics(), lambda _: None)
    try:
        assert "nothing was removed" in next(running).problem
        assert lane.execute("SELECT id FROM outbox") == [(waiting,)]
    finally:
        resume(lane)
    found: list[Round] = []

    def cleaned() -> bool:
        found.append(next(running))
        return not found[-1].problem

    until(cleaned, "a round that cleans", WAIT_S)
    assert found[-1].cleaned == [Cleaned(lane.name, "public.outbox", 1)]
    assert lane.execute("SELECT id FROM outbox") == []
    assert [event.id for event in events(lane, "stays", until_id(waiting))] == [waiting]


def test_the_cleaner_says_what_it_can_not_clean(lane: OwnLane, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Commands(monkeypatch, lane.settings, [lane.connector])
    assert run("clean-outbox", "nobody").code == 2
    plain = replace(lane.connector, config=dict(lane.connector.config) | {"transforms": ""})
    without = Commands(monkeypatch, lane.settings, [plain])
    assert without("clean-outbox").code == 2
    assert "captures no outbox" in without("clean-outbox", plain.name).told
