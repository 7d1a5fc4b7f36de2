"""The stack's folder: what can't be used is refused by name, secrets are private, a reset keeps what was downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.local.home import Home, Identity, can
from downriver.exits import BadInput

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system folder of the test's own."""
    folder = tmp_path / "system"
    monkeypatch.setattr("deploy.local.home.SYSTEM_FOLDER", folder)
    return folder


@pytest.mark.parametrize("name", ["a,b", "a:b"])
def test_a_name_that_separates_paths_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="DOWNRIVER_STACK__FOLDER"):
        Home.at(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_that_cant_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file can't be used: Not a directory"):
        Home.at(tmp_path / "file").make()


def test_looking_for_a_home_makes_nothing(tmp_path: Path, system: Path) -> None:
    Home.at(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
    assert not system.exists()


def test_two_names_of_one_folder_are_one_home(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Home.at(tmp_path / "link").folder == Home.at(tmp_path / "real").folder


def test_a_secret_is_private_random_and_stays_the_same(tmp_path: Path) -> None:
    home, other = Home.at(tmp_path / "one"), Home.at(tmp_path / "two")
    assert home.secret("word") == home.secret("word") != other.secret("word")
    path = home.folder / "secrets" / "word"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_reset_keeps_unpacked_artifacts(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "home")
    (home.artifacts / "thing").mkdir(parents=True)
    (home.data("postgres") / "rows").write_text("")
    home.secret("word")
    home.remove_data()
    assert (home.artifacts / "thing").is_dir()
    assert {path.name for path in home.folder.iterdir()} - {"artifacts"} == {"data", "logs", "run"}
    assert list((home.folder / "data").iterdir()) == []


@needs_root
def test_data_of_an_unprivileged_server_belongs_to_its_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    home = Home.at(tmp_path / "home")
    assert home.identity is not None
    data = home.data("postgres", as_identity=True)
    assert (data.stat().st_uid, data.stat().st_mode & 0o777) == (home.identity.uid, 0o700)


@needs_root
def test_a_closed_parent_sends_the_open_data_to_the_system_folder_and_says_so(tmp_path: Path, system: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = Home.at(closed / "stack")
    home.make()
    assert home.open_folder.is_relative_to(system)
    assert home.artifacts == system / "artifacts"
    assert str(home.open_folder) in " ".join(home.notes)
    assert home.data("kafka").is_relative_to(closed)
    home.data("postgres", as_identity=True)
    home.remove_data()
    assert list((home.open_folder / "data").iterdir()) == []


@needs_root
def test_a_narrow_umask_closes_nothing_that_others_must_enter(tmp_path: Path, system: Path) -> None:
    before = os.umask(0o077)
    try:
        homes = [Home.at(tmp_path / "stack"), Home.at(tmp_path / "other" / "stack")]
        for home in homes:
            home.make()
        source = tmp_path / "package"
        (source / "part").mkdir(parents=True)
        (source / "part" / "program").write_text("")
        copy = homes[0].package(source, ("part",), "part/program", "1.0")
    finally:
        os.umask(before)
    for home in homes:
        for path in (home.open_folder, home.open_folder / "data", home.artifacts):
            assert path.stat().st_mode & 0o777 == 0o755, path
    assert {path.stat().st_mode & 0o777 for path in (system, copy.parent, copy, copy / "part")} == {0o755}


@needs_root
def test_a_package_the_user_cant_read_is_copied_and_noted_once(tmp_path: Path, system: Path) -> None:
    source = tmp_path / "closed"
    (source / "part").mkdir(parents=True)
    (source / "part" / "program").write_text("content")
    source.chmod(0o700)
    home = Home(tmp_path, tmp_path, tmp_path, Identity(65534, 65534))
    copies = [home.package(source, ("part",), "part/program", "1.0") for _ in range(2)]
    assert copies == [system / "packages" / "part-1.0"] * 2
    assert (copies[0] / "part" / "program").read_text() == "content"
    assert len(home.notes) == 1


@needs_root
def test_every_parent_counts_for_reaching_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    identity = Identity(65534, 65534)
    tmp_path.chmod(0o700)
    assert not can(identity, "-r", tmp_path / "file")
    assert can(identity, "-x", Path("/"))
