"""The Java artifacts of the stack: pinned in artifacts.toml, fetched by Maven coordinates, checked, unpacked once.

It knows coordinates and checksums, and nothing of the servers that are made of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
import threading
import tomllib
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from downriver.exits import DownriverError

# jgo looks for a runtime folder of the login session that it never needs here, and warns where there is no session.
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")

PINS = Path(__file__).with_name("artifacts.toml")
DOWNLOADS_AT_ONCE = 8
NETWORK_TIMEOUT_S = 60

Received = Callable[[int], None]
"""Told the size, in bytes, of each piece that was downloaded."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a Maven repository, pinned by the hash of its content."""

    group: str
    name: str
    version: str
    classifier: str
    packaging: str
    sha256: str

    @classmethod
    def parse(cls, coordinates: str, sha256: str) -> Artifact:
        """Read `group:artifact:version:classifier:packaging`; the last two may be left out (a plain jar)."""
        group, name, version, classifier, packaging = (*coordinates.split(":"), "", "jar")[:5]
        return cls(group, name, version, classifier, packaging or "jar", sha256)

    @property
    def coordinates(self) -> str:
        """Return the artifact as artifacts.toml spells it."""
        return ":".join((self.group, self.name, self.version, self.classifier, self.packaging))

    @property
    def folder_name(self) -> str:
        """Return a name for the unpacked folder that changes with the content."""
        return f"{self.name}-{self.version}-{self.sha256[:8]}"


@dataclass(frozen=True, slots=True)
class Pinned:
    """One table of artifacts.toml: what a server asks for, and every file that comes with it."""

    roots: tuple[str, ...]
    leave_out: frozenset[str]
    files: tuple[Artifact, ...]

    @property
    def version(self) -> str:
        """Return the version of the first root: that of the server itself."""
        return self.roots[0].split(":")[2]


def pinned(path: Path = PINS) -> dict[str, Pinned]:
    """Read artifacts.toml: one entry for each of its tables."""
    return {
        name: Pinned(
            tuple(table["roots"]),
            frozenset(table["leave_out"]),
            tuple(Artifact.parse(file["maven"], file["sha256"]) for file in table["files"]),
        )
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Depot:
    """Fetches artifacts into the local Maven cache and unpacks archives into `unpacked`, for several threads at once."""

    def __init__(self, unpacked: Path) -> None:
        self._unpacked = unpacked
        self._pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, thread_name_prefix="download")
        self._locks: dict[Artifact, threading.Lock] = {}
        self._guard = threading.Lock()

    def fetch(self, artifacts: tuple[Artifact, ...], received: Received) -> list[Path]:
        """Return the checked local file of each artifact, in order; downloads what is missing, in parallel.

        Raises:
            DownriverError: a download failed, or its content is not what artifacts.toml pins.
        """
        return list(self._pool.map(lambda artifact: self._one(artifact, received), artifacts))

    def unpack(self, artifact: Artifact, received: Received) -> Path:
        """Return the folder that holds the content of an archive. It exists whole or not at all."""
        target = self._unpacked / artifact.folder_name
        if target.exists():
            return target
        (archive,) = self.fetch((artifact,), received)
        with self._lock(artifact), _appears_whole(target) as folder:
            if folder is not None:
                _extract(archive, folder)
        return target

    def _one(self, artifact: Artifact, received: Received) -> Path:
        with self._lock(artifact):
            cached = _cached_path(artifact)
            if cached.exists() and sha256_of(cached) == artifact.sha256:
                return cached
            # jgo writes straight to its final place, so an interrupted download would stay there half: it gets a
            # folder of its own, and only a checked file is moved into the cache that other tools share.
            cached.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".downriver-", dir=cached.parent) as incoming:
                file = _download(artifact, Path(incoming), received)
                found = sha256_of(file)
                if found != artifact.sha256:
                    msg = (
                        f"{artifact.coordinates}: downloaded content has sha256 {found}, artifacts.toml pins "
                        f"{artifact.sha256}. Try again; if it stays, the repository serves something else than was pinned."
                    )
                    raise DownriverError(msg)
                file.replace(cached)
            return cached

    def _lock(self, artifact: Artifact) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(artifact, threading.Lock())


def _cached_path(artifact: Artifact) -> Path:
    from jgo.maven import MavenContext

    component = MavenContext().project(artifact.group, artifact.name).at_version(artifact.version)
    return Path(component.artifact(classifier=artifact.classifier, packaging=artifact.packaging).cached_path)


def _download(artifact: Artifact, into: Path, received: Received) -> Path:
    from jgo.maven import MavenContext, PythonResolver

    @contextlib.contextmanager
    def pieces(_filename: str, _size: int) -> Iterator[Received]:
        yield received

    context = MavenContext(
        resolver=PythonResolver(progress_callback=pieces), repo_cache=into, timeout=NETWORK_TIMEOUT_S
    )
    component = context.project(artifact.group, artifact.name).at_version(artifact.version)
    try:
        return Path(component.artifact(classifier=artifact.classifier, packaging=artifact.packaging).resolve())
    except Exception as error:  # jgo raises RuntimeError and whatever its HTTP library raises
        msg = (
            f"{artifact.coordinates} can't be downloaded: {error}. Check the network (or its proxy) and run it again: "
            "what is there already is kept."
        )
        raise DownriverError(msg) from error


@contextlib.contextmanager
def _appears_whole(target: Path) -> Iterator[Path | None]:
    """Give a temporary folder that becomes `target` in one step when the block ends well; None if it is there already."""
    if target.exists():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        make_readable(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_whole(source: Path, target: Path, parts: tuple[str, ...]) -> Path:
    """Copy `parts` (paths below `source`) to the same places below `target`, which appears whole or not at all."""
    with _appears_whole(target) as folder:
        if folder is not None:
            for part in parts:
                shutil.copytree(source / part, folder / part, symlinks=True)
    return target


def _extract(archive: Path, folder: Path) -> None:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                path = Path(packed.extract(info, folder))
                if mode := info.external_attr >> 16 & 0o777:
                    path.chmod(mode)  # zipfile forgets it, and bin/ must stay executable
        return
    with tarfile.open(archive) as packed_tar:
        if hasattr(tarfile, "data_filter"):
            packed_tar.extractall(folder, filter="data")
        else:  # Python before 3.11.4, such as Debian 12's, has no filters; the content is pinned by its hash
            packed_tar.extractall(folder)  # noqa: S202


def make_readable(folder: Path) -> None:
    """Let every user read the tree, whatever the umask: servers may run as another user than the one that unpacks."""
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in files:
            path = Path(parent) / name
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
