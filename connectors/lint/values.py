"""The rules that look at one setting alone: what loses data, loses exactness, or adds latency.

A row says which values are right; every other one is a finding. Sources: Debezium's PostgreSQL documentation, and
connectors/README.md for what was measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from connectors.connector import POSTGRES_CONNECTOR, Connector, masked
from connectors.lint.finding import Finding, Severity

Right = Callable[[str | None], bool]


def one_of(*values: str | None) -> Right:
    """Right is one of these; None among them: it may be left out."""
    return lambda value: value in values


def at_most(limit: int, *, unset: bool = False) -> Right:
    """Right is a number up to the limit. What is no number is Connect's to refuse, in `validate`."""
    return lambda value: unset if value is None else not value.strip().lstrip("-").isdigit() or 0 <= int(value) <= limit


def without(*words: str) -> Right:
    """Right is a comma-separated list that holds none of the words."""
    return lambda value: not set(words) & {part.strip() for part in (value or "").split(",")}


def given(value: str | None) -> bool:
    """Right is anything that is written."""
    return bool(value and value.strip())


@dataclass(frozen=True, slots=True)
class Rule:
    """One setting's rule."""

    name: str
    key: str
    right: Right
    reason: str
    fix: str
    severity: Severity = Severity.ERROR


WARNING = Severity.WARNING

REQUIRED = (
    "database.hostname",
    "database.port",
    "database.dbname",
    "database.user",
    "database.password",
    "slot.name",
    "publication.name",
    "topic.prefix",
    "table.include.list",
    "heartbeat.interval.ms",
    "heartbeat.action.query",
    "key.converter",
    "value.converter",
)

