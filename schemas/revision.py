"""The contracts as a git revision has them: what a change is judged against, without any server."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from downriver.exits import BadInput
from schemas.contracts import FOLDER, INDEX, Contracts, load

PATIENCE_S = 30.0


def at(revision: str, folder: Path = FOLDER) -> Contracts | None:
    """Return the folder's contracts at that revision; None if it had none then.

    Raises:
        BadInput: no git, no repository, no such revision, or contracts that can't be read.
    """
    _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", what=revision)
    listed = _git(folder, "ls-tree", "--name-only", "-z", revision, "./", what=revision).decode().split("\0")
    names = [name for name in listed if name == INDEX or name.endswith(".avsc")]
    if INDEX not in names:
        return None
    with TemporaryDirectory() as made:
        for name in names:
            (Path(made) / name).write_bytes(_git(folder, "show", f"{revision}:./{name}", what=revision))
        return load(Path(made))


def _git(folder: Path, *arguments: str, what: str) -> bytes:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"git can't be run in {folder}: {error}"
        raise BadInput(msg) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or "there is no such revision"
        msg = f"git does not give {what!r} of {folder}: {said}"
        raise BadInput(msg)
    return done.stdout
