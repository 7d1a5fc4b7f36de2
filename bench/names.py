"""Names that a benchmark alone uses, in every server, and their removal, whatever ends it.

Everything begins with the name of the benchmark's source. Knows no sink and no figure.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from secrets import token_hex
from types import FrameType

import clickhouse_connect
import httpx2
import redis
from clickhouse_connect.driver.client import Client
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from downriver.exits import BadInput, DownriverError
from downriver.kafka import confluent_config
from downriver.settings import Settings

REDIS_DATABASE = 14
FORGET_S = 20.0
"""A broker forgets members that were killed after six seconds; so long their group can't be removed."""
SETTLE_S = 0.5


class Stopped(KeyboardInterrupt):
    """SIGTERM, or a Ctrl-C that was held back: it ends the run through every `finally`."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does.

    A stop that comes while a client library's C code runs may leave it as any error of that library's: it is told for
    what it was. What could not be removed is told all the same.
    """
    heard: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        heard.append(number)
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except DownriverError:
        raise
    except Exception as error:
        if heard:
            raise Stopped from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the end of the block: between starting a process and knowing of it, for one."""
    heard: list[int] = []
    before = {
        number: signal.signal(number, lambda told, _: heard.append(told)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise Stopped


@contextlib.contextmanager
def own_names(settings: Settings) -> Iterator[Settings]:
    """Give settings under a source of the benchmark's own; remove all that bears its name at the end.

    Raises:
        BadInput: the Redis database that benchmarks use holds somebody's keys.
    """
    source = f"bench{token_hex(4)}"
    own = settings.model_copy(
        update={
            "source": source,
            "redis": settings.redis.model_copy(
                update={"url": f"{settings.redis.url.rpartition('/')[0]}/{REDIS_DATABASE}"}
            ),
        }
    )
    with redis.Redis.from_url(own.redis.url) as cache:
        if held := cache.dbsize():
            msg = f"{own.redis.url} holds {held} keys, and a benchmark empties it: flush it, or end the other benchmark"
            raise BadInput(msg)
    try:
        yield own
    finally:
        with uninterrupted():
            remove(own)


def of_run(own: Settings, run: str, source: str = "") -> Settings:
    """Return the settings of one run: a consumer group, indexes and tables of its own, so that it starts from nothing.

    Args:
        run: letters and digits.
        source: what follows the benchmark's source in the name of the run's source, for another topic.
    """
    name = f"{own.source}_{run}"
    return own.model_copy(
        update={
            "source": own.source + source,
            "group_prefix": name,
            "elasticsearch": own.elasticsearch.model_copy(update={"prefix": f"{name}-"}),
            "clickhouse": own.clickhouse.model_copy(update={"database": name}),
        }
    )


def environment(settings: Settings) -> dict[str, str]:
    """Return what a process must have in its environment to mean these names."""
    return {
        "DOWNRIVER_SOURCE": settings.source,
        "DOWNRIVER_GROUP_PREFIX": settings.group_prefix,
        "DOWNRIVER_REDIS__URL": settings.redis.url,
        "DOWNRIVER_ELASTICSEARCH__PREFIX": settings.elasticsearch.prefix,
        "DOWNRIVER_CLICKHOUSE__DATABASE": settings.clickhouse.database,
    }


def remove(own: Settings) -> None:
    """Remove everything that bears the source's name, until nothing is found twice in a row.

    What a worker that was stopped had asked for just before may appear after a first look: topics are made behind the
    answer.

    Raises:
        DownriverError: something is still there after FORGET_S, or a server is away; every other was cleaned.
    """
    give_up_at, quiet = time.monotonic() + FORGET_S, 0
    while quiet < 2:
        failures = _removed_once(own)
        if not failures and not left(own):
            quiet += 1
        elif time.monotonic() > give_up_at:
            msg = f"the benchmark {own.source} left something behind: {'; '.join(failures) or left(own)}"
            raise DownriverError(msg)
        else:
            quiet = 0
        time.sleep(SETTLE_S)


def _removed_once(own: Settings) -> list[str]:
    failures = []
    for each in (_keys, _indexes, _tables, _subjects, _topics, _groups):
        try:
            each(own)
        except Exception as error:  # one server that is away must not keep the rest from being cleaned
            failures.append(f"{each.__name__.strip('_')}: {error}")
    return failures


def left(own: Settings) -> list[str]:
    """Return what bears the source's name and still is somewhere: for tests."""
    admin = AdminClient(confluent_config(own.kafka))
    found = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(own.source)]
    found += _group_names(admin, own)
    found += [subject for subject in _get(f"{own.registry.url}/subjects") if subject.startswith(own.source)]
    found += _get(f"{own.elasticsearch.url}/{own.source}*")
    with redis.Redis.from_url(own.redis.url) as cache:
        found += ["Redis keys"] if cache.dbsize() else []
    with _clickhouse(own) as client:
        return found + _databases(client, own)


def _get(url: str) -> list[str]:
    return list(httpx2.get(url, timeout=30).raise_for_status().json())


def _keys(own: Settings) -> None:
    with redis.Redis.from_url(own.redis.url) as cache:
        cache.flushdb()


def _indexes(own: Settings) -> None:
    for index in _get(f"{own.elasticsearch.url}/{own.source}*"):
        httpx2.delete(f"{own.elasticsearch.url}/{index}", timeout=30).raise_for_status()


def _tables(own: Settings) -> None:
    with _clickhouse(own) as client:
        for database in _databases(client, own):
            client.command(f"DROP DATABASE IF EXISTS {database}")


@contextlib.contextmanager
def _clickhouse(own: Settings) -> Iterator[Client]:
    client = clickhouse_connect.get_client(host=own.clickhouse.host, port=own.clickhouse.port)
    try:
        yield client
    finally:
        client.close()


def _databases(client: Client, own: Settings) -> list[str]:
    rows = client.query("SELECT name FROM system.databases WHERE startsWith(name, {n:String})", {"n": own.source})
    return [str(name) for (name,) in rows.result_rows]


def _subjects(own: Settings) -> None:
    for subject in _get(f"{own.registry.url}/subjects"):
        if subject.startswith(own.source):
            httpx2.delete(f"{own.registry.url}/subjects/{subject}", timeout=30).raise_for_status()


def _topics(own: Settings) -> None:
    admin = AdminClient(confluent_config(own.kafka))
    topics = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(own.source)]
    for done in admin.delete_topics(topics, operation_timeout=10).values() if topics else ():
        done.result(30)


def _group_names(admin: AdminClient, own: Settings) -> list[str]:
    listed = admin.list_consumer_groups(request_timeout=10).result(10).valid
    return [group.group_id for group in listed if group.group_id.startswith(own.source)]


def _groups(own: Settings) -> None:
    admin = AdminClient(confluent_config(own.kafka))
    names = _group_names(admin, own)
    for done in admin.delete_consumer_groups(names, request_timeout=10).values() if names else ():
        with contextlib.suppress(KafkaException):  # not empty yet: looked for again
            done.result(10)
