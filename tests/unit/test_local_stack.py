"""Starting, finding and stopping a whole stack, with small Python processes in place of the servers."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.local import commands, processes
from deploy.local.processes import Launch
from deploy.local.servers.base import Tell
from deploy.local.stack import Stack
from downriver.exits import BadInput, DownriverError
from downriver.settings import PORT_OFFSETS
from downriver.settings import Stack as StackSettings
from tests.support.stack import free_port_base

HEALTHY = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(120)"
NEVER = "import time; time.sleep(120)"
DIES = "import sys; print('no such disk'); sys.exit(7)"


@dataclass
class Fake:
    """A server that is healthy once its process has touched a file."""

    name: str
    folder: Path
    code: str = HEALTHY
    version: str = "1.0"
    ports: tuple[str, ...] = ()
    address: str = "127.0.0.1:1"
    grace_s: float = 5
    preparing: Callable[[], None] = field(default=lambda: None)

    def prepare(self, tell: Tell, received: Callable[[int], None]) -> Launch:
        """Begin unhealthy."""
        tell("preparing")
        self.preparing()
        self._sign.unlink(missing_ok=True)
        return Launch([sys.executable, "-c", self.code, str(self._sign)], self.folder)

    @property
    def _sign(self) -> Path:
        return self.folder / f"{self.name}.healthy"

    def healthy(self) -> bool:
        """Tell whether the process said so."""
        return self._sign.exists()


@dataclass
class Seen:
    """A progress that remembers failures."""

    failures: dict[str, str] = field(default_factory=dict)

    def state(self, server: str, text: str) -> None:
        """Take no notice."""

    def received(self, server: str, size: int) -> None:
        """Take no notice."""

    def failed(self, server: str, reason: str) -> None:
        """Remember."""
        self.failures[server] = reason


Make = Callable[..., Stack]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make stacks of fakes in one folder; nothing of them runs at the end."""
    monkeypatch.setattr("deploy.local.home.SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr("deploy.local.machine.shortages", lambda *_: [])
    made: list[Stack] = []

    def build(fakes: list[Fake] | None = None, **settings: object) -> Stack:
        folder = tmp_path / "the stack"
        folder.mkdir(exist_ok=True)
        wanted = fakes if fakes is not None else [Fake(name, folder) for name in ("kafka", "one", "two")]
        for fake in wanted:
            fake.folder = folder
        monkeypatch.setattr("deploy.local.stack.all_servers", lambda _: wanted)
        stack = Stack(StackSettings.model_validate({"folder": folder, "start_timeout_s": 20, **settings}))
        made.append(stack)
        return stack

    yield build
    for stack in made:
        for process in processes.all_processes(stack.home):
            process.kill()


def pids(stack: Stack) -> dict[str, int | None]:
    """Return the process of each server."""
    return {record["name"]: record["pid"] for record in stack.status()}


def interrupted_up(stack: Stack) -> None:
    """Press Ctrl-C once both servers of the stack run and one still does not answer."""

    def interrupt() -> None:
        deadline = time.monotonic() + 15
        while len(processes.all_processes(stack.home)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            stack.up()
    finally:
        thread.join()


def test_up_twice_changes_nothing_and_down_leaves_nothing(make: Make) -> None:
    stack = make()
    first = {record["name"]: record["pid"] for record in stack.up()}
    assert {record["health"] for record in stack.status()} == {"healthy"}
    assert None not in first.values()
    stack.up()
    assert pids(stack) == first
    stack.down()
    assert processes.all_processes(stack.home) == []
    assert {record["health"] for record in stack.status()} == {"stopped"}
    stack.down()


def test_up_starts_only_what_is_gone(make: Make) -> None:
    stack = make()
    stack.up()
    before = pids(stack)
    stack.stop("one")
    assert pids(stack) == before | {"one": None}
    stack.up()
    after = pids(stack)
    assert (after["kafka"], after["two"]) == (before["kafka"], before["two"])
    assert after["one"] not in (None, before["one"])


def test_a_server_that_dies_shows_the_end_of_its_log_at_once(make: Make, tmp_path: Path) -> None:
    stack = make([Fake("one", tmp_path), Fake("two", tmp_path, DIES)])
    seen = Seen()
    with pytest.raises(DownriverError, match="two: it ended with code 7"):
        stack.up(seen)
    assert "no such disk" in seen.failures["two"]
    assert pids(stack)["one"] is not None


def test_without_a_progress_the_error_itself_holds_the_log(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DownriverError, match="no such disk"):
        make([Fake("two", tmp_path, DIES)]).up()


def test_what_needs_kafka_does_not_wait_for_one_that_failed(make: Make, tmp_path: Path) -> None:
    stack = make([Fake("kafka", tmp_path, DIES), Fake("connect", tmp_path, NEVER)])
    seen = Seen()
    with pytest.raises(DownriverError):
        stack.up(seen)
    assert seen.failures["connect"] == "it needs kafka, which did not come up."


def test_a_server_that_never_answers_is_told_with_the_setting(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DownriverError, match="DOWNRIVER_STACK__START_TIMEOUT_S"):
        make([Fake("one", tmp_path, NEVER)], start_timeout_s=0.5).up()


def test_an_unexpected_error_stops_what_was_begun(make: Make, tmp_path: Path) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    stack = make([Fake("one", tmp_path), Fake("two", tmp_path, preparing=broken)])
    with pytest.raises(ZeroDivisionError):
        stack.up()
    assert processes.all_processes(stack.home) == []


def test_ctrl_c_while_starting_leaves_nothing(make: Make, tmp_path: Path) -> None:
    stack = make([Fake("one", tmp_path), Fake("two", tmp_path, NEVER)])
    interrupted_up(stack)
    assert processes.all_processes(stack.home) == []


def test_ctrl_c_leaves_what_ran_before(make: Make, tmp_path: Path) -> None:
    make([Fake("one", tmp_path)]).up()
    stack = make([Fake("one", tmp_path), Fake("two", tmp_path, NEVER)])
    interrupted_up(stack)
    assert {record["name"]: record["health"] for record in stack.status()} == {"one": "healthy", "two": "stopped"}


def test_a_second_command_on_the_folder_is_refused_and_the_first_named(make: Make) -> None:
    stack = make()
    stack.home.make()
    with (stack.home.folder / "lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        for change in (stack.up, stack.down, stack.reset):
            with pytest.raises(BadInput, match="pid 4711"):
                change()
    assert stack.up()


def test_a_taken_port_is_named_and_nothing_starts(make: Make, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        base = server.getsockname()[1] - PORT_OFFSETS["redis"]
        stack = make([Fake("redis", tmp_path, ports=("redis",)), Fake("one", tmp_path)], port_base=base)
        with pytest.raises(BadInput, match=rf"\(redis\) is taken by pid {os.getpid()}"):
            stack.up()
    assert processes.all_processes(stack.home) == []


def test_moved_ports_are_refused_while_servers_run_on_the_old_ones(make: Make, tmp_path: Path) -> None:
    base = free_port_base()
    make([Fake("redis", tmp_path, ports=("redis",))], port_base=base).up()
    stack = make([Fake("redis", tmp_path, ports=("redis",))], port_base=base + 1_000)
    with pytest.raises(BadInput, match=rf"port base {base}; the settings say {base + 1_000}"):
        stack.up()


def test_shortages_are_told_before_anything_starts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make()
    monkeypatch.setattr("deploy.local.machine.shortages", lambda *_: ["disk: 1.0 GiB are free"])
    with pytest.raises(BadInput, match=r"disk: 1\.0 GiB are free"):
        stack.up()
    assert processes.all_processes(stack.home) == []


def test_down_finds_servers_whose_launcher_was_killed_hard(make: Make) -> None:
    stack = make()
    stack.up()
    # Killed between the start of a process and its run file: nothing on disk tells of it.
    for name in stack.servers:
        stack.home.run_file(name).unlink()
    assert len(processes.all_processes(stack.home)) == 3
    stack.down()
    assert processes.all_processes(stack.home) == []


def test_servers_outlive_the_process_that_started_them(tmp_path: Path, make: Make) -> None:
    stack = make([Fake("one", tmp_path)])
    stack.home.make()
    script = (
        "import sys; from pathlib import Path; from deploy.local.home import Home; "
        "from deploy.local.processes import Launch, spawn; "
        f"spawn(Home.at(Path({str(stack.home.folder)!r})), 'one', "
        f"Launch([sys.executable, '-c', {NEVER!r}], Path('/')), {{}})"
    )
    subprocess.run([sys.executable, "-c", script], check=True, start_new_session=True)
    assert pids(stack)["one"] is not None


def test_reset_deletes_data_and_a_new_start_begins_anew(make: Make) -> None:
    stack = make()
    stack.up()
    before = stack.capture_password()
    stack.reset()
    assert processes.all_processes(stack.home) == []
    assert stack.capture_password() != before
    assert {record["health"] for record in stack.up()} == {"healthy"}


def test_a_name_that_is_no_server_is_answered_with_those_that_are(make: Make) -> None:
    with pytest.raises(BadInput, match="kafka, one, two"):
        make().stop("three")


def test_status_answers_json_and_fails_unless_all_is_healthy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make()
    monkeypatch.setattr(commands, "_stack", lambda: stack)
    runner = CliRunner()
    stopped = runner.invoke(commands.app, ["status", "-o", "json"])
    assert stopped.exit_code == 1
    assert {record["health"] for record in json.loads(stopped.stdout)} == {"stopped"}
    stack.up()
    running = runner.invoke(commands.app, ["status", "-o", "json"])
    assert running.exit_code == 0
    for record in json.loads(running.stdout):
        assert set(record) == {"name", "version", "address", "pid", "health", "rss_mb", "log"}
        assert isinstance(record["pid"], int)


def test_reset_asks_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make()
    stack.up()
    monkeypatch.setattr(commands, "_stack", lambda: stack)
    runner = CliRunner()
    assert runner.invoke(commands.app, ["reset"], input="n\n").exit_code == 1
    assert {record["health"] for record in stack.status()} == {"healthy"}
    assert runner.invoke(commands.app, ["reset", "--yes"]).exit_code == 0
    assert {record["health"] for record in stack.status()} == {"stopped"}
