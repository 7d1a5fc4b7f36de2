"""The worker's side: takes what readers now see, keeps the figures of its partitions and publishes them.

It knows rules by name and limit, not what they count; it neither reads records nor decides what is committed: the engine
publishes first (`flush`) and commits after, so that a worker that is killed loses no figures and counts none twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry

from downriver.settings import Settings
from processors.propagation.figures import Figures
from processors.propagation.metrics import PropagationMetrics
from processors.propagation.rules import RuleSet
from processors.propagation.state import State, StateKey
from processors.propagation.topic import load_states

Load = Callable[[Settings, str], Awaitable[Mapping[tuple[str, int], bytes]]]


class Recorder:
    """The figures of the partitions that this worker owns, at one sink. Used from one event loop.

    Args:
        sink: the sink's name.
        rules: those that hold for the sink (`RuleSet.for_sink`), the same that chose the samples' names.
        publish: writes (key, value) to the topic of the states and returns when the brokers have it. It raises what it
            likes; the state is then published again by the next flush.
        clock: seconds since the epoch.
        load: reads the stored states of the sink; for tests.
    """

    def __init__(
        self,
        sink: str,
        rules: RuleSet,
        *,
        settings: Settings,
        publish: Callable[[bytes, bytes], Awaitable[None]],
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.time,
        load: Load = load_states,
    ) -> None:
        self._sink = sink
        self._limits = rules.limits
        self._settings = settings
        self._publish = publish
        self._clock = clock
        self._load = load
        self._states: dict[tuple[str, int], State] = {}
        self._dead: dict[tuple[str, int], set[int]] = {}
        self._changed: set[tuple[str, int]] = set()
        self._flushing = asyncio.Lock()
        self._metrics = PropagationMetrics(sink, self._limits)
        registry.register(self._metrics)

    async def restore(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Take over newly assigned partitions (topic, partition), with the figures their last owner published.

        Raises:
            KafkaError: Kafka is away (aiokafka's); nothing was taken over, call again.
            DownriverError: the stored state can't be read.
        """
        stored = await self._load(self._settings, self._sink)
        for topic, partition in partitions:
            self.adopt(topic, partition, stored.get((topic, partition)))

    def adopt(self, topic: str, partition: int, stored: bytes | None) -> None:
        """Take over one partition; `stored` is its state in the topic, None if there is none.

        Raises:
            ValueError: `stored` is no state.
        """
        state = State() if stored is None else State.decode(stored)
        self._states[topic, partition] = state
        self._changed.discard((topic, partition))
        self._metrics.visible(topic, partition, state.visible)

    def dropped(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Forget partitions that were revoked. What was not flushed is forgotten too: the next owner reads it again."""
        gone = set(partitions)
        for where in gone:
            self._states.pop(where, None)
            self._dead.pop(where, None)
        self._changed -= gone
        self._metrics.forget(gone)

    def visible(
        self, topic: str, partition: int, position: int, samples: Sequence[tuple[str, int, int]], at_s: float
    ) -> None:
        """Record that readers see every change of the partition below `position`, since `at_s`.

        Args:
            samples: rule, commit time in milliseconds since the epoch, offset; of every change that a rule counts from
                the last position on, and of earlier ones if they were delivered again: those were counted.
            at_s: seconds since the epoch, on the clock whose skew against PostgreSQL's is then measured too.
        """
        where = (topic, partition)
        state = self._states.setdefault(where, State())
        seen = state.visible
        if position <= seen:
            return
        # many changes of a batch share rule and millisecond: count first, then look up buckets
        counted = Counter((rule, committed_ms) for rule, committed_ms, offset in samples if offset >= seen)
        for (rule, committed_ms), times in counted.items():
            latency_s = at_s - committed_ms / 1000
            figures = state.rules.get(rule)
            if figures is None:
                figures = state.rules[rule] = Figures()
            figures.add(latency_s, self._limits.get(rule), times)
            self._metrics.observe(rule, latency_s, times)
        dead = self._dead.pop(where, set())
        state.dead_letters += sum(seen <= offset < position for offset in dead)
        if ahead := {offset for offset in dead if offset >= position}:
            self._dead[where] = ahead
        state.visible = position
        state.updated_s = self._clock()
        self._changed.add(where)
        self._metrics.visible(topic, partition, position)

    def dead_letter(self, topic: str, partition: int, offset: int) -> None:
        """Note a record that the sink will never show; call it before the position passes it.

        It is counted when the position does, so that it is published with that position: one that is delivered again,
        to this worker or to the next, counts once.
        """
        self._dead.setdefault((topic, partition), set()).add(offset)

    async def flush(self) -> None:
        """Publish every state that changed since it was last published; return when the brokers have all of them.

        Raises what `publish` raises: what was not published then stays changed.
        """
        async with self._flushing:  # two at once could overtake each other and leave the older state
            taken, self._changed = self._changed, set()
            states = {where: self._states[where] for where in taken if where in self._states}
            try:
                sent = await asyncio.gather(
                    *(
                        self._publish(StateKey(self._sink, *where).encode(), state.encode())
                        for where, state in states.items()
                    ),
                    return_exceptions=True,
                )
            except asyncio.CancelledError:
                self._changed |= taken & self._states.keys()
                raise
            failures = {where: error for where, error in zip(states, sent, strict=True) if error is not None}
            self._changed |= failures.keys() & self._states.keys()
        for error in failures.values():
            raise error
