"""What the demo found: the one object that decides its exit code. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from processors.propagation.arrival import Arrival
from processors.propagation.status import Status
from processors.verify.model import Comparison

COUNTED = {"inventory": "inventory", "reviews": "reviews"}
"""Rule → the table whose every change it counts: as many must have been measured as were committed, or more, for a
change of a key is a delete and a create."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a run.

    Attributes:
        committed: table → row changes that the workload committed.
        arrival: how the wait for the last change ended.
    """

    committed: Mapping[str, int]
    status: Status
    comparison: Comparison
    arrival: Arrival
    restarts: Mapping[str, int]
    reads: int
    hit_rate: float

    @property
    def dead_letters(self) -> int:
        """Records that a sink refused during the run."""
        return sum(self.status.dead_letters.values())

    @property
    def late(self) -> int:
        """Changes that came after their rule's limit, over all rules and sinks."""
        return sum(standing.figures.late for standing in self.status.standings.values())

    def unmeasured(self) -> list[dict[str, Any]]:
        """Return a difference for every rule and sink that measured fewer changes than were committed."""
        found = []
        for (rule, sink), standing in self.status.standings.items():
            table = COUNTED.get(rule)
            if table and standing.figures.count < (committed := self.committed.get(table, 0)):
                found.append(
                    {
                        "sink": sink,
                        "table": table,
                        "key": f"rule {rule}",
                        "field": "count",
                        "source": str(committed),
                        "shown": str(standing.figures.count),
                    }
                )
        return found

    @property
    def differences(self) -> Sequence[dict[str, Any]]:
        """What differs, field by field, and what never arrived."""
        missing = [
            {
                "sink": each.where,
                "table": each.topic,
                "key": str(each.partition),
                "field": "visible",
                "source": str(each.wanted),
                "shown": str(each.stands),
            }
            for each in self.arrival.missing
        ]
        return [*missing, *self.unmeasured(), *(asdict(each) for each in self.comparison.differences)]

    @property
    def ok(self) -> bool:
        """Whether all is equal, nothing was late, everything arrived and was measured, and nothing was refused."""
        return (
            self.comparison.ok
            and self.arrival.complete
            and not self.late
            and not self.dead_letters
            and not self.unmeasured()
        )

    def as_json(self) -> dict[str, Any]:
        """Return the object that `-o json` ends with."""
        rules: dict[str, Any] = {name: {"limit_s": limit, "sinks": {}} for name, limit in self.status.limits.items()}
        for (rule, sink), standing in self.status.standings.items():
            figures = standing.as_json()
            names = ("count", "p50_s", "p99_s", "max_s", "late")
            rules[rule]["sinks"][sink] = {name: figures[name] for name in names}
        return {
            "ok": self.ok,
            "committed": dict(self.committed),
            "rules": rules,
            "equal": dict(self.comparison.equal),
            "compared": dict(self.comparison.compared),
            "differences": list(self.differences),
            "dead_letters": self.dead_letters,
            "restarts": dict(self.restarts),
            "cache": {"reads": self.reads, "hit_rate": round(self.hit_rate, 4)},
        }
