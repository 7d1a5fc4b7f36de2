"""Artifacts are pinned, checked before they are used, and never seen half."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy.local import artifacts
from deploy.local.artifacts import PINS, Artifact, Depot, copy_whole, make_readable, pinned
from downriver.exits import DownriverError


def nothing(_size: int) -> None:
    """Take no notice of progress."""


def artifact(content: bytes, packaging: str = "jar") -> Artifact:
    """Return an artifact pinned to `content`."""
    return Artifact("org.example", "thing", "1.0", "", packaging, hashlib.sha256(content).hexdigest())


class Repository:
    """Stands in for the Maven repository: serves bytes, counts how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cache: Path, content: bytes) -> None:
        self.content = content
        self.asked = 0
        monkeypatch.setenv("M2_REPO", str(cache))
        monkeypatch.setattr(artifacts, "_download", self.serve)

    def serve(self, wanted: Artifact, into: Path, received: artifacts.Received) -> Path:
        """Write the content where jgo would."""
        self.asked += 1
        received(len(self.content))
        path = into / f"{wanted.name}.{wanted.packaging}"
        path.write_bytes(self.content)
        return path


def test_every_file_is_pinned_by_hash_and_named_by_coordinates_only() -> None:
    groups = pinned()
    assert set(groups) == {"kafka", "connect", "converter", "debezium", "registry", "elasticsearch"}
    for name, group in groups.items():
        assert group.files, name
        for file in group.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256), file
            assert f"{file.group}:{file.name}" not in group.leave_out
        named = {f"{file.group}:{file.name}:{file.version}" for file in group.files}
        assert {":".join(root.split(":")[:3]) for root in group.roots} <= named
    assert "://" not in PINS.read_text(encoding="utf-8")


def test_connect_brings_no_second_version_of_what_it_shares_with_plugins() -> None:
    groups = pinned()
    shared = {"kafka-clients", "connect-api", "connect-json", "slf4j-api", "zstd-jni", "lz4-java", "snappy-java"}
    assert not shared & {file.name for file in groups["converter"].files}
    clients = {
        file.version for name in ("kafka", "connect") for file in groups[name].files if file.name == "kafka-clients"
    }
    assert clients == {groups["kafka"].version}


@pytest.mark.parametrize(
    ("coordinates", "classifier", "packaging"),
    [
        ("a:b:1", "", "jar"),
        ("a:b:1:plugin:tar.gz", "plugin", "tar.gz"),
        ("a:b:1::zip", "", "zip"),
        ("a:b:1::", "", "jar"),
    ],
)
def test_coordinates_default_to_a_plain_jar(coordinates: str, classifier: str, packaging: str) -> None:
    parsed = Artifact.parse(coordinates, "00")
    assert (parsed.classifier, parsed.packaging) == (classifier, packaging)
    assert Artifact.parse(parsed.coordinates, "00") == parsed


def test_a_fetched_file_is_kept_and_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(monkeypatch, tmp_path / "m2", b"good")
    depot = Depot(tmp_path / "unpacked")
    (first,) = depot.fetch((artifact(b"good"),), nothing)
    (second,) = depot.fetch((artifact(b"good"),), nothing)
    assert first == second
    assert first.read_bytes() == b"good"
    assert repository.asked == 1


def test_content_that_is_not_what_was_pinned_never_reaches_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Repository(monkeypatch, tmp_path / "m2", b"evil")
    with pytest.raises(DownriverError, match=r"org.example:thing:1.0::jar.*sha256"):
        Depot(tmp_path / "unpacked").fetch((artifact(b"good"),), nothing)
    assert [path for path in (tmp_path / "m2").rglob("*") if path.is_file()] == []


def test_a_file_cut_short_by_another_tool_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Repository(monkeypatch, tmp_path / "m2", b"good")
    half = tmp_path / "m2" / "org/example/thing/1.0/thing-1.0.jar"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"go")
    assert Depot(tmp_path / "unpacked").fetch((artifact(b"good"),), nothing) == [half]
    assert half.read_bytes() == b"good"


def test_an_archive_is_unpacked_once_readable_for_all_with_its_programs_executable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        program = zipfile.ZipInfo("bin/run")
        program.external_attr = 0o700 << 16
        archive.writestr(program, "#!/bin/sh\n")
        archive.writestr("config/text", "text")
    repository = Repository(monkeypatch, tmp_path / "m2", packed.getvalue())
    wanted = artifact(packed.getvalue(), "zip")
    folder = Depot(tmp_path / "unpacked").unpack(wanted, nothing)
    assert (folder / "bin/run").stat().st_mode & 0o777 == 0o755
    assert (folder / "config/text").stat().st_mode & 0o444 == 0o444
    assert folder.stat().st_mode & 0o777 == 0o755
    assert Depot(tmp_path / "unpacked").unpack(wanted, nothing) == folder
    assert repository.asked == 1


def test_an_archive_that_breaks_while_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in ("one", "two"):
            info = tarfile.TarInfo(name)
            info.size = 100_000
            archive.addfile(info, io.BytesIO(bytes(range(250)) * 400))
    cut = packed.getvalue()[:-200]
    Repository(monkeypatch, tmp_path / "m2", cut)
    with pytest.raises(EOFError):
        Depot(tmp_path / "unpacked").unpack(artifact(cut, "tar.gz"), nothing)
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_a_copy_holds_the_parts_that_were_asked_for_and_is_made_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for part in ("one", "two", "three"):
        (source / part).mkdir(parents=True)
        (source / part / "file").write_text(part)
    copy = copy_whole(source, tmp_path / "copies" / "target", ("one", "two"))
    assert {path.name for path in copy.iterdir()} == {"one", "two"}
    (source / "one" / "file").write_text("changed")
    copy_whole(source, copy, ("one", "two"))
    assert (copy / "one" / "file").read_text() == "one"


def test_reading_is_allowed_to_all_and_running_only_where_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir(mode=0o700)
    for name, mode in {"text": 0o600, "program": 0o700}.items():
        (tree / name).write_text("")
        (tree / name).chmod(mode)
    make_readable(tree)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tree.iterdir()}
    assert modes == {"text": 0o644, "program": 0o755}
