"""Versions of documents that we define ourselves: what is stored, or sent to others, outlives the program that wrote it.

Two programs of neighbouring versions work side by side while one is being replaced. So a reader takes any version up to its
own (upcasting), a writer can write any version from the first (downcasting) for readers that are older, and within a version
only keys are added, which a reader that does not know them passes over. A newer version is refused: guessing would be wrong.

An application's events carry their version in their type (docs/outbox.md). Needs nothing but Python's own library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]
Cast = Callable[[Document], Document]


class UnknownVersion(ValueError):
    """A document of a version that this program does not know; the message says which it knows."""


@dataclass(frozen=True, slots=True)
class Step:
    """From a version to the next one and back. Each gets a copy of its own and returns it changed, or another.

    Attributes:
        up: makes the newer of the older: what it lacks gets the value that it had in effect.
        down: makes the older of the newer: what the older can't say is left out.
    """

    up: Cast
    down: Cast


@dataclass(frozen=True, slots=True)
class Versions:
    """Every version of one kind of document, from 1.

    Attributes:
        kind: names it in messages; of an event, its type without the version: `com.platform.orders.order.updated`.
        steps: from 1 to 2, from 2 to 3, and so on.
    """

    kind: str
    steps: tuple[Step, ...] = ()

    @property
    def newest(self) -> int:
        """The version that this program thinks in."""
        return 1 + len(self.steps)

    def named(self, version: int | None = None) -> str:
        """Return the type of an event of this kind, default of the newest version: `….updated.v2`."""
        return f"{self.kind}.v{self.newest if version is None else version}"

    def version_in(self, event_type: str) -> int | None:
        """Return the version that an event's type tells, known here or not; None: an event of another kind."""
        written = event_type.removeprefix(f"{self.kind}.v")
        return int(written) if written != event_type and written.isascii() and written.isdecimal() else None

    def cast(self, document: Mapping[str, Any], written: int, wanted: int | None = None) -> Document:
        """Return the document of version `written` as one of version `wanted`, default the newest.

        Raises:
            UnknownVersion: one of them is not known here.
        """
        wanted = self.newest if wanted is None else wanted
        for version in (written, wanted):
            if not 1 <= version <= self.newest:
                known = "1" if self.newest == 1 else f"1 to {self.newest}"
                msg = f"{self.kind} of version {version}: this program knows {known}; upgrade it"
                raise UnknownVersion(msg)
        made = deepcopy(dict(document))
        for step in self.steps[written - 1 : wanted - 1]:
            made = step.up(made)
        for step in reversed(self.steps[wanted - 1 : written - 1]):
            made = step.down(made)
        return made
