"""Where the stack keeps its things, and as whom its servers run.

As root, PostgreSQL and Elasticsearch must run as another user: then what that user can't reach in the stack's folder
or in the Python environment is kept in (or copied to) a system folder. This module knows paths and users, no servers.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.artifacts import copy_whole
from downriver.exits import BadInput, DownriverError

SYSTEM_FOLDER = Path("/var/lib/downriver")
"""For root only: every user can enter it, and no other package uses the name."""

FOLDERS = ("data", "logs", "run")
UNUSABLE = ":,\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and group that a server runs as, by number."""

    uid: int
    gid: int


def unprivileged() -> Identity | None:
    """Return who servers that refuse root run as: None (as ourselves) unless we are root.

    It is `nobody` and no invented number, because initdb looks its user up in the user database.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise DownriverError(
            "As root, PostgreSQL and Elasticsearch run as the user `nobody`, which this machine lacks: "
            "create it, or run the stack as a plain user."
        ) from None
    return Identity(entry.pw_uid, entry.pw_gid)


def can(identity: Identity, test: str, path: Path) -> bool:
    """Tell whether the user passes `test` (as of test(1): -r, -x, -w) on a path: all parents count, so it is tried."""
    command = ["test", test, str(path)]
    return subprocess.run(command, user=identity.uid, group=identity.gid, extra_groups=[], check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one stack.

    folder: data, logs, run files; made for the one who starts the stack.
    open_folder: the same for servers that run as `identity`; equal to `folder` where that user can enter it.
    artifacts: unpacked archives, which several stacks may share.
    """

    folder: Path
    open_folder: Path
    artifacts: Path
    identity: Identity | None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def at(cls, folder: Path, artifacts: Path | None = None) -> Home:
        """Find out where everything belongs, `identity`'s share included. Makes nothing: see `make`.

        Raises:
            BadInput: the folder's name can't be used.
        """
        folder = folder.resolve()
        if unusable := sorted(set(str(folder)) & set(UNUSABLE)):
            msg = (
                f"stack.folder {folder} holds {' '.join(unusable)}, which separates paths in the servers' settings: "
                "choose another (DOWNRIVER_STACK__FOLDER)."
            )
            raise BadInput(msg)
        identity = unprivileged()
        open_folder, notes = folder, []
        artifacts = (artifacts or folder / "artifacts").absolute()
        if identity is not None and not _can_enter(identity, folder / "data"):
            open_folder = SYSTEM_FOLDER / "stacks" / hashlib.sha256(str(folder).encode()).hexdigest()[:12]
            notes.append(
                f"PostgreSQL and Elasticsearch run as uid {identity.uid}, which can't enter {folder}: "
                f"their data is in {open_folder}."
            )
        if identity is not None and not _can_enter(identity, artifacts):
            artifacts = SYSTEM_FOLDER / "artifacts"
        return cls(folder, open_folder, artifacts, identity, notes)

    def make(self) -> None:
        """Make the folders that are missing, so that `identity` can pass through to its own, whatever the umask.

        Raises:
            BadInput: a folder can't be made.
        """
        try:
            for path in (*(self.folder / name for name in FOLDERS), self.artifacts, self.open_folder / "data"):
                _make_open(path)
        except OSError as error:
            msg = (
                f"stack.folder {self.folder} can't be used: {error.strerror} ({error.filename}). "
                "Choose another (DOWNRIVER_STACK__FOLDER)."
            )
            raise BadInput(msg) from None

    def data(self, server: str, *, as_identity: bool = False) -> Path:
        """Return the data folder of a server, made for its user."""
        path = (self.open_folder if as_identity else self.folder) / "data" / server
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if as_identity and self.identity is not None:
            os.chown(path, self.identity.uid, self.identity.gid)
        return path

    def log(self, server: str) -> Path:
        """Return the log file of a server: what it prints since its last start."""
        return self.folder / "logs" / f"{server}.log"

    def run_file(self, server: str) -> Path:
        """Return the file that says which process a server is."""
        return self.folder / "run" / f"{server}.json"

    def package(self, source: Path, parts: tuple[str, ...], probe: str, version: str) -> Path:
        """Return a folder with `parts` of the Python package folder `source`, which the servers' user can read.

        Copies them to the system folder when that user can't reach `probe` (a file below `source`), and notes it.
        """
        if self.identity is None or can(self.identity, "-r", source / probe):
            return source
        target = SYSTEM_FOLDER / "packages" / f"{parts[0].split('/')[0]}-{version}"
        if not target.exists():
            self.notes.append(f"uid {self.identity.uid} can't read {source / parts[0]}: copied to {target}.")
        _make_open(target.parent)
        return copy_whole(source, target, parts)

    def secret(self, name: str) -> str:
        """Return the secret kept under `name` (mode 600), made at random the first time."""
        path = self.folder / "secrets" / name
        self.make()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(secrets.token_urlsafe(24))
        return path.read_text(encoding="utf-8").strip()

    def remove_data(self) -> None:
        """Delete everything the servers wrote, and leave empty folders; unpacked artifacts can be used again, and stay."""
        for path in (self.folder / name for name in (*FOLDERS, "secrets")):
            if path.exists():
                shutil.rmtree(path)
        if self.open_folder != self.folder and self.open_folder.exists():
            shutil.rmtree(self.open_folder)
        self.make()


def _make_open(path: Path) -> None:
    """Make a folder and its missing parents so that every user can enter them, whatever the umask."""
    for folder in reversed((path, *path.parents)):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)


def _can_enter(identity: Identity, path: Path) -> bool:
    """Tell whether the user can enter a folder; one that is still missing will be made open, so its parent counts."""
    while not path.exists():
        path = path.parent
    return can(identity, "-x", path)
