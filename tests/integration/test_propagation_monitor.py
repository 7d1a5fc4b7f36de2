"""Propagation on real servers: states in a compacted topic, the oldest unseen change, how far capture is behind."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from downriver.exits import BadInput, DownriverError
from downriver.kafka import confluent_config
from downriver.settings import Settings
from processors.propagation.monitor import Monitor
from processors.propagation.state import State
from processors.propagation.status import Health
from processors.propagation.topic import ensure_topics, load_states, topic_name
from processors.tables.base import Lane
from tests.support.avro import table
from tests.support.columns import sample
from tests.support.river import River, river_on

pytestmark = pytest.mark.stack


@pytest.fixture
async def river(settings: Settings) -> AsyncIterator[River]:
    """A source with topics and slots of its own, and all that is written to it."""
    async with river_on(settings) as made:
        yield made


async def test_figures_outlive_their_worker_and_a_redelivery_counts_once(river: River) -> None:
    topic = table("inventory").topic(river.settings.source)
    for _ in range(10):
        await river.change("inventory", "u", before=sample("inventory"))
    first = river.recorder()
    first.visible(topic, 0, 5, [("inventory", 95_000, offset) for offset in range(5)], 100.0)
    await first.flush()
    first.visible(topic, 0, 9, [("inventory", 95_000, offset) for offset in range(5, 9)], 100.0)
    # killed here, before its flush: what it did not publish is delivered again
    second = river.recorder()
    await second.restore([(topic, 0), (topic, 1)])
    second.visible(topic, 0, 10, [("inventory", 30_000, offset) for offset in range(2, 10)], 100.0)
    await second.flush()
    state = State.decode((await load_states(river.settings, "cache"))[topic, 0])
    figures = state.rules["inventory"]
    assert (state.visible, figures.count, figures.late, figures.max_s, figures.min_s) == (10, 10, 5, 70.0, 5.0)
    assert await load_states(river.settings, "search") == {}


async def test_a_topic_made_anew_is_seen_from_its_start_again(river: River) -> None:
    await river.change("inventory", "c")
    await river.show("cache", "inventory", 1, partition=0)
    await river.show("cache", "inventory", 40, partition=1)
    await river.show("cache", "users", 7)
    loaded = await load_states(river.settings, "cache")
    seen = {where: State.decode(state).visible for where, state in loaded.items()}
    inventory, users = (table(name).topic(river.settings.source) for name in ("inventory", "users"))
    assert seen == {(inventory, 0): 1, (inventory, 1): 0, (users, 0): 0}


async def test_a_topic_that_would_lose_figures_is_refused(river: River) -> None:
    await ensure_topics(river.settings)
    mine = river.settings.model_copy(update={"group_prefix": f"{river.settings.group_prefix}x"})
    admin = AdminClient(confluent_config(mine.kafka))
    admin.create_topics([NewTopic(topic_name(mine), 1, 1, config={"cleanup.policy": "delete"})])[
        topic_name(mine)
    ].result(30)
    try:
        with pytest.raises(BadInput, match=r"cleanup\.policy=delete and 1 partition"):
            await ensure_topics(mine)
    finally:
        admin.delete_topics([topic_name(mine)])[topic_name(mine)].result(30)


async def test_a_foreign_record_in_the_topic_is_named(river: River) -> None:
    await river.publish(b"hello", b"world")
    with pytest.raises(DownriverError, match="offset 0: b'hello' is no key"):
        await load_states(river.settings, "cache")


async def test_what_no_worker_ever_saw_shows_with_its_age(river: River) -> None:
    await river.beat()
    await river.change("inventory", "r", age_s=9000, snapshot="true", lsn=None)
    await river.change("inventory", "u", age_s=9000, before=sample("inventory"), origin="downriver_repair")
    async with river.monitor() as monitor:
        quiet = await monitor.look()
        assert river.standing(quiet, "inventory") == (Health.OK, 0, 0)  # snapshot rows and repairs count for nothing
        await river.change("inventory", "u", age_s=30, before=sample("inventory"), partition=1)
        await river.change("products", "c", age_s=400)
        await river.price("20.00", age_s=310)
        await river.change("reviews", "d", age_s=50)
        shown = await monitor.look()
    assert river.standing(shown, "inventory") == (Health.OK, 30, 0)
    assert river.standing(shown, "reviews") == (Health.OK, 50, 0)
    assert river.standing(shown, "prices") == (Health.LATE, 310, 0)
    assert shown.standings["prices", "cache"].why.startswith("a change has been unseen for 31")
    assert river.standing(shown, "other") == (Health.OK, 400, 0)
    assert not shown.ok


async def test_what_readers_see_is_no_longer_old_and_the_next_one_is_found(river: River) -> None:
    await river.beat()
    topic = table("inventory").topic(river.settings.source)
    for age_s in (20, 15, 10):
        await river.change("inventory", "u", age_s=age_s, before=sample("inventory"))
    for new in ("20.00", "21.00"):
        await river.price(new, age_s=200)
        await river.change("products", "u", age_s=150, before=sample("products"))
    async with river.monitor() as monitor:
        assert river.standing(await monitor.look(), "inventory") == (Health.OK, 20, 0)
        mine = river.recorder()
        mine.visible(topic, 0, 2, [("inventory", 1_000, 0), ("inventory", 2_000, 1)], 4.0)
        await mine.flush()
        shown = await monitor.look()
        assert river.standing(shown, "inventory") == (Health.OK, 10, 2)
        assert shown.standings["inventory", "cache"].as_json()["max_s"] == 3.0
        assert [river.standing(shown, rule)[1] for rule in ("prices", "other")] == [200, 150]
        await river.show("cache", "products", 3)
        mine.visible(topic, 0, 3, [("inventory", 1_000, 2)], 4.0)
        await mine.flush()
        later = await monitor.look(since=shown)
        assert river.standing(later, "inventory") == (Health.OK, 0, 1)
        assert [river.standing(later, rule)[1] for rule in ("prices", "other")] == [0, 150]


async def test_figures_since_an_earlier_look_are_those_of_the_time_between(river: River) -> None:
    await river.beat()
    topic = table("reviews").topic(river.settings.source)
    for _ in range(5):
        await river.change("reviews", "c")
    mine = river.recorder()
    mine.dead_letter(topic, 0, 1)
    mine.visible(topic, 0, 2, [("reviews", 0, 0)], 500.0)
    await mine.flush()
    async with river.monitor() as monitor:
        before = await monitor.look()
        assert river.standing(before, "reviews")[0] is Health.LATE
        mine.dead_letter(topic, 0, 4)
        mine.visible(topic, 0, 5, [("reviews", 499_000, offset) for offset in (2, 3)], 500.0)
        await mine.flush()
        shown = await monitor.look(since=before)
        assert river.standing(shown, "reviews") == (Health.OK, 0, 2)
        assert shown.standings["reviews", "cache"].as_json()["p99_s"] == pytest.approx(1.0, rel=0.02)
        assert (before.dead_letters, shown.dead_letters) == ({"cache": 1}, {"cache": 1})
        assert (await monitor.look()).as_json()["rules"]["reviews"]["sinks"]["cache"]["late"] == 1


async def test_a_look_cut_short_is_unknown_and_the_next_ones_finish_it(river: River) -> None:
    await river.beat()
    records = [river.capture.record("products", "c") for _ in range(3000)]
    sent = [await river.producer.send(each.topic, each.value, each.key, each.partition) for each in records]
    await asyncio.gather(*sent)
    await river.price("20.00", age_s=10)
    async with river.monitor() as monitor:
        shown = await monitor.look(look_s=0.0)
        assert river.standing(shown, "prices") == (Health.UNKNOWN, None, 0)
        assert shown.standings["prices", "cache"].why == "3001 records not looked at yet"
        shown = await monitor.look(look_s=30.0)
        assert river.standing(shown, "prices") == (Health.OK, 10, 0)


async def test_capture_that_stands_still_makes_the_rules_of_its_lane_late(river: River) -> None:
    async with river.monitor() as monitor:
        never = await monitor.look()
        assert river.standing(never, "inventory")[0] is Health.UNKNOWN
        assert never.standings["inventory", "cache"].why == "no heartbeat of inventory was ever captured"
        await river.beat(age_s=200)
        shown = await monitor.look()
        assert [river.standing(shown, rule)[0] for rule in ("inventory", "reviews", "prices", "other")] == [
            Health.LATE,
            Health.LATE,
            Health.OK,
            Health.OK,
        ]
        assert shown.capture[Lane.INVENTORY].age_s == pytest.approx(199, abs=5)
        assert shown.capture[Lane.INVENTORY].retained_bytes is not None
        await river.beat(age_s=0.5)
        assert (await monitor.look()).capture[Lane.CATALOG].age_s == pytest.approx(0, abs=5)


async def test_servers_that_are_away_make_it_unknown_and_are_named(river: River) -> None:
    await river.beat()
    mine = river.settings
    no_source = mine.model_copy(update={"postgres": mine.postgres.model_copy(update={"port": 1})})
    async with Monitor(no_source, connectors=river.connectors, sinks=("cache",)) as monitor:
        shown = await monitor.look()
    assert {each.state for each in shown.standings.values()} == {Health.UNKNOWN}
    assert [problem.partition(" is away")[0] for problem in shown.problems] == ["PostgreSQL at 127.0.0.1:1"]
    no_kafka = mine.model_copy(update={"kafka": mine.kafka.model_copy(update={"bootstrap": "127.0.0.1:1"})})
    async with Monitor(no_kafka, connectors=river.connectors, sinks=("cache",)) as monitor:
        shown = await monitor.look()
    assert [problem.partition(" is away")[0] for problem in shown.problems] == ["Kafka at 127.0.0.1:1"]
    assert not shown.ok
    assert shown.as_json()["rules"]["inventory"]["sinks"]["cache"]["oldest_s"] is None
