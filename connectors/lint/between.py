"""The rules that look at several settings, several files, or at what the stream workers know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from connectors.connector import (
    EVENT_ROUTER,
    HEARTBEAT_TABLE,
    KEEP_NULL,
    PARTITION_ROUTING,
    Connector,
    listed,
    masked,
    routing,
    written_out,
)
from connectors.lint.finding import Finding, Severity
from connectors.lint.known import unknown

PATTERNS = {
    "slot.name": (re.compile(r"[a-z0-9_]{1,63}"), "1 to 63 of a-z, 0-9 and _"),
    "topic.prefix": (re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}"), "letters, digits and _, as an Avro name needs it"),
    "table.include.list": (
        re.compile(r"\s*\w+\.\w+\s*(,\s*\w+\.\w+\s*)*"),
        "plain schema.table names, comma separated",
    ),
    "column.exclude.list": (
        re.compile(r"\s*\w+\.\w+\.\w+\s*(,\s*\w+\.\w+\.\w+\s*)*"),
        "plain schema.table.column names",
    ),
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
FILTERS = ("io.debezium.transforms.Filter", "org.apache.kafka.connect.transforms.Filter")
APART = {
    "duplicate-slot": (
        "slot.name",
        ("database.hostname", "database.port"),
        "two readers of one slot take changes from each other",
    ),
    "duplicate-publication": (
        "publication.name",
        ("database.hostname", "database.port", "database.dbname"),
        "each connector would be sent the other's tables",
    ),
    "duplicate-prefix": ("topic.prefix", (), "both would write the same topics and the same stored offset"),
}
"""Rule → the setting that must differ, the settings within which it must, why."""


class KnownTable(Protocol):
    """What the stream workers know of one table; `processors.tables` has them."""

    @property
    def id(self) -> object:
        """Prints as schema.table."""

    @property
    def lane(self) -> str:
        """Ends the name of its connector."""

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the record key."""

    @property
    def excluded(self) -> tuple[str, ...]:
        """The columns that must stay at the source."""

    @property
    def routed_by(self) -> str | None:
        """The column whose value picks the partition."""


def _finding(
    connector: Connector,
    rule: str,
    key: str,
    reason: str,
    fix: str,
    severity: Severity = Severity.ERROR,
) -> Finding:
    value = connector.config.get(key)
    place = connector.places.get(key, connector.origin)
    shown = masked(key, value) if isinstance(value, str) else None if value is None else str(value)
    return Finding(rule, severity, place, connector.name, key, shown, reason, fix)


def names(connector: Connector) -> Iterator[Finding]:
    """Names that Connect, PostgreSQL, Avro or a person could not use; secrets; settings that do not exist."""
    if not NAME.fullmatch(connector.name):
        yield Finding(
            "name", Severity.ERROR, connector.origin, connector.name, "name", connector.name,
            "ends up in addresses, metrics and slots", "letters, digits, _, . and -, at most 100",
        )  # fmt: skip
    if connector.config.get("name", connector.name) != connector.name:
        yield _finding(connector, "name", "name", f"differs from the name {connector.name!r}", "leave it out of config")
    for key, value in connector.config.items():
        if written_out(key, value):
            yield Finding(
                "secret", Severity.ERROR, connector.places.get(key, connector.origin), connector.name, key, "***",
                "a secret is never in a file", "write ${env:NAME} or ${file:PATH:KEY}, which the Connect worker fills in",
            )  # fmt: skip
    for key, (pattern, allowed) in PATTERNS.items():
        if (given := connector.config.get(key)) and not pattern.fullmatch(given):
            yield _finding(connector, "form", key, "can't be used", f"allowed are {allowed}")
    for key, meant in unknown(connector.config).items():
        fix = (
            f"did you mean {meant}?" if meant else "correct or remove it, or silence this with the plugin that reads it"
        )
        yield _finding(
            connector, "unknown-setting", key, "nobody reads this setting; Connect keeps it without a word", fix
        )


