"""What is known of one partition at one sink: how far readers see, the figures of what they saw, the dead letters.

The value and its form in the compacted topic, key and value. Pure; who writes and who reads it is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from downriver.versions import Versions
from processors.propagation.figures import ACCURACY, Figures

VERSIONS = Versions("a propagation state")
"""A worker refuses a version that it does not know."""


class StateKey(NamedTuple):
    """Whose state it is."""

    sink: str
    topic: str
    partition: int

    def encode(self) -> bytes:
        """Return the record key: compact JSON, `["cache","shop_inventory.public.inventory",3]`."""
        return orjson.dumps(list(self))

    @classmethod
    def decode(cls, key: bytes | None) -> StateKey:
        """Return the key that `encode` gave.

        Raises:
            ValueError: it is something else.
        """
        match _parsed(key):
            case [str(sink), str(topic), int(partition)]:
                return cls(sink, topic, partition)
        msg = f"{key!r} is no key of a propagation state"
        raise ValueError(msg)


@dataclass(slots=True)
class State:
    """The state of one partition at one sink.

    Attributes:
        visible: readers of the sink see every change below this offset, but for the dead letters; 0: none yet.
        rules: rule name → figures of the changes below `visible`.
        dead_letters: records below `visible` that the sink never took.
        updated_s: when it last changed, in seconds since the epoch, by the worker's clock.
    """

    visible: int = 0
    rules: dict[str, Figures] = field(default_factory=dict)
    dead_letters: int = 0
    updated_s: float = 0.0

    def encode(self) -> bytes:
        """Return the record value: compact JSON."""
        return orjson.dumps(
            {
                "form": VERSIONS.newest,
                "accuracy": ACCURACY,
                "visible": self.visible,
                "dead_letters": self.dead_letters,
                "updated_s": self.updated_s,
                "rules": {name: figures.as_json() for name, figures in self.rules.items()},
            }
        )

    @classmethod
    def decode(cls, value: bytes) -> State:
        """Return the state that `encode` gave.

        Raises:
            ValueError: it is something else; UnknownVersion: of a version that a newer worker wrote.
        """
        stored = _parsed(value)
        if isinstance(stored, Mapping) and isinstance(stored.get("form"), int):
            stored = VERSIONS.cast(stored, stored["form"])
        if not isinstance(stored, Mapping) or stored.get("accuracy") != ACCURACY:
            msg = f"{value[:80]!r} is no propagation state with accuracy {ACCURACY}"
            raise ValueError(msg)
        try:
            return cls(
                int(stored["visible"]),
                {name: Figures.from_json(figures) for name, figures in stored["rules"].items()},
                int(stored["dead_letters"]),
                float(stored["updated_s"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"{value[:80]!r} is no propagation state: {type(error).__name__} {error}"
            raise ValueError(msg) from None


def _parsed(stored: bytes | None) -> Any:
    try:
        return orjson.loads(stored or b"")
    except orjson.JSONDecodeError:
        return None
