"""The report says what was measured, what was missed, what is missing, and never a peer that could not run as beaten."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.profiler import Profile, add_up
from bench.results import OURS, Findings, Measured, grows, machine
from bench.suite import fail_if_wrong
from downriver.exits import DownriverError, Exit

AT = datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
MACHINE: dict[str, Any] = {
    "cores": 2,
    "memory_gib": 24.0,
    "system": "Linux x86_64",
    "python": "3.11.7",
    "load_average": 9.5,
    "versions": {"faust-streaming": "0.15.3"},
    "remarks": ["the machine is busy (load average 9.5 on 2 cores)"],
}


def findings(quix_seconds: float | None = 30.0) -> Findings:
    """Return the findings of a run of the cache alone."""
    return Findings(
        MACHINE,
        [
            Measured("cache", OURS, 300_000, 10.0),
            Measured("cache", "Quix Streams", 300_000, quix_seconds, "" if quix_seconds else "missing"),
        ],
    )


def test_a_ratio_is_ours_over_theirs_whatever_each_was_measured_on() -> None:
    found = findings()
    found.measured.append(Measured("cache", "raw DEL", 30_000, 0.5))
    assert found.ratio("cache", "Quix Streams") == 3.0
    assert found.ratio("cache", "raw DEL") == 0.5


def test_a_target_is_met_or_missed_by_its_ratio() -> None:
    assert [(row["found"], row["met"]) for row in findings(30.0).targets()] == [("3.0x", True)]
    assert [(row["found"], row["met"]) for row in findings(29.0).targets()] == [("2.9x", False)]


def test_a_missing_peer_is_never_beaten() -> None:
    found = findings(None)
    found.missing.append("cache, Quix Streams: the peers can't be installed: no network")
    assert [(row["found"], row["met"]) for row in found.targets()] == [("not measured", None)]
    text = report.figures(found, AT, "python -m bench")
    assert "| cache | Quix Streams | not measured |  | missing |" in text
    assert "- cache, Quix Streams: the peers can't be installed: no network" in text


def test_a_busy_machine_marks_the_figures() -> None:
    text = report.figures(findings(), AT, "python -m bench")
    assert "**Read with care:** the machine is busy (load average 9.5 on 2 cores)." in text
    assert "`python -m bench` on 2 cores, 24.0 GiB, Linux x86_64, Python 3.11.7" in text


def test_this_machine_says_when_it_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (100.0, 1.0, 1.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert machine()["remarks"][0] == "the machine is busy (load average 100.0 on 4 cores)"


def test_what_is_unequal_fails_the_run_and_is_told() -> None:
    found = findings()
    fail_if_wrong(found)
    found.wrong.append("cache, Downriver: product:1 is stale and still there")
    with pytest.raises(DownriverError, match="product:1 is stale and still there") as raised:
        fail_if_wrong(found)
    assert raised.value.exit_code == Exit.FAILED
    assert found.as_json()["equal"] is False
    assert "Everything equal: **no**.\n- cache, Downriver: product:1" in report.figures(found, AT, "")


@pytest.mark.parametrize(
    ("rss", "expected"),
    [
        ([100, 200, 300, 300, 300, 300, 300, 300], False),
        ([100, 200, 300, 300, 300, 300, 400, 400], True),
        ([100, 200, 300, 350, 300, 350, 300, 350], False),
        ([300], False),
    ],
)
def test_memory_grows_when_the_last_quarter_lies_over_the_third(rss: list[float], expected: bool) -> None:
    assert grows(rss) is expected


def test_a_second_run_replaces_its_part_and_leaves_the_others(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    report.write(findings(), AT, "first", document)
    report.replace_part("profile of cache", "### Where the time goes: cache", document)
    report.write(findings(), AT, "second", document)
    text = document.read_text(encoding="utf-8")
    assert text.startswith(report.HEAD)
    assert text.endswith(report.TAIL)
    assert ("`first`" in text, text.count("`second`"), text.count("### Where the time goes: cache")) == (False, 1, 1)
    assert text.count("## How it is measured") == 1


def test_a_profile_counts_what_runs_and_what_it_runs_within() -> None:
    lines = ["run (x.py);prepare (processors/p.py);read (fastavro/_read.py) 6", "run (x.py);send (processors/s.py) 3"]
    waits = "run (x.py);EpollSelector.select (selectors.py:451) 90"
    total, own, within = add_up([*lines, "run (x.py);again (x.py);run (x.py) 1", waits])
    assert (total, own["read (fastavro/_read.py)"], own["run (x.py)"]) == (10, 6, 1)
    assert (within["run (x.py)"], within["prepare (processors/p.py)"]) == (10, 6)
    rows = Profile("cache", 300, False, total, own, within, Path("raw")).rows()
    assert rows[0] == {"time": "by itself", "share": "60.0%", "function": "read (fastavro/_read.py)"}
    assert [row["function"] for row in rows if row["time"] == "with what it calls"] == [
        "prepare (processors/p.py)",
        "send (processors/s.py)",
    ]
