"""What is said of a connector for everything that may be seen of it; pure, each rule told apart from its neighbours."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors import cause, lsn
from connectors.connect import Live, Status, Task
from connectors.connector import POSTGRES_CONNECTOR, Connector
from connectors.guard import learned
from connectors.health import Health, Look, Offset, Remembered, Severity, judge, quiet
from connectors.source import Blocked, Slot, SourceFacts

NOW_S = 1_000_000.0
POSITION = 0x5000
CONFIG = {
    "connector.class": POSTGRES_CONNECTOR,
    "slot.name": "s",
    "publication.name": "p",
    "topic.prefix": "t",
    "table.include.list": "public.a",
    "heartbeat.interval.ms": "1000",
}
SLOT = Slot("pgoutput", "d", True, "reserved", 100, 10_000, POSITION - 8, None, "", 50, "c")
SOURCE = SourceFacts(NOW_S, "system", 1, POSITION + 64, SLOT, 1.0)
RUNNING = Status("RUNNING", "", (Task(0, "RUNNING", "", "w"),))


def look(status: Status | None = RUNNING, **changed: object) -> Look:
    seen = Look(
        Connector("c", CONFIG, "a file"),
        Live("c", CONFIG, status),
        offset=Offset(POSITION, NOW_S - 1, snapshot=False),
        source=SOURCE,
        wal_lsn=POSITION + 64,
    )
    return replace(seen, **changed)  # type: ignore[arg-type]


def failed(trace: str) -> Status:
    return Status("RUNNING", "", (Task(0, "FAILED", trace, "w"),))


def rules(health: Health) -> list[tuple[str, Severity]]:
    return [(problem.rule, problem.severity) for problem in health.problems]


def test_a_connector_that_flows_has_no_problem() -> None:
    health = judge(look())
    assert (health.state, health.ok, health.problems) == ("RUNNING", True, ())
    assert not quiet(look())


def slot(**changed: object) -> SourceFacts:
    return replace(SOURCE, slot=replace(SLOT, **changed))  # type: ignore[arg-type]


OLD = Offset(POSITION, NOW_S - 60, snapshot=False)


@pytest.mark.parametrize(
    ("seen", "state", "rule", "severity"),
    [
        (look(live=None), "ABSENT", "absent", Severity.HALTED),
        (look(None), "STALLED", "no-task", Severity.STALLED),
        (look(Status("RUNNING", "", ())), "STALLED", "no-task", Severity.STALLED),
        (look(Status("PAUSED", "", (Task(0, "PAUSED", ""),))), "PAUSED", "paused", Severity.HALTED),
        (look(Status("STOPPED", "", ())), "STOPPED", "stopped", Severity.HALTED),
        (look(Status("RUNNING", "", (Task(0, "UNASSIGNED", ""),))), "STALLED", "unassigned", Severity.STALLED),
        (look(failed("java.lang.RuntimeException: boom")), "FAILED", "task-failed", Severity.FAILED),
        (look(Status("FAILED", "x.ConfigException: no", ())), "FAILED", "settings", Severity.FAILED),
        (look(source=replace(SOURCE, slot=None)), "LOST", "slot-missing", Severity.LOSS),
        (look(source=slot(wal_status="lost")), "LOST", "slot-lost", Severity.LOSS),
        (look(source=slot(confirmed_lsn=POSITION + 8)), "LOST", "slot-ahead", Severity.LOSS),
        (look(wal_lsn=POSITION - 1), "LOST", "source-restored", Severity.LOSS),
        (look(source=slot(safe_bytes=10)), "RUNNING", "slot-low", Severity.WARNING),
        (look(source=slot(wal_status="unreserved", safe_bytes=0)), "RUNNING", "slot-low", Severity.WARNING),
        (look(source=replace(SOURCE, publication_problem="lacks it")), "FAILED", "publication", Severity.FAILED),
        (look(source=None, source_away="away"), "STALLED", "source-away", Severity.STALLED),
        (look(offset=OLD), "STALLED", "stalled", Severity.STALLED),
    ],
)
def test_each_problem_is_told_by_its_own_rule(seen: Look, state: str, rule: str, severity: Severity) -> None:
    health = judge(seen)
    assert (health.state, rules(health)) == (state, [(rule, severity)])
    assert health.ok is (severity is Severity.WARNING)
    assert health.problems[0].text
    assert "{" not in health.problems[0].way_out


def test_what_moves_is_behind_and_not_stalled() -> None:
    earlier = look(offset=replace(OLD, lsn=POSITION - 100))
    assert quiet(look(offset=OLD))
    assert rules(judge(look(offset=OLD), earlier)) == [("behind", Severity.WARNING)]
    assert rules(judge(look(offset=OLD), look(offset=OLD))) == [("stalled", Severity.STALLED)]


def test_a_stalled_connector_names_its_reasons() -> None:
    blocked = Blocked("INSERT INTO\n  beat", 77, "psql", 12.0)
    source = replace(slot(active=False), blocked=blocked, role_problem="role r may not log in")
    (problem,) = judge(look(offset=OLD, source=source, hints=("Kafka is away",))).problems
    for told in ("process 77 (psql)", "role r may not log in", "Kafka is away", "nobody reads slot s"):
        assert told in problem.text
    assert problem.text.startswith("Connect says RUNNING, and nothing moves since 60 s")


def test_before_the_first_position_it_starts_or_says_why_not() -> None:
    assert judge(look(offset=None, source=replace(SOURCE, slot=None))).state == "STARTING"
    (problem,) = judge(look(offset=None, hints=("FATAL: no",))).problems
    assert (problem.rule, "FATAL: no" in problem.text) == ("stalled", True)
    snapshot = Offset(POSITION, NOW_S - 600, snapshot=True)
    assert (judge(look(offset=snapshot)).state, judge(look(offset=snapshot)).ok) == ("SNAPSHOT", True)


def test_without_a_heartbeat_idle_is_no_stall() -> None:
    config = {key: value for key, value in CONFIG.items() if not key.startswith("heartbeat")}
    seen = look(offset=OLD, connector=Connector("c", config, "a file"))
    assert rules(judge(seen)) == [("no-heartbeat", Severity.WARNING)]


def test_the_source_says_it_better_than_the_trace() -> None:
    gone = failed("io.debezium.DebeziumException: … but this is no longer available on the server.")
    assert rules(judge(look(gone, source=replace(SOURCE, slot=None)))) == [("slot-missing", Severity.LOSS)]
    assert rules(judge(look(gone))) == [("slot-unusable", Severity.LOSS)]


PAST = Remembered("system", 1, 50, "c", POSITION - 100)


@pytest.mark.parametrize(
    ("seen", "rule"),
    [
        (look(source=replace(SOURCE, system="other")), "source-replaced"),
        (look(source=replace(SOURCE, timeline=2)), "source-promoted"),
        (look(source=slot(transactions=49)), "slot-made-again"),
        (look(offset=Offset(POSITION, NOW_S, snapshot=True)), "second-snapshot"),
    ],
)
def test_what_only_the_past_shows_is_told_and_stays_told(seen: Look, rule: str) -> None:
    health = judge(seen, remembered=PAST)
    assert rules(health) == [(rule, Severity.LOSS)]
    known = learned(health, PAST)
    assert known.lost.keys() == {rule}
    later = judge(look(), remembered=known)
    assert (rules(later), later.state) == ([(rule, Severity.LOSS)], "LOST")


def test_statistics_that_began_anew_are_no_new_slot() -> None:
    assert judge(look(source=slot(transactions=3, counted_since="d")), remembered=PAST).ok
    assert judge(look(source=slot(transactions=51)), remembered=PAST).ok


def test_what_is_learned_of_a_connector_that_flows() -> None:
    assert learned(judge(look()), Remembered()) == Remembered("system", 1, 50, "c", POSITION)


@pytest.mark.parametrize(
    ("offset", "wanted"),
    [
        ({"lsn": 5, "lsn_commit": 9, "lsn_proc": 7, "ts_usec": 2_000_000}, Offset(9, 2.0, snapshot=False)),
        ({"lsn": 5, "snapshot": "INITIAL"}, Offset(5, None, snapshot=True)),
        ({"lsn": 5, "snapshot": True}, Offset(5, None, snapshot=True)),
        ({"lsn": 5, "snapshot": "FALSE"}, Offset(5, None, snapshot=False)),
        ({"transaction_id": None}, None),
    ],
)
def test_offsets_are_read(offset: dict[str, object], wanted: Offset | None) -> None:
    assert Offset.read(offset) == wanted


@pytest.mark.parametrize(
    ("trace", "rule", "text", "heals"),
    [
        (
            "org.apache.kafka.connect.errors.ConnectException: Non-retriable failure\n\tat x.Y(Z.java:1)\n"
            "Caused by: io.debezium.DebeziumException: no encoding\nCaused by: org.postgresql.util.PSQLException: FATAL: "
            'role "r" is not permitted to log in\n\t... 13 more',
            "access",
            'FATAL: role "r" is not permitted to log in',
            True,
        ),
        (
            "io.debezium.DebeziumException: The connector is trying to read change stream starting at "
            "PostgresOffsetContext [sourceInfo=[lsn=LSN{0/621D3C10}, txId=6], x=[y]], but this is no longer available on the "
            "server. Reconfigure the connector to use a snapshot mode when needed.",
            "slot-unusable",
            "The connector is trying to read change stream starting at 0/621D3C10, but this is no longer available on "
            "the server.",
            False,
        ),
        (
            "a.b.ConnectException: Tolerance exceeded in error handler\nCaused by: io.apicurio.RestClientException",
            "registry",
            "Tolerance exceeded in error handler (RestClientException)",
            True,
        ),
        (
            "a.b.ConnectException: Tolerance exceeded\nCaused by: io.apicurio.RuleViolationException: Incompatible artifact",
            "registry-refused",
            "Incompatible artifact",
            False,
        ),
        ("x.RecordTooLargeException: The message is 9 bytes", "record-too-large", "The message is 9 bytes", False),
        (
            "org.postgresql.util.PSQLException: Connection to a:1 refused.",
            "source-away",
            "Connection to a:1 refused.",
            True,
        ),
        ("", "task-failed", "it says nothing", True),
        ("java.lang.NullPointerException", "task-failed", "NullPointerException", True),
    ],
)
def test_a_trace_is_read(trace: str, rule: str, text: str, heals: bool) -> None:
    found = cause.read(trace)
    assert (found.rule, found.text, found.heals) == (rule, text, heals)


@pytest.mark.parametrize(("number", "text"), [(0, "0/0"), (0x16B3748, "0/16B3748"), (2**32 + 255, "1/FF")])
def test_positions_are_read_and_written(number: int, text: str) -> None:
    assert (lsn.parse(text), lsn.told(number)) == (number, text)


@pytest.mark.parametrize("text", ["", "5", "0/123456789", "x/1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        lsn.parse(text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 * 2**20, "64 MiB"), (2**50, "1024 TiB")]
)
def test_bytes_are_told(count: int, text: str) -> None:
    assert lsn.size(count) == text
