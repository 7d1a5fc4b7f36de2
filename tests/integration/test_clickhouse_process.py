"""The local ClickHouse as a process: where it listens, whose folder it takes, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import clickhouse_connect
import pytest

from downriver.exits import Exit
from tests.support.clickhouse import CHECKOUT, front_command, running_front


def run(path: Path, *, host: str = "127.0.0.1", port: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        front_command(path, host=host, port=port), cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])  # noqa: S104 - refused
def test_it_listens_on_loopback_only(tmp_path: Path, host: str) -> None:
    ended = run(tmp_path, host=host)
    assert ended.returncode == Exit.BAD_INPUT
    assert f"--host {host} is not a loopback address" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_second_process_on_a_folder_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with running_front(tmp_path) as first:
        ended = run(tmp_path)
        assert ended.returncode == Exit.BAD_INPUT
        assert f"pid {first.process.pid}" in ended.stderr
        with clickhouse_connect.get_client(host="127.0.0.1", port=first.port) as client:
            assert client.command("SELECT 1") == 1
    with running_front(tmp_path) as later:  # the lock went with its process
        assert later.process.poll() is None


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(tmp_path, port=port)
    assert ended.returncode == Exit.BAD_INPUT
    assert f"can't listen on 127.0.0.1:{port}" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_also_while_a_client_reads(tmp_path: Path, number: signal.Signals) -> None:
    with running_front(tmp_path) as front:
        client = clickhouse_connect.get_client(host="127.0.0.1", port=front.port)
        with client.query_rows_stream("SELECT number FROM numbers(100000000)") as rows:
            next(iter(rows))
            os.kill(front.process.pid, number)
            assert front.process.wait(30) == Exit.OK
        assert front.process.stdout is not None
        assert front.process.stdout.read() == ""
