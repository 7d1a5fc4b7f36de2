"""What the machine lacks is said with figures, and a taken port with its owner."""

from __future__ import annotations

import os
import socket
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import machine
from deploy.local.machine import GIB

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def listening() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_named_with_its_owner(listening: int) -> None:
    owner = machine.taken(listening)
    assert owner is not None
    assert f"pid {os.getpid()}, " in owner


def test_a_port_taken_on_every_address_is_taken_on_loopback() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104
        assert machine.taken(server.getsockname()[1]) is not None


def test_a_free_port_has_no_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert machine.taken(port) is None


def test_too_little_disk_and_memory_are_told_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.machine.shutil.disk_usage", lambda _: Usage(100 * GIB, 98 * GIB, int(1.5 * GIB)))
    monkeypatch.setattr(machine, "available_memory", lambda: 2 * GIB)
    disk, memory = machine.shortages(tmp_path)
    assert "1.5 GiB are free" in disk
    assert "4 GiB are needed" in disk
    assert str(tmp_path) in disk
    assert "2.0 GiB are available, 4.0 GiB are needed" in memory


def test_enough_is_no_shortage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.machine.shutil.disk_usage", lambda _: Usage(100 * GIB, 0, 4 * GIB))
    monkeypatch.setattr(machine, "available_memory", lambda: 4 * GIB)
    assert machine.shortages(tmp_path) == []


def test_a_container_may_have_less_than_its_machine(tmp_path: Path) -> None:
    for name, text in {
        "memory.max": "3000",
        "memory.current": "2500",
        "memory.stat": "anon 1000\ninactive_file 400\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert machine.available_memory(tmp_path) == 3000 - 2500 + 400


@pytest.mark.parametrize("limit", ["max", None])
def test_without_a_limit_the_machine_counts(tmp_path: Path, limit: str | None) -> None:
    if limit:
        (tmp_path / "memory.max").write_text(limit)
    assert machine.available_memory(tmp_path) > 10_000