RULES = (
    Rule(
        "class",
        "connector.class",
        one_of(POSTGRES_CONNECTOR),
        "is another class: its settings, offsets and slots are not known here",
        f"must be {POSTGRES_CONNECTOR!r}; deploy other connectors with curl or kcctl",
    ),
    *(Rule("required", key, given, "is missing", "give it a value") for key in REQUIRED),
    # loses changes
    Rule(
        "plugin",
        "plugin.name",
        one_of("pgoutput"),
        "another output plugin must be installed on the server, and ignores publications",
        "must be 'pgoutput'",
    ),
    Rule(
        "publication-autocreate",
        "publication.autocreate.mode",
        one_of("disabled"),
        "Debezium would make the publication: the role must then own every table, and FOR ALL TABLES captures what nobody chose",
        "must be 'disabled'; a migration makes the publication",
    ),
    Rule(
        "offset-mismatch",
        "offset.mismatch.strategy",
        one_of("trust_offset"),
        "a slot that is ahead of the stored offset loses the changes between without a word (PostgreSQL 15+)",
        "must be 'trust_offset': the task fails where the slot was made again; a moved slot is told by `connectors guard`",
    ),
    Rule(
        "slot-dropped",
        "slot.drop.on.stop",
        one_of("false", None),
        "each stop drops the slot, and what is committed until the next start is lost",
        "must be 'false'",
    ),
    Rule(
        "failures-skipped",
        "event.processing.failure.handling.mode",
        one_of("fail", None),
        "a change that can't be processed is left out",
        "must be 'fail'",
    ),
    Rule(
        "failures-skipped",
        "event.converting.failure.handling.mode",
        one_of("fail", "warn", None),
        "a change that can't be converted is left out without a word",
        "must be 'fail' or 'warn'",
    ),
    Rule(
        "errors-tolerated",
        "errors.tolerance",
        one_of("none", None),
        "a record that can't be converted is dropped; a source connector has no dead-letter topic",
        "must be 'none'",
    ),
    Rule(
        "operations-skipped",
        "skipped.operations",
        without("c", "u", "d"),
        "changes of that kind never leave the source: sinks keep old rows for good",
        "skip 't' alone",
    ),
    Rule(
        "truncate",
        "skipped.operations",
        lambda value: value is None or "t" in value.split(","),
        "a truncate has no key, and fails the task on a compacted topic",
        "write 't', and refuse TRUNCATE at the source by a trigger",
    ),
    Rule(
        "snapshot-mode",
        "snapshot.mode",
        without("always", "initial_only", "never"),
        "'always' reads every table again at each start, 'initial_only' and 'never' end or begin with a gap",
        "write 'initial'",
    ),
    Rule(
        "snapshot-silent",
        "snapshot.mode",
        without("when_needed"),
        "after a lost offset or slot it takes a second snapshot by itself; the deletes in between never come",
        "write 'initial': the task then fails, and `connectors plan` says what to do",
        WARNING,
    ),
    Rule(
        "no-snapshot",
        "snapshot.mode",
        without("no_data", "schema_only"),
        "rows that are there already reach no sink until they change",
        "write 'initial', or say why in a silence",
        WARNING,
    ),
    Rule(
        "gives-up",
        "errors.max.retries",
        one_of("-1", None),
        "after so many attempts the task fails for good, also when the database only restarts",
        "write '-1'",
        WARNING,
    ),
    Rule(
        "acks",
        "producer.override.acks",
        one_of("all", "-1", None),
        "a broker that dies takes acknowledged changes with it",
        "write 'all', or leave it out",
    ),
    Rule(
        "reordered",
        "producer.override.enable.idempotence",
        one_of("true", None),
        "a retried batch may be written twice, and behind a later one of the same key",
        "write 'true', or leave it out",
    ),
    Rule(
        "reordered",
        "producer.override.max.in.flight.requests.per.connection",
        at_most(5, unset=True),
        "with more than 5 in flight a retried batch may be written behind a later one of the same key",
        "at most 5",
    ),
    # loses exactness
    Rule(
        "decimals",
        "decimal.handling.mode",
        one_of("precise", None),
        "'double' rounds money, and the sinks read Avro decimals, not 'string'",
        "must be 'precise'",
    ),
    Rule(
        "microseconds",
        "time.precision.mode",
        without("connect"),
        "times lose their microseconds",
        "leave it out, or write 'adaptive_time_microseconds'",
        WARNING,
    ),
    Rule(
        "placeholder",
        "unavailable.value.placeholder",
        given,
        "Debezium's default for a column that was not sent is a text that a customer could type",
        "write a random one",
        WARNING,
    ),
    Rule(
        "avro-names",
        "schema.name.adjustment.mode",
        one_of("avro", "avro_unicode"),
        "a name with other characters than A-Z, a-z, 0-9 and _ fails the Avro converter",
        "write 'avro'",
        WARNING,
    ),
    # adds latency, or keeps WAL
    Rule(
        "poll-interval",
        "poll.interval.ms",
        at_most(100),
        "a change waits up to this long before it is looked for; the default of 500 ms gave p50 680 ms from commit to consumer",
        "write '20' to '100'",
        WARNING,
    ),
    Rule(
        "linger",
        "producer.override.linger.ms",
        at_most(5, unset=True),
        "each batch waits this long to fill",
        "write '0'",
        WARNING,
    ),
    Rule(
        "heartbeat-slow",
        "heartbeat.interval.ms",
        lambda value: at_most(10_000)(value) and value != "0",
        "an idle lane lets go of WAL, and is known to be alive, only this often; 0 is never",
        "write '1000' to '10000'",
    ),
    Rule(
        "snapshot-waits",
        "snapshot.isolation.mode",
        one_of("repeatable_read", "read_committed", "read_uncommitted"),
        "serializable, the default, may wait for every long transaction of the source",
        "write 'repeatable_read'",
        WARNING,
    ),
    Rule(
        "tasks",
        "tasks.max",
        one_of("1", None),
        "this connector always runs one task",
        "write '1'",
        WARNING,
    ),
)


def check(connector: Connector) -> Iterator[Finding]:
    """Yield what the rules find in one connector."""
    for rule in RULES:
        value = connector.config.get(rule.key)
        if not rule.right(value) and (rule.name in {"class", "required"} or rule.key not in REQUIRED or value):
            yield Finding(
                rule.name,
                rule.severity,
                connector.places.get(rule.key, connector.origin),
                connector.name,
                rule.key,
                None if value is None else masked(rule.key, value),
                "is not set" if value is None and rule.name not in {"class", "required"} else rule.reason,
                rule.fix if value is not None or rule.name == "required" else f"{rule.fix}: {rule.reason}",
            )
