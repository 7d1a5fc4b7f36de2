"""Python's cyclic garbage collector, set for a process that makes and drops a hundred thousand records a second."""

from __future__ import annotations

import gc

THRESHOLDS = (100_000, 20, 20)
"""Python's own, 700 new containers, has a replay traverse its backlog again and again: measured, a third of the time.
Records and commands hold no cycles and go by reference counting; what has cycles (exceptions, tasks) is little, and waits."""


def settle() -> None:
    """Leave what the start made out of all later collections, and collect seldom from now on. Call it once, when started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
