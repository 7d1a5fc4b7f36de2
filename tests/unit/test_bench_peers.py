"""A peer that can't be had, or does not finish, is missing, with a reason."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench import peers


def answers(monkeypatch: pytest.MonkeyPatch, *done: subprocess.CompletedProcess[str] | Exception) -> None:
    """Have commands end as told, one after the other."""
    left = list(done)

    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        each = left.pop(0)
        if isinstance(each, Exception):
            raise each
        return each

    monkeypatch.setattr(subprocess, "run", run)


def ended(code: int, stdout: str = "", stderr: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, stdout, stderr)


def test_an_installation_that_fails_is_tried_again_and_one_that_is_whole_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    commands: list[list[str]] = []
    fails = True

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        (tmp_path / "peers").mkdir(exist_ok=True)
        return ended(int(fails and "pip" in command), stderr="no address")

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        with pytest.raises(peers.Missing, match="can't be installed: no address"):
            peers.home()
    fails = False
    assert peers.home() == tmp_path / "peers"
    assert len(commands) == 6
    assert "--require-hashes" in commands[-1]
    assert peers.home() == tmp_path / "peers"
    assert len(commands) == 6


@pytest.mark.parametrize(
    ("done", "reason"),
    [
        (ended(1, stderr="Traceback: boom"), "ended with 1: Traceback: boom"),
        (ended(0, stdout='{"records": 90, "seconds": 2.0}'), "dealt with 90 of 100 records"),
        (subprocess.TimeoutExpired("python", 1), "did not finish: TimeoutExpired"),
    ],
)
def test_work_that_is_not_done_is_missing(
    monkeypatch: pytest.MonkeyPatch, done: subprocess.CompletedProcess[str] | Exception, reason: str
) -> None:
    monkeypatch.setattr(peers, "home", lambda: Path("peers"))
    answers(monkeypatch, done)
    with pytest.raises(peers.Missing, match=re.escape(reason)):
        peers.quix("cache", 100, {})


def test_work_that_is_done_gives_records_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "home", lambda: Path("peers"))
    answers(monkeypatch, ended(0, stdout='a warning\n{"records": 100, "seconds": 2.5}\n'))
    assert peers.quix("cache", 100, {}) == (100, 2.5)


def test_requirements_are_hashed_and_name_no_address() -> None:
    text = peers.REQUIREMENTS.read_text(encoding="utf-8")
    packages = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert [line for line in packages if not line.endswith(" \\")] == []
    assert "quixstreams==3.28.1 \\" in packages
    assert peers.QUIX == "Quix Streams 3.28.1"
    assert "://" not in text
