"""Writing commands until each has its final verdict: retried in place, halved around an exception. Knows no Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from processors.engine.waiting import Waits
from processors.sinks.base import Outcome, Sink, SinkUnavailable, Verdict, rejected, retry

log = structlog.get_logger(__name__)
RAISES_ALLOWED = 3
"""How often one command alone may make the sink raise before it is taken for the data's fault."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one write decided: the commands at `indexes` have these verdicts; `attempt` counts the writes, from 1."""

    attempt: int
    indexes: Sequence[int]
    verdicts: Sequence[Verdict]

    def rejected(self) -> list[tuple[int, Verdict]]:
        """Return the commands that can never be written, by index."""
        return [
            (index, verdict)
            for index, verdict in zip(self.indexes, self.verdicts, strict=True)
            if verdict.outcome is Outcome.REJECTED
        ]


async def write_until_decided(sink: Sink[Any], commands: Sequence[Any], waits: Waits) -> AsyncIterator[Round]:
    """Write the commands; yield, round by round, those that are decided.

    A verdict yielded is APPLIED, STALE or REJECTED, each index comes once, and when the iteration ends every index has
    come. SinkUnavailable and RETRY are answered by back-off and writing again, in the commands' order.

    Raises:
        WaitedTooLong: see Waits.
    """
    pending = list(range(len(commands)))
    raised: Counter[int] = Counter()
    wait = waits.begin(sink.name)
    attempt = 0
    try:
        while pending:
            attempt += 1
            try:
                verdicts = await _write(sink, commands, pending, raised)
            except SinkUnavailable as error:
                await wait.failed(str(error))
                continue
            again = [verdict for verdict in verdicts if verdict.outcome is Outcome.RETRY]
            if not again:
                wait.over()
                yield Round(attempt, pending, verdicts)
                return
            decided = [(i, v) for i, v in zip(pending, verdicts, strict=True) if v.outcome is not Outcome.RETRY]
            pending = [i for i, v in zip(pending, verdicts, strict=True) if v.outcome is Outcome.RETRY]
            if decided:
                wait.over()
                yield Round(attempt, [i for i, _ in decided], [v for _, v in decided])
            await wait.failed(f"{len(again)} of {len(verdicts)} commands must wait: {again[0].reason}")
    finally:
        wait.over()


async def _write(sink: Sink[Any], commands: Sequence[Any], indexes: list[int], raised: Counter[int]) -> list[Verdict]:
    """Write the commands at `indexes`; where the sink raises, halve until the command that raises is alone."""
    try:
        verdicts = list(await sink.write([commands[index] for index in indexes]))
    except SinkUnavailable:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if len(indexes) == 1:
            index = indexes[0]
            raised[index] += 1
            log.exception("sink_raised", sink=sink.name, times=raised[index])
            return [rejected(reason) if raised[index] >= RAISES_ALLOWED else retry(reason)]
        log.warning("sink_raised_on_batch", sink=sink.name, commands=len(indexes), reason=reason)
        middle = len(indexes) // 2
        first = await _write(sink, commands, indexes[:middle], raised)
        return first + await _write(sink, commands, indexes[middle:], raised)
    if len(verdicts) != len(indexes):
        msg = (
            f"the sink {sink.name} answered {len(indexes)} commands with {len(verdicts)} verdicts: a defect in the sink"
        )
        raise RuntimeError(msg)
    return verdicts
