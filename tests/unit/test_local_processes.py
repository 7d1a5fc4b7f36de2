"""Processes are found again whatever happened to the launcher, and only those of the own folder are stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local import processes
from deploy.local.home import Home
from deploy.local.processes import Launch

WAITS = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; print('up', flush=True); subprocess.run([sys.executable, '-c', {WAITS!r}])"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home whose processes are gone at the end."""
    monkeypatch.setattr("deploy.local.home.SYSTEM_FOLDER", tmp_path / "system")
    made = Home.at(tmp_path / "a folder")
    made.make()
    yield made
    for process in processes.all_processes(made):
        process.kill()


def start(home: Home, name: str, code: str) -> psutil.Popen:
    """Start Python code as a server."""
    return processes.spawn(home, name, Launch([sys.executable, "-c", code], home.folder), {name: 1234})


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_started_server_is_found_with_its_ports(home: Home) -> None:
    process = start(home, "one", WAITS)
    found = processes.main_process(home, "one")
    assert found is not None
    assert found.pid == process.pid
    assert processes.noted_ports(home, "one") == {"one": 1234}


def test_a_process_id_that_was_used_again_is_not_ours(home: Home) -> None:
    process = start(home, "one", WAITS)
    noted = {"pid": process.pid, "created": process.create_time() - 100, "ports": {}}
    home.run_file("one").write_text(json.dumps(noted))
    assert processes.main_process(home, "one") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 99999999, "created": 1}', '{"pid": "x"}'])
def test_a_run_file_that_cant_be_read_means_not_running(home: Home, text: str) -> None:
    home.run_file("one").write_text(text)
    assert processes.main_process(home, "one") is None
    assert processes.noted_ports(home, "one") == {}


def test_processes_and_their_children_are_found_without_any_run_file(home: Home) -> None:
    process = start(home, "one", PARENT)
    until(lambda: len(process.children()) == 1)
    home.run_file("one").unlink()
    expected = {process.pid, process.children()[0].pid}
    assert {found.pid for found in processes.all_processes(home)} == expected
    assert {found.pid for found in processes.all_processes(home, "one")} == expected
    assert processes.all_processes(home, "other") == []
    processes.stop(home, "one", grace_s=5)
    assert processes.all_processes(home) == []


def test_another_folders_processes_are_left_alone(home: Home, tmp_path: Path) -> None:
    other = Home.at(tmp_path / "another")
    other.make()
    mine, theirs = start(home, "one", WAITS), start(other, "one", WAITS)
    processes.stop(home, "one", grace_s=5)
    assert not mine.is_running()
    assert processes.main_process(other, "one") is not None
    processes.stop(other, "one", grace_s=5)
    assert not theirs.is_running()


def test_one_that_does_not_listen_is_ended_the_hard_way(home: Home) -> None:
    process = start(home, "one", DEAF)
    until(lambda: "deaf" in home.log("one").read_text())
    processes.stop(home, "one", grace_s=0.2)
    assert not process.is_running()
    assert not home.run_file("one").exists()


def test_a_paused_process_can_be_stopped(home: Home) -> None:
    process = start(home, "one", WAITS)
    process.suspend()
    processes.stop(home, "one", grace_s=5)
    assert not process.is_running()


def test_servers_get_an_environment_of_their_own(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_TOOL_OPTIONS", "PGDATA", "DOWNRIVER_STACK__PORT_BASE", "PYTHONPATH", "ES_JAVA_OPTS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "C")
    env = processes.environment(home, "one", {"OWN": "value"})
    assert set(env) <= {"PATH", "LD_LIBRARY_PATH", "TMPDIR", "LC_ALL", "TZ", "HOME", "OWN", *marks(env)}
    assert (env["TZ"], env["LC_ALL"], env["OWN"]) == ("UTC", "C.UTF-8", "value")
    assert not any(name.startswith("DOWNRIVER_") for name in env)


def marks(env: dict[str, str]) -> set[str]:
    """Return the names by which processes are found."""
    return {name for name in env if name.endswith("_OF_DOWNRIVER")}


def test_the_log_of_the_start_before_is_kept(home: Home) -> None:
    for word in ("first", "second"):
        start(home, "one", f"print({word!r})").wait()
    assert home.log("one").read_text() == "second\n"
    assert home.log("one").with_suffix(".previous.log").read_text() == "first\n"


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(b"line %d" % number for number in range(20_000)) + b"\n\xff\n")
    assert processes.tail(path, 2) == "line 19999\n�"
    assert processes.tail(tmp_path / "none") == "(no log)"
