"""Compares the source with the sinks, row by row and value by value: the proof that changes arrived.

One snapshot of PostgreSQL for everything that is streamed; differing keys are looked at again until they are equal or
stand still. Knows no delivery: it reads what readers read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from downriver.exits import BadInput
from downriver.settings import Settings
from processors.tables import TABLES
from processors.tables.base import Table
from processors.verify.cache import CacheCheck, Pages
from processors.verify.model import RESTRICTED, ROW, Check, Comparison, Difference, Key
from processors.verify.settle import Found, Pending, first_look, settle
from processors.verify.source import Connection, as_it_is, connected

SINKS = ("cache", "search", "analytics")
LISTED = 100
"""Differences that a comparison lists; it counts all."""
SHORT = 200
"""Characters of a value that a difference shows."""
SNAPSHOT = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


async def compare(
    settings: Settings,
    sinks: Sequence[str] = SINKS,
    *,
    pages: Pages | None = None,
    settle_s: float = 30.0,
    grace_s: float = 1.0,
    tables: Sequence[Table] = TABLES,
    on_progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Compare the source with each of `sinks`.

    Args:
        pages: what the application reads through the cache (`shop.pages` is one); needed for the sink `cache`.
        settle_s: how long a difference may last before it counts: a pipeline that flows is always a little behind.
        grace_s: between two looks at what differs.
        on_progress: told what is being compared, such as `analytics orders`.

    Raises:
        BadInput: an unknown sink, the cache without `pages`, a source without the tables.
        ServerAway: PostgreSQL does not answer.
        SinkUnavailable: a sink does not answer.
        DownriverError: a sink has no such table or index.
    """
    unknown = [name for name in sinks if name not in SINKS]
    if unknown:
        msg = f"there is no sink {', '.join(unknown)} to compare with; there are: {', '.join(SINKS)}"
        raise BadInput(msg)
    async with AsyncExitStack() as stack:
        snapshot = await stack.enter_async_context(connected(settings.postgres))
        checks: list[Check] = []
        if "search" in sinks:
            checks += await _search_checks(settings, snapshot, stack)
        if "analytics" in sinks:
            checks += await _analytics_checks(settings, snapshot, tables, stack)
        if "cache" in sinks:
            checks.append(await _cache_check(settings, pages, stack))
        found: list[Found] = []
        await snapshot.execute(SNAPSHOT)
        try:
            for check in checks:
                on_progress(f"{check.sink} {check.table}")
                found.append(await first_look(check))
        finally:
            await snapshot.execute("ROLLBACK")
        if any(each.pending for each in found):
            on_progress("what differed, again")
        await settle(found, settle_s, grace_s)
        return summed(sinks, found)


async def _search_checks(settings: Settings, connection: Connection, stack: AsyncExitStack) -> list[Check]:
    from processors.sinks.search.client import Elastic
    from processors.verify.search import INDEXES, SearchCheck

    elastic = Elastic(settings.elasticsearch)
    stack.push_async_callback(elastic.close)
    return [SearchCheck(elastic, settings.elasticsearch.prefix, connection, index) for index in INDEXES]


async def _analytics_checks(
    settings: Settings, connection: Connection, tables: Sequence[Table], stack: AsyncExitStack
) -> list[Check]:
    from processors.verify.analytics import AnalyticsCheck, connect

    client = await asyncio.to_thread(connect, settings.clickhouse)
    stack.callback(client.close)
    return [
        AnalyticsCheck(settings.clickhouse, client, connection, table, *await as_it_is(connection, table))
        for table in tables
        if table.route("analytics")
    ]


async def _cache_check(settings: Settings, pages: Pages | None, stack: AsyncExitStack) -> Check:
    if pages is None:
        raise BadInput(
            "to compare the cache, say what its entries must hold: give `pages`, such as the module shop.pages"
        )
    from processors.sinks.cache.client import connect

    client = connect(settings.redis)
    stack.push_async_callback(client.aclose)
    loads: psycopg.AsyncConnection[Any] = await stack.enter_async_context(connected(settings.postgres))
    loads.row_factory = tuple_row
    return CacheCheck(settings.redis, client, loads, pages)


def summed(sinks: Sequence[str], found: Sequence[Found]) -> Comparison:
    """Return what the checks found, sink by sink."""
    of_sink = {sink: [each for each in found if each.check.sink == sink] for sink in sinks}
    differing = {sink: sum(len(each.lasting) + each.beyond for each in of) for sink, of in of_sink.items()}
    listed: list[Difference] = []
    for each in found:
        for key, pending in each.lasting.items():
            if len(listed) < LISTED:
                listed += differences(each.check, key, pending)
    return Comparison(
        equal={sink: count == 0 for sink, count in differing.items()},
        compared={sink: sum(each.compared for each in of) for sink, of in of_sink.items()},
        differing=differing,
        moving={sink: sum(len(each.pending) - len(each.lasting) for each in of) for sink, of in of_sink.items()},
        differences=listed[:LISTED],
    )


def differences(check: Check, key: Key, pending: Pending) -> list[Difference]:
    """Return one difference per field; Restricted values are masked."""
    shown_key = check.readable(key)
    if pending.source is None or pending.shown is None:
        ours, theirs = ("absent" if side is None else "present" for side in (pending.source, pending.shown))
        return [Difference(check.sink, check.table, shown_key, ROW, ours, theirs)]
    source, shown = pending.source, pending.shown
    names = [*source, *(name for name in shown if name not in source)]
    return [
        Difference(check.sink, check.table, shown_key, name, _short(name, source), _short(name, shown))
        for name in names
        if name not in source or name not in shown or source[name] != shown[name]
    ]


def _short(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        return "absent"
    value = values[name]
    if name in RESTRICTED:
        return "***"
    text = f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
