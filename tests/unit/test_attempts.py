"""Writing until decided: retries in place, back-off, halving around an exception."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from processors.engine.attempts import write_until_decided
from processors.engine.waiting import WaitedTooLong, Waits
from processors.sinks.base import APPLIED, STALE, Outcome, Verdict, rejected, retry
from tests.support.memory import MemorySink, Put, away, reply_lost


class Clock:
    """Time passes only by sleeping."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waits(clock: Clock) -> Waits:
    return Waits(clock=clock, sleep=clock.sleep)


def puts(count: int) -> list[Put]:
    return [Put(f"k{index}", 1, f"v{index}") for index in range(count)]


async def decide(sink: MemorySink, commands: Sequence[Put], waits: Waits) -> dict[int, Verdict]:
    decided: dict[int, Verdict] = {}
    async for done in write_until_decided(sink, commands, waits):
        for index, verdict in zip(done.indexes, done.verdicts, strict=True):
            assert index not in decided
            decided[index] = verdict
    return decided


async def test_every_command_gets_its_verdict(waits: Waits) -> None:
    sink = MemorySink(rows={"k1": (9, "newer")})
    assert await decide(sink, puts(3), waits) == {0: APPLIED, 1: STALE, 2: APPLIED}


async def test_an_away_store_is_waited_for_and_loses_nothing(waits: Waits) -> None:
    sink = MemorySink(faults=[away, away, away])
    assert await decide(sink, puts(2), waits) == {0: APPLIED, 1: APPLIED}
    assert len(sink.writes) == 4
    assert not waits.current()


async def test_a_lost_reply_is_written_again_and_found_stale(waits: Waits) -> None:
    sink = MemorySink()
    sink.faults.append(reply_lost(sink))
    assert await decide(sink, puts(2), waits) == {0: STALE, 1: STALE}
    assert sink.rows == {"k0": (1, "v0"), "k1": (1, "v1")}


async def test_only_what_must_wait_is_written_again(waits: Waits) -> None:
    sink = MemorySink(faults=[lambda batch: [APPLIED, retry("throttled"), rejected("no such field")]])
    assert await decide(sink, puts(3), waits) == {0: APPLIED, 1: APPLIED, 2: rejected("no such field")}
    assert [put.key for put in sink.writes[1]] == ["k1"]


async def test_a_command_that_makes_the_sink_raise_is_found_and_rejected(waits: Waits) -> None:
    class Fragile(MemorySink):
        async def write(self, batch: Sequence[Put]) -> Sequence[Verdict]:
            if any(put.key == "k5" for put in batch):
                msg = "bad value"
                raise ValueError(msg)
            return await super().write(batch)

    sink = Fragile()
    decided = await decide(sink, puts(8), waits)
    assert decided.pop(5) == rejected("ValueError: bad value")
    assert {verdict.outcome for verdict in decided.values()} <= {Outcome.APPLIED, Outcome.STALE}
    assert set(sink.rows) == {f"k{index}" for index in range(8)} - {"k5"}


async def test_back_off_grows_to_its_limit(waits: Waits, clock: Clock) -> None:
    sink = MemorySink(faults=[away] * 20)
    await decide(sink, puts(1), waits)
    assert 0.5 * 10 * 13 < clock.now < 10 * 20


async def test_a_wait_past_the_limit_ends_with_who_and_how_long(clock: Clock) -> None:
    waits = Waits(limit_s=30, clock=clock, sleep=clock.sleep)
    sink = MemorySink(faults=[away] * 100)
    with pytest.raises(WaitedTooLong, match=r"memory was away for 3\d s, longer than the limit of 30 s"):
        await decide(sink, puts(1), waits)


async def test_who_is_waited_for_is_known_meanwhile(clock: Clock) -> None:
    seen: list[dict[str, float]] = []
    waits = Waits(clock=clock)

    async def sleep(seconds: float) -> None:
        clock.now += seconds
        seen.append(waits.current())

    waits.sleep = sleep
    await decide(MemorySink(faults=[away, away]), puts(1), waits)
    assert [list(item) for item in seen] == [["memory"], ["memory"]]
    assert seen[1]["memory"] > seen[0]["memory"] > 0


async def test_a_sink_that_answers_too_little_is_a_defect_that_ends_the_worker(waits: Waits) -> None:
    sink = MemorySink(faults=[lambda batch: [APPLIED]])
    with pytest.raises(RuntimeError, match="answered 2 commands with 1 verdicts"):
        await decide(sink, puts(2), waits)
