"""Why a task failed, read from its stack trace: a rule's name, the sentence that matters, the way out. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 400
"""Characters of a trace's sentence that are repeated."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What a trace says.

    Attributes:
        rule: names the kind of it.
        text: the sentence at the bottom of the trace.
        way_out: what to do; `{name}` and `{slot}` are filled in by the caller.
        heals: a restart may mend it.
        loss: changes may be lost.
    """

    rule: str
    text: str
    way_out: str
    heals: bool = False
    loss: bool = False


START_OVER = (
    "`downriver connectors stop {name}`, `downriver connectors offsets reset {name} --drop-slot`, "
    "`downriver connectors resume {name}` for a new slot and a new snapshot, `downriver connectors reread` for each table, "
    "then `downriver verify`: nothing else finds the deletes of the gap. Where a guard runs: `downriver connectors guard "
    "--accept {name}` at the end"
)

_KINDS: tuple[tuple[str, str, str, bool, bool], ...] = (
    (
        "slot-unusable",
        r"no longer available on the server|replication slot .{1,80} does not exist"
        r"|can no longer (get changes|access)|has been invalidated|has lost|wal_status.{1,9}lost"
        r"|requested WAL segment .{1,60} has already been removed",
        START_OVER,
        False,
        True,
    ),
    (
        "slot-ahead",
        r"(?i)potential data loss|slot .{0,200}(ahead|advanced|newer)|offset .{0,200}(before|behind|older).{0,200}slot",
        START_OVER,
        False,
        True,
    ),
    (
        "access",
        r"not permitted to log in|password authentication failed|authentication failed|no pg_hba\.conf entry"
        r"|permission denied|must be superuser or replication|role .{1,80} does not exist|too many connections for"
        r"|database .{1,80} does not exist|certificate",
        "give the role back what it lacks (`downriver connectors preflight` names it), then "
        "`downriver connectors restart {name}`; `guard` does so by itself once Connect gets in again",
        True,
        False,
    ),
    (
        "publication",
        r"publication .{1,80} does not exist",
        "`downriver connectors preflight` tells how to make it, then `downriver connectors restart {name}`",
        False,
        False,
    ),
    (
        "registry-refused",
        r"RuleViolation|(?i:incompatible)|UnprocessableEntity|error code: 409|Conflict",
        "the registry refuses the new schema: undo the migration, or evolve the schema so that it is compatible, or relax "
        "the subject's compatibility; then `downriver connectors restart {name}`. The lane goes on where it stopped",
        False,
        False,
    ),
    (
        "registry",
        r"RestClientException|io\.apicurio|schemaregistry",
        "see that the schema registry answers, then `downriver connectors restart {name}`",
        True,
        False,
    ),
    (
        "record-too-large",
        r"RecordTooLargeException|MESSAGE_TOO_LARGE|larger than .{0,60}max\.request\.size",
        "bound the column at the source, or raise producer.override.max.request.size and the topic's max.message.bytes; "
        "then `downriver connectors restart {name}`",
        False,
        False,
    ),
    (
        "kafka-refused",
        r"AuthorizationException|SaslAuthenticationException|InvalidTopicException|InvalidRecordException",
        "give the worker's Kafka user the right that is named, then `downriver connectors restart {name}`",
        False,
        False,
    ),
    (
        "source-away",
        r"Connection to .{1,200} refused|connection attempt failed|terminating connection|UnknownHostException"
        r"|database system is (starting up|shutting down|in recovery)|I/O error occurred|connection has been closed",
        "see that PostgreSQL answers from where the Connect worker runs, then `downriver connectors restart {name}`",
        True,
        False,
    ),
    (
        "settings",
        r"ConfigException|ClassNotFoundException|Failed to find any class",
        "correct the connector's settings and apply them: a restart changes nothing",
        False,
        False,
    ),
)


def read(trace: str) -> Cause:
    """Return what a task's trace says; what it says nothing known of may be healed by a restart."""
    lines = [line.strip() for line in trace.splitlines() if line and not re.match(r"\s*(at |\.\.\. )", line)]
    text = _sentence(lines)
    for rule, pattern, way_out, heals, loss in _KINDS:
        if re.search(pattern, "\n".join(lines)):
            return Cause(rule, text, way_out, heals, loss)
    return Cause(
        "task-failed", text, "`downriver connectors describe {name}` shows the whole trace; then restart it", True
    )


def _sentence(lines: list[str]) -> str:
    """Return the lowest line that says something: most traces wrap the reason in others."""
    said = [re.sub(r"^(Caused by: )?([\w$]+\.)+([\w$]+): ", "", line) for line in lines]
    bare = [re.sub(r"^(Caused by: )?([\w$]+\.)+([\w$]+)$", "", line) for line in said]
    told = [line for line in bare if line]
    lowest = lines[-1].removeprefix("Caused by: ").rpartition(".")[2] if lines else "it says nothing"
    text = told[-1] if told else lowest
    if told and not bare[-1]:  # the reason itself has a name only
        text = f"{text} ({lowest})"
    # Debezium prints a page of its own state between the two halves of the sentence that matters
    text = re.sub(r"PostgresOffsetContext \[.*?lsn=LSN\{([0-9A-F/]+)\}.*\], but", r"\1, but", text)
    text = text.replace(" Reconfigure the connector to use a snapshot mode when needed.", "")
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
