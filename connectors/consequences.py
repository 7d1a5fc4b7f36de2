"""What a change of a connector does to the data, in words: before it is done.

Pure: it is given what is wanted, what is live and what the source and Kafka say. Each consequence has a name; one that
loses or re-reads data is applied only with that name (`apply --allow NAME`), one that can't go well is not applied at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from connectors import lsn
from connectors.captured import Captured, Slot, TableFacts, Wal
from connectors.connector import HEARTBEAT_TABLE, Connector, State, listed, routing
from connectors.topics import TopicFacts, wanted

NO_SNAPSHOT = frozenset({"no_data", "never", "schema_only"})
SLOT_NEARLY_LOST = 0.2
"""Of max_slot_wal_keep_size: a slot with less left is told whatever else changes."""
DATABASE = frozenset({"database.hostname", "database.port", "database.dbname"})
FORMAT = (
    "value.converter",
    "decimal.handling.mode",
    "time.precision.mode",
    "unavailable.value.placeholder",
    "schema.name.adjustment.mode",
    "field.name.adjustment.mode",
    "binary.handling.mode",
    "interval.handling.mode",
    "hstore.handling.mode",
)
FORMAT_PARTS = ("as-confluent", "use-id", "headers.enabled", "schemas.enable", "artifact-resolver-strategy")


class Weight(StrEnum):
    """What a consequence asks for."""

    NOTE = "note"
    WARNING = "warning"
    ALLOW = "allow"
    """Loses or re-reads data: `apply` wants its name."""
    BLOCKS = "blocks"
    """Can't go well: `apply` refuses."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """One consequence: its name, how much it weighs, what happens, what to do about it."""

    name: str
    weight: Weight
    text: str
    way_out: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a change of one connector is judged.

    Attributes:
        live: the settings that Connect has, None: there is no such connector.
        state: what it does now; empty where it does not exist.
        offset: the stored offset under the wanted name and prefix, None: there is none.
        topics: those of its tables that exist, by name.
        failed: why it does not run, in a line; empty where it runs.
        homes: captured table → the connector of the files that is to capture it; the tables of others, too.
    """

    live: Mapping[str, str] | None
    state: str
    offset: Mapping[str, Any] | None
    source: Captured
    topics: Mapping[str, TopicFacts]
    failed: str = ""
    homes: Mapping[str, str] = field(default_factory=dict)


def judge(connector: Connector, facts: Facts, changed: Iterable[str]) -> list[Consequence]:
    """Return the consequences of making the connector what its file says, the heaviest first.

    Args:
        changed: the settings that differ from the live ones; all, for a new connector.
    """
    keys = set(changed)
    found = [*_ready(connector, facts), *_partitions(connector, facts)]
    if facts.failed:
        found.append(Consequence("failed", Weight.NOTE, facts.failed, "started again, it may fail again"))
    if facts.live is None:
        found += _position(connector, facts)
        found += _columns(connector, facts.source, set(connector.tables))
    else:
        if not keys & {*DATABASE, "slot.name"}:
            found += _position(connector, facts)
        found += _changes(connector, facts, facts.live, keys)
    found += _slot(connector, facts)
    order = list(reversed(Weight))
    return sorted(dict.fromkeys(found), key=lambda each: order.index(each.weight))


def left_behind(name: str, config: Mapping[str, str], source: Captured | None) -> list[Consequence]:
    """Return what remains when a connector is deleted: its slot, which holds WAL, and its publication."""
    slot, publication = config.get("slot.name", "debezium"), config.get("publication.name", "dbz_publication")
    facts = source.slots.get(slot) if source else None
    held = f", {size(facts.retained)} now" if facts and facts.retained is not None else ""
    limit = _until_lost(source.wal, facts) if source else ""
    return [
        Consequence(
            "slot-left-behind",
            Weight.WARNING,
            f"nothing is captured for {name} any more; slot {slot} and publication {publication} stay at the source, and the"
            f" slot holds WAL from now on{held}{limit}; the stored offset stays too, so a connector of the same name goes on",
            f"if it is for good: SELECT pg_drop_replication_slot('{slot}'); DROP PUBLICATION {publication}",
        )
    ]


def size(count: float | None) -> str:
    """Return a size as a person reads it."""
    return "an unknown amount" if count is None else lsn.size(int(count))


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} seconds"


def _rows(source: Captured, tables: Iterable[str]) -> str:
    facts = [source.tables[name] for name in tables if name in source.tables and name != HEARTBEAT_TABLE]
    rows, space = sum(each.rows for each in facts), sum(each.bytes for each in facts)
    return f"about {rows:,} rows ({size(space)} in {len(facts)} table{'s' if len(facts) != 1 else ''})"


def _ready(connector: Connector, facts: Facts) -> Iterator[Consequence]:
    """Yield what the source lacks."""
    source = facts.source
    for name in connector.tables:
        table = source.tables.get(name)
        if table is None:
            continue  # preflight names it
        if not table.key:
            yield Consequence(
                "no-key",
                Weight.BLOCKS,
                f"{name} has no primary key: its records have no key, and a compacted topic refuses them: the task fails",
                f"ALTER TABLE {name} ADD PRIMARY KEY (…)",
            )
        if table.identity != "f" and name not in connector.outboxes:  # of those, only inserts matter
            large = f", and {', '.join(table.large)} as “not sent” where unchanged" if table.large else ""
            yield Consequence(
                "replica-identity",
                Weight.BLOCKS,
                f"{name} lacks REPLICA IDENTITY FULL: updates and deletes arrive without the old row{large}; cache keys made"
                " of old values would stay",
                f"ALTER TABLE {name} REPLICA IDENTITY FULL",
            )
            if table.large:
                yield Consequence(
                    "toast",
                    Weight.WARNING,
                    f"{name}: an update that leaves {', '.join(table.large)} alone sends a placeholder in place of a value"
                    " stored out of line (TOAST); a sink that writes whole rows would lose it",
                    f"ALTER TABLE {name} REPLICA IDENTITY FULL",
                )
    if source.published is not None and HEARTBEAT_TABLE not in source.published and HEARTBEAT_TABLE in connector.tables:
        yield Consequence(
            "heartbeat-unpublished",
            Weight.BLOCKS,
            f"publication {connector.publication} lacks {HEARTBEAT_TABLE}: heartbeats are written and never captured, so an"
            f" idle lane's position stands still and slot {connector.slot} holds all WAL that other tables write",
            f"ALTER PUBLICATION {connector.publication} ADD TABLE {HEARTBEAT_TABLE}",
        )


def _partitions(connector: Connector, facts: Facts) -> Iterator[Consequence]:
    """Yield the topics that have another shape than the file says."""
    counts = [
        (topic, facts.topics[topic.topic].partitions) for topic in wanted(connector) if topic.topic in facts.topics
    ]
    if wrong := [(topic, count) for topic, count in counts if count != topic.num_partitions]:
        listing = ", ".join(
            f"{topic.topic} has {count} partition(s) and needs {topic.num_partitions}" for topic, count in wrong
        )
        yield Consequence(
            "partitions",
            Weight.BLOCKS,
            f"{listing}: keys would move to other partitions, where their new records may overtake the old ones, and rows that"
            " are joined would not meet",
            "write topic.creation.….partitions as the topics are, or take a new topic.prefix for a new history",
        )


def _position(connector: Connector, facts: Facts) -> Iterator[Consequence]:
    """Yield where a connector begins to read: at its stored offset, or with a snapshot."""
    slot = facts.source.slots.get(connector.slot)
    mode = connector.config.get("snapshot.mode", "initial")
    rows = _rows(facts.source, connector.tables)
    held = sum(topic.records for name, topic in facts.topics.items() if not name.endswith(f".{HEARTBEAT_TABLE}"))
    if facts.offset is not None and slot is None:
        yield Consequence(
            "lost-slot",
            Weight.BLOCKS,
            f"a position is stored for it ({_at(facts.offset)}), and slot {connector.slot} is gone: what was committed since is"
            " lost, and the task refuses to start (offset.mismatch.strategy)",
            f"`downriver connectors offsets reset {connector.name}`, apply with --allow second-snapshot, then verify",
        )
        return
    if facts.offset is not None and not facts.offset.get("snapshot"):
        if facts.live is None and slot is not None:
            yield Consequence(
                "resumes",
                Weight.NOTE,
                f"goes on from the stored position {_at(facts.offset)}, without a snapshot: {size(slot.retained)} of WAL to read",
            )
        return
    if mode in NO_SNAPSHOT:
        yield Consequence(
            "no-snapshot",
            Weight.WARNING,
            f"snapshot.mode {mode}: {rows} that are there now reach no sink until they change",
            "snapshot.mode initial, or re-read the tables afterwards",
        )
    elif facts.offset is not None:
        yield Consequence(
            "snapshot-begins-again",
            Weight.WARNING,
            f"its snapshot is not finished: {rows} are read once more, from the beginning",
            "wait until it is",
        )
    elif held:
        yield Consequence(
            "second-snapshot",
            Weight.ALLOW,
            f"no offset is stored, and its topics already hold about {held:,} records: {rows} are read again into them; rows"
            " deleted since the last record stay in every sink, and rows changed since may stay old until repaired",
            "take the old offset up again, or verify and repair every sink afterwards",
        )
    else:
        yield Consequence("snapshot", Weight.NOTE, f"a first snapshot of {rows} is read and written to its topics")
    if facts.live is None and slot is not None and facts.offset is None:
        yield Consequence(
            "slot-exists",
            Weight.NOTE,
            f"slot {connector.slot} is there already and holds {size(slot.retained)} of WAL, though no offset is stored for it",
            "make sure that nobody else reads it",
        )
    yield from _headroom(facts.source.wal, "while the snapshot runs, its slot")


def _at(offset: Mapping[str, Any]) -> str:
    stored = offset.get("lsn")
    return f"LSN {lsn.told(int(stored))}" if stored else "of an unfinished snapshot"


def _changes(connector: Connector, facts: Facts, live: Mapping[str, str], keys: set[str]) -> Iterator[Consequence]:
    """Yield what changed settings do to a connector that exists."""
    config, source = connector.config, facts.source
    rows = _rows(source, connector.tables)
    old_slot, old_publication = live.get("slot.name", "debezium"), live.get("publication.name", "dbz_publication")
    if keys & DATABASE:
        yield Consequence(
            "other-database",
            Weight.ALLOW,
            "positions of two databases never compare: the stored offset means nothing there, and changes are skipped or the"
            f" task refuses to start; slot {old_slot} stays at the old one and holds WAL",
            "give the other database a connector, slot and topic.prefix of its own",
        )
    if "topic.prefix" in keys:
        old = live.get("topic.prefix", "")
        yield Consequence(
            "new-prefix",
            Weight.ALLOW,
            f"a second history: topics {old}.… end here with their consumers, and offsets are stored by prefix, so"
            f" {rows} are read anew into {connector.prefix}.…; deletes between the two histories reach neither",
            "a new connector beside the old one, until all consumers have moved",
        )
    if "slot.name" in keys:
        yield Consequence(
            "new-slot",
            Weight.ALLOW,
            f"slot {connector.slot} begins at this moment, the stored offset is older: what is committed in between is lost,"
            f" and the task refuses to start (trust_offset); slot {old_slot} stays and holds WAL",
            f"keep slot.name, or reset the offset and take a new snapshot of {rows}",
        )
    if "publication.name" in keys:
        yield Consequence(
            "new-publication",
            Weight.ALLOW,
            f"PostgreSQL applies {connector.publication} as it was when a change was written: changes from before it was made"
            f" are skipped (18+) or fail the task; {old_publication} stays",
            "ALTER PUBLICATION … RENAME TO keeps the name only for what is written later; change the tables of the old one",
        )
    yield from _keys(connector, live, keys)
    yield from _tables(connector, facts, live)
    yield from _excluded(connector, live)
    if changed := sorted(
        key
        for key in keys
        if key in FORMAT
        or (key.startswith("value.converter.") and key.rpartition("apicurio.registry.")[2] in FORMAT_PARTS)
    ):
        yield Consequence(
            "new-format",
            Weight.ALLOW,
            f"{', '.join(changed)}: records before and after on the same topics mean different things; a worker that does"
            " not know the new form turns them into dead letters",
            "change the workers first, or take a new topic.prefix",
        )
    if "snapshot.mode" in keys and config.get("snapshot.mode") in {"always", "when_needed"}:
        yield Consequence(
            "snapshot-again",
            Weight.ALLOW,
            f"snapshot.mode {config['snapshot.mode']}: a restart may read {rows} again",
            "snapshot.mode initial",
        )


def _keys(connector: Connector, live: Mapping[str, str], keys: set[str]) -> Iterator[Consequence]:
    if named := sorted(
        key
        for key in keys
        if key in {"message.key.columns", "key.converter"}
        or (key.startswith("key.converter.") and key.rpartition("apicurio.registry.")[2] in FORMAT_PARTS)
    ):
        yield Consequence(
            "new-key",
            Weight.ALLOW,
            f"{', '.join(named)}: the same row gets another record key: a second history of it, in another partition;"
            " compaction keeps the last record of both, and deletes under the new key never remove the old one",
            "a new topic.prefix, or a new table",
        )
    moved = []
    for table in sorted(set(connector.tables) & set(listed(live, "table.include.list"))):
        before, now = (" and ".join(routing(config, table)) or "its key" for config in (live, connector.config))
        if before != now:
            moved.append(f"{table} (by {before}, from now on by {now})")
    if moved:
        yield Consequence(
            "moves-keys",
            Weight.ALLOW,
            f"rows of {', '.join(moved)} move to other partitions: a new record of a row may overtake its old ones, and joined"
            " rows no longer meet until each has changed",
            "stop the writers and let the workers drain first, or take a new topic.prefix",
        )


def _tables(connector: Connector, facts: Facts, live: Mapping[str, str]) -> Iterator[Consequence]:
    source = facts.source
    before, now = set(listed(live, "table.include.list")), set(connector.tables)
    if added := now - before - {HEARTBEAT_TABLE}:
        yield Consequence(
            "unread-table",
            Weight.ALLOW,
            f"{', '.join(sorted(added))}: captured from now on; {_rows(source, added)} that are there now are not read by a"
            " running connector, and reach no sink until they change",
            "`downriver connectors add-table`, which reads them",
        )
        yield from _columns(connector, source, added)
    gone = before - now - {HEARTBEAT_TABLE}
    moved = {table: facts.homes[table] for table in sorted(gone) if table in facts.homes}
    for table, home in moved.items():
        yield Consequence(
            "dropped-table",
            Weight.ALLOW,
            f"{table}: captured by {home} from now on: who reads {connector.prefix}.{table} keeps what it has and gets no more",
            f"apply {home} too; then nothing is lost: its first snapshot reads what is in the table",
        )
    if dropped := gone - set(moved):
        yield Consequence(
            "dropped-table",
            Weight.ALLOW,
            f"{', '.join(sorted(dropped))}: not captured any more: its sinks keep what they have and grow old, and what"
            " happens until it is added again is never captured",
            "take the table's sinks down first",
        )


def _excluded(connector: Connector, live: Mapping[str, str]) -> Iterator[Consequence]:
    before, now = set(listed(live, "column.exclude.list")), set(connector.excluded)
    if released := before - now:
        yield Consequence(
            "released-column",
            Weight.ALLOW,
            f"{', '.join(sorted(released))}: leaves the source from now on, to everybody who reads the topic; rows that don't"
            " change stay without it",
            "make sure that it is not Restricted",
        )
    if hidden := now - before:
        yield Consequence(
            "hidden-column",
            Weight.WARNING,
            f"{', '.join(sorted(hidden))}: left out from now on; records that are there keep it until they are compacted away",
            "erase it downstream if it must not be there",
        )


def _columns(connector: Connector, source: Captured, names: Iterable[str]) -> Iterator[Consequence]:
    """Yield what the columns of newly captured tables do on the way."""
    for table in (source.tables[name] for name in sorted(names) if name in source.tables):
        seen = [column for column in table.unbounded if f"{table.name}.{column}" not in connector.excluded]
        if seen:
            yield Consequence(
                "unbounded-numeric",
                Weight.WARNING,
                f"{table.name}: {', '.join(seen)} is numeric without precision: it arrives as a record of scale and bytes, not"
                " as an Avro decimal, and no sink reads it as a number",
                f"ALTER TABLE {table.name} ALTER {seen[0]} TYPE numeric(p, s)",
            )
        untrue = [column for column in table.untrue if f"{table.name}.{column}" not in connector.excluded]
        if untrue and not connector.keeps_null:
            yield Consequence(
                "null-as-default",
                Weight.ALLOW,
                f"{table.name}: {', '.join(untrue)} may be NULL and has a default: its NULLs arrive as the default, which"
                " Kafka Connect's converter can't tell from them (KAFKA-8713)",
                f"ALTER TABLE {table.name} ALTER {untrue[0]} SET NOT NULL, or DROP DEFAULT",
            )
        large = [column for column in table.large if f"{table.name}.{column}" not in connector.excluded]
        if table.out_of_line and table.identity == "f" and large:
            yield Consequence("toast", Weight.NOTE, _twice(table, large, connector))


def _twice(table: TableFacts, large: Iterable[str], connector: Connector) -> str:
    limit = connector.config.get("producer.override.max.request.size", "1048576")
    return (
        f"{table.name} holds {size(table.out_of_line)} out of line (TOAST: {', '.join(large)}): each update carries the row"
        f" twice, before and after; a record over {size(float(limit)) if limit.isdigit() else limit} fails the task"
    )


def _slot(connector: Connector, facts: Facts) -> Iterator[Consequence]:
    """Yield what happens to the slot while nobody reads it, and how near it is to being lost."""
    slot = facts.source.slots.get(connector.slot)
    wal = facts.source.wal
    if slot and slot.wal_status == "lost":
        yield Consequence(
            "lost-slot",
            Weight.BLOCKS,
            f"slot {connector.slot} is lost: PostgreSQL removed WAL that it still needed, and with it changes",
            "drop it, delete the connector's offsets, apply again for a new snapshot, then verify every sink",
        )
    elif slot and slot.safe is not None and wal.keep and slot.safe < SLOT_NEARLY_LOST * wal.keep:
        yield Consequence(
            "wal-headroom",
            Weight.WARNING,
            f"slot {connector.slot} is lost after another {size(slot.safe)} of WAL{_when(slot.safe, wal)}: it holds"
            f" {size(slot.retained)} of max_slot_wal_keep_size = {size(wal.keep)}",
            "let it catch up before anything else, or raise max_slot_wal_keep_size",
        )
    if connector.state is not State.RUNNING:
        how = "stopped" if connector.state is State.STOPPED else "paused"
        held = f": {size(slot.retained)} now" if slot and slot.retained is not None else ""
        yield Consequence(
            "slot-holds-wal",
            Weight.WARNING,
            f"while it is {how}, slot {connector.slot} holds all WAL from now on{held}{_until_lost(wal, slot)}",
            "resume it in time",
        )
        yield from _headroom(wal, f"while it is {how}, its slot")
    elif facts.live is not None and facts.state in {State.PAUSED, State.STOPPED} and slot:
        yield Consequence(
            "catches-up",
            Weight.NOTE,
            f"it was {facts.state}: goes on from its stored offset, {size(slot.retained)} of WAL to read",
        )


def _headroom(wal: Wal, who: str) -> Iterator[Consequence]:
    """Yield what the disk of pg_wal must have room for; PostgreSQL does not tell how much is free."""
    if wal.keep is None:
        yield Consequence(
            "wal-headroom",
            Weight.WARNING,
            f"max_slot_wal_keep_size is -1: {who} may fill the disk of pg_wal, and then the source stops",
            "set max_slot_wal_keep_size below the free space",
        )
        return
    most = wal.keep + wal.ordinary
    now = f", {size(wal.present)} now: {size(max(most - wal.present, 0))} more must be free" if wal.present else ""
    yield Consequence(
        "wal-headroom",
        Weight.NOTE,
        f"{who} may let pg_wal grow to about {size(most)} (max_slot_wal_keep_size {size(wal.keep)} and max_wal_size"
        f" {size(wal.ordinary)}){now} on its disk; beyond it the slot is lost",
    )


def _until_lost(wal: Wal, slot: Slot | None) -> str:
    if wal.keep is None:
        return "; nothing bounds it (max_slot_wal_keep_size = -1): it fills the disk"
    safe = wal.keep if slot is None or slot.safe is None else slot.safe
    return f"; it is lost after another {size(safe)}{_when(safe, wal)}"


def _when(left: float, wal: Wal) -> str:
    return f" (about {_duration(left / wal.per_s)} at the server's average)" if wal.per_s else ""
