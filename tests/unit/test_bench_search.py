"""The raw limit of Elasticsearch: a server that says "not now" is waited for, one that refuses a document is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from bench.search import _sent
from processors.sinks.base import SinkUnavailable
from processors.sinks.search.client import Elastic


@dataclass
class Busy:
    """A server that has no memory for the first requests."""

    refusals: int
    errors: bool = False
    bodies: list[bytes] = field(default_factory=list)

    async def request(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        self.bodies.append(body)
        if len(self.bodies) <= self.refusals:
            raise SinkUnavailable("answers 429")
        return {"errors": self.errors}


async def test_a_request_that_was_refused_for_now_is_sent_again() -> None:
    server = Busy(refusals=2)
    await _sent(cast("Elastic", server), "/i/_bulk", b"one")
    assert server.bodies == [b"one"] * 3


async def test_a_document_that_is_refused_ends_the_benchmark() -> None:
    with pytest.raises(AssertionError):
        await _sent(cast("Elastic", Busy(refusals=0, errors=True)), "/i/_bulk", b"one")
