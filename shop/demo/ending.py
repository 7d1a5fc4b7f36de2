"""Ends background tasks for certain. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

AGAIN_S = 1.0


async def cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks, again and again, until they have ended; how they ended is not asked.

    One cancellation is not enough: clients of Kafka and of Redis may swallow it while they close or time out (tried: a
    demo that was interrupted hung for ever).
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)  # asyncio complains of errors that nobody has taken
