"""The recorder: counts what readers see once, publishes before anything may be committed, outlives its worker."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from downriver.settings import Settings
from processors.propagation.recorder import Recorder
from processors.propagation.rules import load_rules, rule_set
from processors.propagation.state import State, StateKey

RULES = rule_set(load_rules())
T = "shop_inventory.public.inventory"


class Topic:
    """A compacted topic in memory."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.writes = 0
        self.broken: Exception | None = None

    async def publish(self, key: bytes, value: bytes) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise self.broken
        self.records[key] = value
        self.writes += 1

    async def load(self, settings: Settings, sink: str) -> Mapping[tuple[str, int], bytes]:
        keys = {StateKey.decode(key): value for key, value in self.records.items()}
        return {(key.topic, key.partition): value for key, value in keys.items() if key.sink == sink}

    def state(self, partition: int = 0, sink: str = "cache") -> State:
        return State.decode(self.records[StateKey(sink, T, partition).encode()])


def recorder(topic: Topic, registry: CollectorRegistry | None = None) -> Recorder:
    return Recorder(
        "cache",
        RULES,
        settings=Settings(),
        publish=topic.publish,
        registry=registry or CollectorRegistry(),
        clock=lambda: 1000.0,
        load=topic.load,
    )


def samples(first: int, after: int) -> list[tuple[str, int, int]]:
    """One change a second, committed at its offset in seconds; every third is `other`."""
    return [("other" if offset % 3 == 0 else "inventory", offset * 1000, offset) for offset in range(first, after)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("deliver"), st.integers(1, 9)),
            st.just(("flush", 0)),
            st.just(("crash", 0)),
            st.just(("move", 0)),
        ),
        max_size=25,
    )
)
async def test_over_any_crashes_and_moves_every_change_is_counted_once(steps: list[tuple[str, int]]) -> None:
    """The engine commits only what was published, so a new owner starts at or below the published position."""
    topic = Topic()
    worker = recorder(topic)
    await worker.restore([(T, 0)])
    position = committed = 0
    for what, number in [*steps, ("flush", 0)]:
        if what == "deliver":
            worker.visible(T, 0, position + number, samples(position, position + number), 100.0)
            position += number
        elif what == "flush":
            await worker.flush()
            committed = max(committed, position)
        else:
            if what == "move":
                worker.dropped([(T, 0)])
            worker = recorder(topic)
            await worker.restore([(T, 0)])
            position = max(committed - 2, 0)  # the last commit may have been lost with the worker: read again
    end = max(position, committed)
    if position < committed:
        worker.visible(T, 0, committed, samples(position, committed), 100.0)
        await worker.flush()
    if not topic.records:
        assert end == 0
        return
    state = topic.state()
    assert state.visible == end
    assert sum(figures.count for figures in state.rules.values()) == end
    assert state.rules["other"].count == len(range(0, end, 3))


async def test_latencies_are_measured_from_the_commit_with_their_sign() -> None:
    topic = Topic()
    mine = recorder(topic)
    mine.visible(T, 0, 4, [("inventory", 40_000, 1), ("inventory", 39_999, 2), ("inventory", 101_000, 3)], 100.0)
    await mine.flush()
    figures = topic.state().rules["inventory"]
    assert (figures.count, figures.late, figures.negative) == (3, 1, 1)
    assert figures.min_s == -1.0
    assert figures.max_s == pytest.approx(60.001)
    assert topic.state().updated_s == 1000.0


async def test_a_redelivery_below_the_visible_offset_is_not_counted_again() -> None:
    topic = Topic()
    first = recorder(topic)
    first.visible(T, 0, 10, samples(0, 10), 100.0)
    await first.flush()
    second = recorder(topic)
    await second.restore([(T, 0), (T, 1)])
    second.visible(T, 0, 8, samples(5, 8), 200.0)
    second.visible(T, 0, 12, samples(5, 12), 200.0)
    await second.flush()
    state = topic.state()
    assert state.visible == 12
    assert sum(figures.count for figures in state.rules.values()) == 12
    assert StateKey("cache", T, 1).encode() not in topic.records


