"""Latency figures that can be added up, taken apart again and stored: count, late, extremes and a quantile sketch.

Pure arithmetic on seconds; knows neither rules by name nor who measures. The sketch is DDSketch's idea (Masson, Rim, Lee:
"DDSketch: a fast and fully-mergeable quantile sketch", 2019). The library of that name serialises only through
protobuf and keeps dense bins; this needs a sparse, signed, JSON form, and no more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

ACCURACY = 0.01
"""A quantile is off by at most this share of its value, once it is over a millisecond."""

UNIT_S = 0.001
"""Commit times come in milliseconds: what is nearer to zero than one is bucket 0."""

_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_SCALE = 1 / math.log(_GAMMA)


def bucket(latency_s: float) -> int:
    """Return the bucket of a latency. Buckets are ordered as latencies are; those below 0 are negative latencies."""
    size = abs(latency_s) / UNIT_S
    if size < 1:
        return 0
    number = math.ceil(math.log(size) * _SCALE) + 1
    return number if latency_s > 0 else -number


def middle_s(number: int) -> float:
    """Return the latency that stands for a bucket: within ACCURACY of every latency in it."""
    if number == 0:
        return 0.0
    size_s = UNIT_S * 2 * _GAMMA ** (abs(number) - 1) / (_GAMMA + 1)
    return size_s if number > 0 else -size_s


@dataclass(slots=True)
class Figures:
    """The latencies of some changes, in seconds from the commit until a reader saw them.

    Attributes:
        count: changes seen by readers.
        late: those over their rule's limit.
        negative: those seen "before" their commit: the clocks of source and worker differ. They are in every other
            figure with their true sign.
        min_s, max_s: the extremes, exact; infinite while count is 0.
        buckets: bucket → changes in it.
    """

    count: int = 0
    late: int = 0
    negative: int = 0
    sum_s: float = 0.0
    min_s: float = math.inf
    max_s: float = -math.inf
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, latency_s: float, limit_s: float | None, times: int = 1) -> None:
        """Add a latency that `times` changes had; over `limit_s` (None: no limit) it is late."""
        self.count += times
        self.sum_s += latency_s * times
        self.min_s = min(self.min_s, latency_s)
        self.max_s = max(self.max_s, latency_s)
        self.buckets[bucket(latency_s)] += times
        if latency_s < 0:
            self.negative += times
        if limit_s is not None and latency_s > limit_s:
            self.late += times

    def merge(self, other: Figures) -> None:
        """Add the other's changes to these."""
        self.count += other.count
        self.late += other.late
        self.negative += other.negative
        self.sum_s += other.sum_s
        self.min_s = min(self.min_s, other.min_s)
        self.max_s = max(self.max_s, other.max_s)
        self.buckets.update(other.buckets)

    def since(self, earlier: Figures) -> Figures:
        """Return the figures of what was added after `earlier`, a former state of these.

        The extremes are exact where they moved since; else they are those of the buckets, within ACCURACY. Fewer changes
        than earlier mean that the figures were started anew: then all of them are since.
        """
        if self.count < earlier.count:
            earlier = Figures()
        buckets = Counter({number: left for number, n in self.buckets.items() if (left := n - earlier.buckets[number])})
        count = self.count - earlier.count
        if not count:
            return Figures()
        return Figures(
            count,
            self.late - earlier.late,
            self.negative - earlier.negative,
            self.sum_s - earlier.sum_s,
            self.min_s if self.min_s < earlier.min_s else middle_s(min(buckets)),
            self.max_s if self.max_s > earlier.max_s else middle_s(max(buckets)),
            buckets,
        )

    def quantile_s(self, share: float) -> float | None:
        """Return the latency that `share` (0..1) of the changes had at most; None without changes."""
        if not self.count:
            return None
        rank = share * (self.count - 1)
        below = 0
        for number in sorted(self.buckets):
            below += self.buckets[number]
            if below > rank:
                return min(max(middle_s(number), self.min_s), self.max_s)
        return self.max_s

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` takes: numbers alone, the sketch as one flat list of bucket, count, bucket, count."""
        return {
            "count": self.count,
            "late": self.late,
            "negative": self.negative,
            "sum_s": self.sum_s,
            "min_s": self.min_s if self.count else None,
            "max_s": self.max_s if self.count else None,
            "sketch": [part for pair in sorted(self.buckets.items()) for part in pair],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the figures that `as_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        sketch = [int(part) for part in stored["sketch"]]
        buckets = Counter(dict(zip(sketch[::2], sketch[1::2], strict=True)))
        count = int(stored["count"])
        if buckets.total() != count:
            msg = f"the sketch holds {buckets.total()} changes, the count says {count}"
            raise ValueError(msg)
        return cls(
            count,
            int(stored["late"]),
            int(stored["negative"]),
            float(stored["sum_s"]),
            float(stored["min_s"]) if count else math.inf,
            float(stored["max_s"]) if count else -math.inf,
            buckets,
        )
