"""Looks at connectors: what Connect, the source, Kafka and the registry say of them. Judging is health's; changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from connectors import live as on_connect
from connectors import source
from connectors.connect import ConnectClient, Live, Refused
from connectors.files import Connector
from connectors.health import Health, Look, Offset, Remembered, judge, quiet
from downriver.exits import BadInput, ServerAway
from downriver.kafka import confluent_config
from downriver.settings import Settings
from schemas.registry import RegistryAway, SchemaRegistry

AGAIN_AFTER_S = 2.5
"""Between two looks at a position that seems to stand still: more than a heartbeat and a flush."""
KAFKA_TIMEOUT_S = 5.0


def chosen(
    there: Mapping[str, Live], names: Sequence[str], wanted: Mapping[str, Connector]
) -> list[tuple[Connector, Live | None]]:
    """Return the connectors to look at: those named, or those of the files, or all where there are neither.

    Raises:
        BadInput: a name is neither in Connect nor in the files.
    """
    if missing := [name for name in names if name not in there and name not in wanted]:
        raise BadInput("\n".join(on_connect.unknown(name, {*there, *wanted}) for name in missing))
    return [
        (on_connect.described(there[name]), there[name]) if name in there else (wanted[name], None)
        for name in names or wanted or there
    ]


def look(settings: Settings, client: ConnectClient, connector: Connector, live: Live | None) -> Look:
    """Look at one connector once.

    Raises:
        ServerAway: Connect is away.
    """
    seen = Look(connector, live, watched=on_connect.captures(connector))
    if not seen.watched:
        return seen if live is None else replace(seen, topics=tuple(client.topics(connector.name)))
    try:
        with source.connected(settings, connector) as connection:
            # the slot before the stored position: what moves meanwhile is the position, and never looks like a loss
            seen = replace(seen, source=source.look(connection, settings, connector))
            if live is not None:
                seen = _with_position(seen, client)
            seen = replace(seen, wal_lsn=source.wal_lsn(connection))
    except (ServerAway, psycopg.Error) as error:
        where = source.where(settings, connector)
        told = str(error) if isinstance(error, ServerAway) else f"PostgreSQL at {where}: {str(error).strip()}"
        seen = replace(seen, source=None, source_away=told)
        if live is not None and seen.offset is None:
            seen = _with_position(seen, client)
    return seen


def healths(
    settings: Settings,
    client: ConnectClient,
    names: Sequence[str],
    wanted: Mapping[str, Connector],
    before: Mapping[str, Look] | None = None,
    remembered: Mapping[str, Remembered] | None = None,
) -> list[Health]:
    """Look at connectors and judge them. Of those that seem to stand still the reason is asked for.

    Args:
        before: the looks of an earlier round; None: what stands still is looked at twice.

    Raises:
        ServerAway: Connect is away.
        BadInput: a name is unknown.
    """
    there = client.connectors()
    looks = [look(settings, client, *each) for each in chosen(there, names, wanted)]
    if before is None:
        before = {}
        if any(quiet(each) and each.offset for each in looks):
            time.sleep(AGAIN_AFTER_S)
            before = {each.name: each for each in looks}
            looks = [
                look(settings, client, each.connector, each.live) if quiet(each) and each.offset else each
                for each in looks
            ]
    services = _services(settings) if any(map(quiet, looks)) else ()
    asked = [replace(each, hints=(*_check(client, each), *services)) if quiet(each) else each for each in looks]
    known = remembered or {}
    return [judge(each, before.get(each.name), known.get(each.name)) for each in asked]


def _with_position(seen: Look, client: ConnectClient) -> Look:
    offsets = [found for each in client.offsets(seen.name) if (found := Offset.read(each))]
    newest = max(offsets, key=lambda offset: offset.lsn, default=None)
    return replace(seen, offset=newest, topics=tuple(client.topics(seen.name)))


def _check(client: ConnectClient, seen: Look) -> list[str]:
    """Let Connect try the connector's settings from where it runs: it logs in to the source with them."""
    if seen.live is None:
        return []
    try:
        mistakes = client.mistakes({"name": seen.name, **seen.live.config})
    except Refused as error:
        mistakes = [str(error)]
    return [f"Connect can't use its settings: {mistake}" for mistake in mistakes]


def access(client: ConnectClient, seen: Look) -> list[str]:
    """Say why Connect can't reach the source with the connector's settings; empty if it can."""
    return _check(client, seen)


def _services(settings: Settings) -> tuple[str, ...]:
    """Say which of Kafka and the registry do not answer: without them nothing is stored."""
    told = []
    try:
        AdminClient(confluent_config(settings.kafka) | {"log_level": 0}).list_topics(timeout=KAFKA_TIMEOUT_S)
    except KafkaException as error:
        told.append(f"Kafka at {settings.kafka.bootstrap} does not answer: {error.args[0].str()}")
    try:
        SchemaRegistry(settings.registry).has_subject("downriver-answers")
    except RegistryAway as error:
        told.append(str(error))
    return tuple(told)