async def test_only_what_changed_is_published() -> None:
    topic = Topic()
    mine = recorder(topic)
    mine.visible(T, 0, 1, [], 1.0)
    mine.visible(T, 1, 1, [], 1.0)
    await mine.flush()
    mine.visible(T, 1, 2, [], 1.0)
    await mine.flush()
    await mine.flush()
    assert topic.writes == 3


async def test_a_failed_publication_is_raised_and_made_up_for() -> None:
    topic = Topic()
    mine = recorder(topic)
    mine.visible(T, 0, 5, samples(0, 5), 1.0)
    topic.broken = ConnectionError("the broker is away")
    with pytest.raises(ConnectionError):
        await mine.flush()
    topic.broken = None
    await mine.flush()
    assert topic.state().visible == 5


async def test_a_cancelled_flush_leaves_its_states_to_the_next() -> None:
    topic = Topic()
    mine = recorder(topic)
    mine.visible(T, 0, 5, samples(0, 5), 1.0)
    task = asyncio.create_task(mine.flush())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await mine.flush()
    assert topic.state().visible == 5


async def test_what_was_dropped_is_not_published() -> None:
    topic = Topic()
    mine = recorder(topic)
    mine.visible(T, 0, 5, samples(0, 5), 1.0)
    mine.dropped([(T, 0)])
    await mine.flush()
    assert not topic.records


async def test_dead_letters_are_counted_with_the_position_that_passes_them_and_once() -> None:
    topic = Topic()
    first = recorder(topic)
    first.visible(T, 0, 3, [], 1.0)
    first.dead_letter(T, 0, 3)
    first.dead_letter(T, 0, 9)
    await first.flush()
    assert topic.state().dead_letters == 0
    # killed before the position passed it: the next worker meets it again
    second = recorder(topic)
    await second.restore([(T, 0)])
    for offset in (2, 3, 3, 9):
        second.dead_letter(T, 0, offset)
    second.visible(T, 0, 5, [], 1.0)
    await second.flush()
    assert topic.state().dead_letters == 1
    second.visible(T, 0, 10, [], 1.0)
    await second.flush()
    assert topic.state().dead_letters == 2


async def test_metrics_have_the_limit_as_a_bound_and_count_since_the_start() -> None:
    topic, registry = Topic(), CollectorRegistry()
    before = recorder(topic)
    before.visible(T, 0, 3, samples(0, 3), 100.0)
    await before.flush()
    mine = recorder(topic, registry)
    await mine.restore([(T, 0)])
    mine.visible(T, 0, 6, [("inventory", 40_000, 3), ("inventory", 39_000, 4), ("inventory", 101_000, 5)], 100.0)
    told = generate_latest(registry).decode().splitlines()
    for line in (
        'downriver_propagation_seconds_bucket{le="60",rule="inventory",sink="cache"} 2.0',
        'downriver_propagation_seconds_bucket{le="90",rule="inventory",sink="cache"} 3.0',
        'downriver_propagation_seconds_bucket{le="+Inf",rule="inventory",sink="cache"} 3.0',
        'downriver_propagation_seconds_sum{rule="inventory",sink="cache"} 120.0',
        'downriver_propagation_changes_total{outcome="good",rule="inventory",sink="cache"} 2.0',
        'downriver_propagation_changes_total{outcome="late",rule="inventory",sink="cache"} 1.0',
        'downriver_clock_skew_total{rule="inventory",sink="cache"} 1.0',
        f'downriver_visible_offset{{partition="0",sink="cache",topic="{T}"}} 6.0',
    ):
        assert line in told, told
    mine.dropped([(T, 0)])
    assert "downriver_visible_offset{" not in generate_latest(registry).decode()
