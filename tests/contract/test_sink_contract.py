"""What every sink promises the engine (`processors.sinks.base.Sink`), on its real server.

A new entry of SINKS needs one harness, and nothing else: a sink without one fails this suite. Where a promise takes what a
store does not have, the harness says so by a flag, and the test is not made for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from downriver.settings import Settings, with_local_addresses
from processors.sinks import SINKS, build
from processors.sinks.base import Outcome, Sink, SinkUnavailable
from tests.contract.harness import Harness, MemoryHarness
from tests.contract.harness_analytics import AnalyticsHarness
from tests.contract.harness_cache import CacheHarness
from tests.contract.harness_search import SearchHarness

HARNESSES: tuple[type[Harness], ...] = (MemoryHarness, CacheHarness, SearchHarness, AnalyticsHarness)


def those(wanted: Callable[[type[Harness]], bool]) -> list[Any]:
    """Return the harnesses for a test; what needs a server is marked so."""
    return [
        pytest.param(each, marks=[pytest.mark.stack] if each.remote else [], id=each.kind)
        for each in HARNESSES
        if wanted(each)
    ]


remote_ones = pytest.mark.parametrize("stored", those(lambda each: each.remote), indirect=True, scope="module")
refusing_ones = pytest.mark.parametrize("stored", those(lambda each: each.refuses), indirect=True, scope="module")


@pytest.fixture(scope="module", params=those(lambda _: True))
def stored(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """One store a kind of sink, for the whole suite."""
    kind: type[Harness] = request.param
    settings: Settings | None = request.getfixturevalue("settings") if kind.remote else None
    with kind.stored(settings) as made:
        yield made


@pytest.fixture
async def harness(stored: Harness) -> AsyncIterator[Harness]:
    """The harness, ready for one test."""
    await stored.start()
    yield stored
    await stored.stop()


async def outcomes(sink: Sink[Any], *batch: Any) -> list[Outcome]:
    """Write, wait until it is shown, and return the outcomes."""
    verdicts = await sink.write(batch)
    await sink.shown()
    return [verdict.outcome for verdict in verdicts]


def test_every_sink_has_a_harness() -> None:
    assert {each.kind for each in HARNESSES} == {*SINKS, "memory"}


@pytest.mark.parametrize("kind", SINKS)
def test_a_sink_is_built_by_its_kind_and_connects_to_nothing_yet(kind: str) -> None:
    assert build(kind, with_local_addresses(Settings())).name == kind


async def test_an_empty_batch_is_nothing(harness: Harness) -> None:
    assert await outcomes(await harness.opened()) == []


async def test_a_reader_sees_the_newest_value(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    assert await harness.reads(keys) == [None for _ in keys]
    for version, value in enumerate([7, 8, None, 9], start=1):
        assert await outcomes(sink, *await harness.commits(keys, version, value)) == [Outcome.APPLIED for _ in keys]
        assert await harness.reads(keys) == [value for _ in keys]


async def test_opened_twice_it_still_writes(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    await outcomes(sink, *await harness.commits(keys, 1, 1))
    await sink.open()
    assert await outcomes(sink, *await harness.commits(keys, 2, 2)) == [Outcome.APPLIED for _ in keys]
    assert await harness.reads(keys) == [2 for _ in keys]


async def test_several_open_an_empty_store_at_once(stored: Harness, request: pytest.FixtureRequest) -> None:
    settings = request.getfixturevalue("settings") if stored.remote else None
    with type(stored).stored(settings) as fresh:
        await fresh.start()
        try:
            sinks = [fresh.sink() for _ in range(3)]
            await asyncio.gather(*(sink.open() for sink in sinks))
            keys = [await fresh.key() for _ in sinks]
            for number, (sink, key) in enumerate(zip(sinks, keys, strict=True), start=1):
                assert await outcomes(sink, await fresh.commit(key, 1, number)) == [Outcome.APPLIED]
            assert [await fresh.read(key) for key in keys] == [1, 2, 3]
        finally:
            await fresh.stop()


async def test_one_verdict_for_each_command_in_its_place(harness: Harness) -> None:
    sink = await harness.opened()
    keys = [*await harness.one_of_each(), *await harness.one_of_each(), await harness.key()]
    await outcomes(sink, *await harness.commits(keys, 5, 5))
    late = [number % 2 == 0 for number in range(len(keys))]
    batch = [await harness.commit(key, 4 if is_late else 6, 6) for key, is_late in zip(keys, late, strict=True)]
    assert await outcomes(sink, *batch) == [harness.no_news if is_late else Outcome.APPLIED for is_late in late]
    assert await harness.reads(keys) == [5 if is_late else 6 for is_late in late]


@refusing_ones
async def test_what_the_store_refuses_takes_nothing_else_down(harness: Harness) -> None:
    sink = await harness.opened()
    for poison in harness.poisons():
        keys = [await harness.key() for _ in range(6)]
        good = [await harness.commit(key, 1, 3) for key in keys]
        verdicts = await sink.write([*good[:3], poison, *good[3:]])
        await sink.shown()
        assert [verdict.outcome for verdict in verdicts] == [
            *[Outcome.APPLIED] * 3,
            Outcome.REJECTED,
            *[Outcome.APPLIED] * 3,
        ]
        assert verdicts[3].reason
        assert [await harness.read(key) for key in keys] == [3] * 6


async def history(harness: Harness, keys: Sequence[str]) -> list[list[Any]]:
    """Return the changes of a life that ends at 4: for each change its commands, one a key."""
    return [await harness.commits(keys, version, value) for version, value in enumerate([1, 2, None, 4], start=1)]


def together(*changes: Sequence[Any]) -> list[Any]:
    """Return the commands of several changes as one batch."""
    return [command for change in changes for command in change]


async def test_all_of_it_again_changes_nothing(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    batch = together(*await history(harness, keys))
    await outcomes(sink, *batch)
    seen = await harness.sees(keys)
    assert await outcomes(sink, *batch) == [harness.no_news for _ in batch]
    assert await harness.sees(keys) == seen
    assert await harness.reads(keys) == [4 for _ in keys]


async def test_any_part_of_it_again_changes_nothing(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    life = await history(harness, keys)
    await outcomes(sink, *together(*life))
    seen = await harness.sees(keys)
    for part in (life[:1], life[1:3], life[2:], [life[0], life[0]], [*life, *life]):
        batch = together(*part)
        assert await outcomes(sink, *batch) == [harness.no_news for _ in batch]
        assert await harness.sees(keys) == seen


async def test_the_newest_of_one_batch_wins_wherever_it_stands(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    first, second, gone, last = await history(harness, keys)
    await outcomes(sink, *together(last, first, gone, second))
    assert await harness.reads(keys) == [4 for _ in keys]


async def test_an_older_change_comes_too_late(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    older, newer = await harness.commits(keys, 1, 1), await harness.commits(keys, 2, 2)
    await outcomes(sink, *newer)
    assert await outcomes(sink, *older) == [harness.no_news for _ in keys]
    assert await harness.reads(keys) == [2 for _ in keys]


async def test_a_snapshot_row_creates_what_is_missing(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    for version, value in ((0, 3), (1, 4)):
        assert await outcomes(sink, *await harness.commits(keys, version, value)) == [Outcome.APPLIED for _ in keys]
        assert await harness.reads(keys) == [value for _ in keys]


@pytest.mark.parametrize("value", [2, None])
async def test_a_snapshot_row_never_overwrites(harness: Harness, value: int | None) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    await outcomes(sink, *await harness.commits(keys, 1, 1), *await harness.commits(keys, 2, value))
    assert await outcomes(sink, *await harness.commits(keys, 0, 9)) == [harness.no_news for _ in keys]
    assert await harness.reads(keys) == [value for _ in keys]


async def test_what_is_deleted_stays_deleted_when_its_life_is_replayed(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    life = [*(await history(harness, keys))[:2], await harness.commits(keys, 5, None)]
    for change in life:
        await outcomes(sink, *change)
    for part in (life[:1], life[:2], life):
        await outcomes(sink, *together(*part))
        assert await harness.reads(keys) == [None for _ in keys]


async def test_what_is_inserted_after_a_delete_lives(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    first, gone = await harness.commits(keys, 1, 1), await harness.commits(keys, 2, None)
    await outcomes(sink, *first, *gone)
    assert await outcomes(sink, *await harness.commits(keys, 3, 5)) == [Outcome.APPLIED for _ in keys]
    await outcomes(sink, *gone, *first)
    assert await harness.reads(keys) == [5 for _ in keys]


LIVES = st.lists(st.lists(st.none() | st.integers(1, 99), min_size=1, max_size=4), min_size=1, max_size=3)


@given(lives=LIVES, data=st.data())
@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_duplicates_in_any_order_end_as_the_changes_in_order(
    harness: Harness, lives: Sequence[Sequence[int | None]], data: st.DataObject
) -> None:
    sink = await harness.opened()
    keys = [await harness.key() for _ in lives]
    commands = []
    for key, life in zip(keys, lives, strict=True):
        # the first is a snapshot's row, if it can be: a snapshot has no deletes
        first = 1 if life[0] is None else 0
        commands += [await harness.commit(key, version, value) for version, value in enumerate(life, start=first)]
    again = data.draw(st.lists(st.sampled_from(range(len(commands))), max_size=6))
    order = data.draw(st.permutations([*range(len(commands)), *again]))
    while order:
        size = data.draw(st.integers(1, len(order)))
        await sink.write([commands[place] for place in order[:size]])
        order = order[size:]
    await sink.shown()
    assert [await harness.read(key) for key in keys] == [life[-1] for life in lives]


async def test_a_write_whose_answer_was_lost_is_written_again(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    batch = await harness.commits(keys, 1, 6)
    await harness.lose_replies()
    with pytest.raises(SinkUnavailable):
        await sink.write(batch)
    await harness.back()
    await sink.shown()
    assert 6 in await harness.reads(keys), "the answer was lost, not the write"
    # APPLIED where nothing had arrived yet, else no news
    assert set(await outcomes(sink, *batch)) <= {Outcome.APPLIED, harness.no_news}
    assert await harness.reads(keys) == [6 for _ in keys]
    seen = await harness.sees(keys)
    assert await outcomes(sink, *batch) == [harness.no_news for _ in keys]
    assert await harness.sees(keys) == seen


async def test_another_worker_takes_over_and_the_first_one_comes_late(harness: Harness) -> None:
    first, second = await harness.opened(), await harness.opened()
    keys = await harness.one_of_each()
    applied, no_news = [Outcome.APPLIED for _ in keys], [harness.no_news for _ in keys]
    one, two = await harness.commits(keys, 1, 1), await harness.commits(keys, 2, 2)
    assert await outcomes(first, *one) == applied
    assert await outcomes(second, *one, *two) == no_news + applied
    assert await outcomes(first, *one, *two) == no_news + no_news
    gone = await harness.commits(keys, 3, None)
    assert await outcomes(first, *gone) == applied
    assert await outcomes(second, *two) == no_news
    assert await harness.reads(keys) == [None for _ in keys]


async def test_writes_of_different_keys_at_once(harness: Harness) -> None:
    sink = await harness.opened()

    async def life(number: int) -> tuple[str, int]:
        key = await harness.key()
        for version in (1, 2, 3):
            assert await outcomes(sink, await harness.commit(key, version, number + version)) == [Outcome.APPLIED]
            # every one of them has called shown() for itself, while others were writing
            assert await harness.read(key) == number + version
        return key, number + 3

    for key, value in await asyncio.gather(*(life(number) for number in range(10, 60, 10))):
        assert await harness.read(key) == value


async def test_a_server_that_is_away_is_named_and_the_same_sink_recovers(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    await outcomes(sink, *await harness.commits(keys, 1, 1))
    change = await harness.commits(keys, 2, 2)
    await harness.away()
    for command in change:
        with pytest.raises(SinkUnavailable, match=harness.server):
            await sink.write([command])
    await harness.back()
    assert await outcomes(sink, *change) == [Outcome.APPLIED for _ in keys]
    assert await harness.reads(keys) == [2 for _ in keys]


@remote_ones
async def test_a_sink_that_found_no_server_opens_later(harness: Harness) -> None:
    sink, keys = harness.sink(), await harness.one_of_each()
    await harness.away()
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match=harness.server):
            await sink.open()
    await harness.back()
    await sink.open()
    assert await outcomes(sink, *await harness.commits(keys, 1, 1)) == [Outcome.APPLIED for _ in keys]
    assert await harness.reads(keys) == [1 for _ in keys]


async def test_closing_twice_is_closing_once(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    await outcomes(sink, *await harness.commits(keys, 1, 1))
    await sink.close()
    await sink.close()
    assert await harness.reads(keys) == [1 for _ in keys]


async def test_closing_does_not_mind_a_server_that_is_away(harness: Harness) -> None:
    sink, keys = await harness.opened(), await harness.one_of_each()
    await outcomes(sink, *await harness.commits(keys, 1, 1))
    await harness.away()
    await sink.close()
    assert await harness.reads(keys) == [1 for _ in keys]
