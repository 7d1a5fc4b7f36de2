"""Which differences stay. A pipeline that flows is always a little behind: what differs is looked at again. Pure but for
what a Check reads."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from processors.verify.model import Check, Key, Values

PENDING = 20_000
"""Differing keys of one check that are kept for another look. Of more, all beyond differ without another look."""
CHUNK = 500
"""Keys in one look."""


@dataclass(slots=True)
class Pending:
    """One key that differed at the last look.

    Attributes:
        moving: both sides changed since the look before: the pipeline is alive, and always a step behind.
    """

    source: Values | None
    shown: Values | None
    moving: bool = False


@dataclass(slots=True)
class Found:
    """What is known of one check so far."""

    check: Check
    compared: int = 0
    pending: dict[Key, Pending] = field(default_factory=dict)
    beyond: int = 0

    @property
    def lasting(self) -> Mapping[Key, Pending]:
        """What differs and stands still."""
        return {key: each for key, each in self.pending.items() if not each.moving}


async def first_look(check: Check) -> Found:
    """Compare everything once."""
    found = Found(check)
    async for key, source, shown in check.first_look():
        found.compared += 1
        if source == shown:
            continue
        if len(found.pending) < PENDING:
            found.pending[key] = Pending(source, shown)
        else:
            found.beyond += 1
    return found


async def look_again(found: Found) -> None:
    """Read the differing keys of one check again, and forget those that are equal now."""
    keys = list(found.pending)
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        source = await found.check.source_at(chunk)
        shown = await found.check.shown_at(chunk)
        for key in chunk:
            before, now = found.pending[key], Pending(source.get(key), shown.get(key))
            if now.source == now.shown or _forgotten(found.check, now):
                del found.pending[key]
            else:
                now.moving = now.source != before.source and now.shown != before.shown
                found.pending[key] = now


async def settle(found: list[Found], settle_s: float, grace_s: float) -> None:
    """Look again every `grace_s` until nothing differs, or for `settle_s`; at least once for what differs."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settle_s
    while any(each.pending for each in found):
        await asyncio.sleep(grace_s)
        for each in found:
            await look_again(each)
        if loop.time() >= deadline:
            return


def _forgotten(check: Check, pending: Pending) -> bool:
    """Whether the sink may lack what it lacks: a cache may forget anything."""
    return check.may_forget and pending.shown is None