def combinations(connector: Connector) -> Iterator[Finding]:
    """Settings that are right alone and wrong together."""
    config = connector.config
    if config.get("table.include.list") and HEARTBEAT_TABLE not in connector.tables:
        yield _finding(
            connector, "heartbeat-table", "table.include.list",
            f"lacks {HEARTBEAT_TABLE}, without which an idle lane's position stands still", "add it",
        )  # fmt: skip
    for key in ("table.exclude.list", "schema.include.list", "schema.exclude.list", "column.include.list"):
        if config.get(key):
            yield _finding(
                connector, "two-lists", key, "contradicts table.include.list or column.exclude.list", "remove it"
            )
    transforms = {name: config.get(f"transforms.{name}.type", "") for name in listed(config, "transforms")}
    routed = [name for name, type_ in transforms.items() if type_ == PARTITION_ROUTING]
    if routed and config.get("tombstones.on.delete", "true") == "true":
        yield _finding(
            connector, "tombstones", "tombstones.on.delete",
            "a tombstone carries no row: it misses the routing and lands in another partition", "write 'false'",
        )  # fmt: skip
    partitions = config.get("topic.creation.default.partitions")
    for name in routed:
        key = f"transforms.{name}.partition.topic.num"
        if partitions and config.get(key) != partitions:
            yield _finding(
                connector,
                "partitions",
                key,
                f"the topics are made with {partitions} partitions",
                f"write {partitions!r}",
            )
        if not config.get(f"transforms.{name}.predicate"):
            yield _finding(
                connector, "routes-heartbeats", f"transforms.{name}.type",
                "without a predicate it also meets heartbeats, which lack the column", "give it a TopicNameMatches predicate",
            )  # fmt: skip
    for name, type_ in transforms.items():
        if type_ in FILTERS:
            yield _finding(
                connector, "rows-filtered", f"transforms.{name}.type",
                "an update that leaves the filter is dropped: the sinks keep the old row",
                "filter in a route, or silence this with the reason", Severity.WARNING,
            )  # fmt: skip
    batch, queue = (
        config.get(key, default) for key, default in (("max.batch.size", "2048"), ("max.queue.size", "8192"))
    )
    if batch.isdigit() and queue.isdigit() and int(queue) <= int(batch):
        yield _finding(
            connector, "queue", "max.queue.size" if "max.queue.size" in config else "max.batch.size",
            f"the queue ({queue}) must be larger than a batch ({batch})", "make max.queue.size at least twice max.batch.size",
        )  # fmt: skip
    if (keeps := KEEP_NULL.get(config.get("value.converter", ""))) and not connector.keeps_null:
        yield _finding(
            connector, "null-default", f"value.converter.{keeps[0]}",
            "a NULL in a column that has a default is sent as that default (KAFKA-8713)", f"write {keeps[1]!r}",
        )  # fmt: skip
    if config.get("topic.creation.default.cleanup.policy", "compact") != "compact":
        yield _finding(
            connector, "retention", "topic.creation.default.cleanup.policy",
            "the latest change of a row is deleted after the retention: a new sink would miss it", "write 'compact'",
            Severity.WARNING,
        )  # fmt: skip


def events(connector: Connector) -> Iterator[Finding]:
    """What an EventRouter must not meet."""
    if HEARTBEAT_TABLE not in connector.outboxes:
        return
    for name in listed(connector.config, "transforms"):
        if connector.config.get(f"transforms.{name}.type") == EVENT_ROUTER:
            yield _finding(
                connector, "routes-heartbeats", f"transforms.{name}.type",
                "it also meets the heartbeat's rows, which are no events: the task fails with the first",
                "give it a TopicNameMatches predicate that only the outbox matches",
            )  # fmt: skip


