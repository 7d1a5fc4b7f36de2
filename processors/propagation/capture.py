"""How far capture is behind, per lane: what Kafka lacks. From each lane's heartbeats and its replication slot.

A heartbeat is a row that the connector itself writes to the source each second and captures like any other. While one
arrives, all that was committed before it has arrived; when none does, everything since the last may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from aiokafka import AIOKafkaConsumer
from psycopg.rows import dict_row

from connectors.files import Connector
from downriver.exits import BadInput, ServerAway
from downriver.settings import Settings
from processors.change import Record, TableId
from processors.decode import Decoder, Undecodable
from processors.propagation.topic import end_offsets
from processors.propagation.unseen import Where, read_on
from processors.tables.base import Class, Lane, Table

NEWEST = 20
"""Records at the end of a heartbeat topic that are read; the newest of its one key is never compacted away."""


@dataclass(frozen=True, slots=True)
class LaneCapture:
    """The capture of one lane.

    Attributes:
        age_s: how long commits may have been waiting to be captured; 0: none. None: nothing was ever captured.
        retained_bytes: WAL that the source keeps for the lane's slot; None: unknown, or there is no slot.
        problem: what is wrong with the slot, in words; empty: nothing.
    """

    age_s: float | None = None
    retained_bytes: int | None = None
    problem: str = ""


def heartbeat_tables() -> list[Table]:
    """Return the heartbeat table as each lane captures it, for the decoder."""
    columns = {"lane": Class.PUBLIC, "beat_at": Class.PUBLIC}
    return [Table(TableId("public", "downriver_heartbeat"), lane, ("lane",), columns, ()) for lane in Lane]


def connectors_by_lane(settings: Settings, connectors: Sequence[Connector]) -> dict[Lane, Connector]:
    """Return each lane's connector: the one whose topics carry the names of source and lane.

    Raises:
        BadInput: a lane has none: how far it is captured could never be told.
    """
    by_prefix = {connector.prefix: connector for connector in connectors}
    prefixes = {lane: f"{settings.source}_{lane}" for lane in Lane}
    if missing := [prefix for prefix in prefixes.values() if prefix not in by_prefix]:
        msg = (
            f"no connector file has the topic.prefix {', '.join(missing)}, which the source {settings.source!r} needs; "
            f"there are: {', '.join(by_prefix) or 'none'}"
        )
        raise BadInput(msg)
    return {lane: by_prefix[prefix] for lane, prefix in prefixes.items()}


async def newest_beats(
    consumer: AIOKafkaConsumer, decoder: Decoder, source: str, until: float
) -> dict[Lane, float | None]:
    """Return each lane's newest captured heartbeat: its commit time in seconds since the epoch; None: none yet.

    Args:
        decoder: one that knows `heartbeat_tables()`.

    Raises:
        KafkaError: Kafka is away (aiokafka's).
        RegistryAway: the records can't be read without the registry.
    """
    lanes: dict[Where, Lane] = {(table.topic(source), 0): table.lane for table in heartbeat_tables()}
    newest: dict[Lane, float | None] = dict.fromkeys(Lane)

    def take(where: Where, records: Sequence[Record]) -> bool:
        for record in records:
            try:
                checked = decoder.check(record)
                if checked is not None:
                    beat_s = decoder.stamp(checked).committed_ms / 1000
                    newest[lanes[where]] = max(beat_s, newest[lanes[where]] or beat_s)
            except Undecodable:
                continue  # no beat of ours, and no beat at all is what will be told
        return False

    ends = await end_offsets(consumer, lanes)
    await read_on(consumer, {where: max(end - NEWEST, 0) for where, end in ends.items()}, ends, take, until)
    return newest


SLOTS = """
    SELECT slot_name, wal_status,
           pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS retained
    FROM pg_replication_slots WHERE slot_name = ANY(%s)
"""


async def slots(settings: Settings, connectors: Mapping[Lane, Connector]) -> dict[Lane, LaneCapture]:
    """Return each lane's slot as the source sees it, `age_s` left out.

    Raises:
        ServerAway: PostgreSQL did not answer.
    """
    names = {connector.slot: lane for lane, connector in connectors.items()}
    try:
        async with (
            await psycopg.AsyncConnection.connect(
                settings.postgres.dsn(options="-c statement_timeout=10s"), autocommit=True, row_factory=dict_row
            ) as connection,
            connection.cursor() as cursor,
        ):
            await cursor.execute(SLOTS, [list(names)])
            rows = {names[row["slot_name"]]: row for row in await cursor.fetchall()}
    except psycopg.Error as error:
        where = f"{settings.postgres.host}:{settings.postgres.port}"
        msg = f"PostgreSQL at {where} is away: {str(error).strip() or type(error).__name__}"
        raise ServerAway(msg) from None
    found: dict[Lane, LaneCapture] = {}
    for lane, connector in connectors.items():
        row = rows.get(lane)
        if row is None:
            found[lane] = LaneCapture(problem=f"the replication slot {connector.slot} does not exist")
        elif row["wal_status"] == "lost":
            found[lane] = LaneCapture(None, row["retained"], f"the replication slot {connector.slot} has lost its WAL")
        else:
            found[lane] = LaneCapture(None, row["retained"])
    return found


def age_s(beat_s: float | None, connector: Connector, now_s: float) -> float | None:
    """Return how long commits may have been waiting: since the newest beat, less the interval that beats come in."""
    if beat_s is None:
        return None
    interval_s = int(connector.config["heartbeat.interval.ms"]) / 1000
    return max(0.0, now_s - beat_s - interval_s)