def shared(connectors: Sequence[Connector]) -> Iterator[Finding]:
    """What two connectors have in common and each must have for itself."""
    first: dict[str, Connector] = {}
    for connector in connectors:
        if connector.name in first:
            yield Finding(
                "duplicate-name", Severity.ERROR, connector.origin, connector.name, "name", connector.name,
                f"is already that of {first[connector.name].origin}", "a connector has one file",
            )  # fmt: skip
        first.setdefault(connector.name, connector)
    for rule, (key, within, reason) in APART.items():
        seen: dict[tuple[str | None, ...], Connector] = {}
        for connector in connectors:
            if not connector.config.get(key):
                continue
            where = (connector.config[key], *(connector.config.get(each) for each in within))
            other = seen.get(where)
            if other is not None and other.name != connector.name:  # one of the same name is told as that
                yield _finding(
                    connector, rule, key, f"is already that of {other.origin}; {reason}", "give each its own"
                )
            seen.setdefault(where, connector)


def file_names(connectors: Sequence[Connector]) -> Iterator[Finding]:
    """A file that is named after something else than its connector; files with several connectors have their own names."""
    by_file: dict[str, list[Connector]] = {}
    for connector in connectors:
        by_file.setdefault(connector.origin, []).append(connector)
    for origin, inside in by_file.items():
        if len(inside) == 1 and inside[0].places and Path(origin).stem != inside[0].name:
            yield Finding(
                "file-name", Severity.WARNING, origin, inside[0].name, "name", inside[0].name,
                "is not the name of its file: it is looked for in vain", f"name the file {inside[0].name}{Path(origin).suffix}",
            )  # fmt: skip


def tables(connectors: Sequence[Connector], known: Iterable[KnownTable], *, whole: bool) -> Iterator[Finding]:
    """What the files capture against what the stream workers know, both ways.

    Args:
        whole: these are all connectors, so what none of them captures is captured by nobody.
    """
    described: Mapping[str, KnownTable] = {str(table.id): table for table in known}
    captured: set[str] = set()
    for connector in connectors:
        keys = dict(entry.partition(":")[::2] for entry in connector.config.get("message.key.columns", "").split(";"))
        for name in connector.tables:
            captured.add(name)
            table = described.get(name)
            if table is None:
                if name not in {HEARTBEAT_TABLE, *connector.outboxes, connector.config.get("signal.data.collection")}:
                    yield _finding(
                        connector, "table-unknown", "table.include.list",
                        f"{name} has no file in processors/tables/: its records reach no sink", "describe it, or leave it out",
                        Severity.WARNING,
                    )  # fmt: skip
                continue
            for column in table.excluded:
                if f"{name}.{column}" not in connector.excluded:
                    yield _finding(
                        connector, "restricted", "column.exclude.list",
                        f"{name}.{column} is Restricted and would leave the source", f"add {name}.{column}",
                    )  # fmt: skip
            if name in keys and tuple(part.strip() for part in keys[name].split(",")) != table.key:
                yield _finding(
                    connector, "key", "message.key.columns",
                    f"keys {name} by {keys[name]}, the workers expect {','.join(table.key)}", "make them agree",
                )  # fmt: skip
            routes = [each.partition("/")[0] for each in routing(connector.config, name)]
            if routes != ([f"change.{table.routed_by}"] if table.routed_by else []):
                yield _finding(
                    connector, "routing", "transforms",
                    f"routes {name} by {', '.join(routes) or 'its key'}, the workers expect {table.routed_by or 'its key'}",
                    "make them agree: rows that are joined must meet in one partition",
                )  # fmt: skip
    if whole:
        for name in sorted(set(described) - captured):
            lane = described[name].lane
            yield Finding(
                "table-uncaptured", Severity.ERROR, f"processors/tables/{name.rpartition('.')[2]}.py", "", "", None,
                f"{name} is captured by no connector file: its sinks would stay empty",
                f"add it to table.include.list of the connector of lane {lane}",
            )  # fmt: skip
