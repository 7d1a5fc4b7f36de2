"""The peers: a Python environment of their own under .downriver-bench, from hashed requirements. Missing is not beaten."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.worker import FOLDER
from downriver.exits import DownriverError
from downriver.output import say

REQUIREMENTS = Path(__file__).with_name("peers.txt")
SCRIPT = Path(__file__).with_name("quix.py")
INSTALL_S = 600.0
RUN_S = 900.0
QUIX = "Quix Streams 3.28.1"


class Missing(DownriverError):
    """A peer can't be had here; it is reported as missing."""


def home() -> Path:
    """Return the folder of the peers' environment; install it if it is not there as the requirements have it.

    Raises:
        Missing: the installation failed, with what the installer said.
    """
    folder = FOLDER.absolute() / "peers"
    stamp, wanted = folder / "installed", hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    say("installing the peers …")
    shutil.rmtree(folder, ignore_errors=True)
    uv = [sys.executable, "-m", "uv"]
    python = str(folder / "bin" / "python")
    for command in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", str(REQUIREMENTS)],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            msg = f"the peers can't be installed: {error}"
            raise Missing(msg) from None
        if done.returncode:
            msg = f"the peers can't be installed: {done.stderr.strip()[-300:]}"
            raise Missing(msg)
    stamp.write_text(wanted)
    return folder


def quix(mode: str, count: int, about: Mapping[str, Any]) -> tuple[int, float]:
    """Run the work of the mode in Quix Streams; return records and seconds.

    Raises:
        Missing: it is not installed, or did not finish the work.
    """
    command = [str(home() / "bin" / "python"), "-W", "ignore", str(SCRIPT), mode, str(count), json.dumps(about)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"{QUIX} did not finish: {type(error).__name__}"
        raise Missing(msg) from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        msg = f"{QUIX} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        raise Missing(msg) from None
    if answer["records"] < count or answer["seconds"] <= 0:
        msg = f"{QUIX} dealt with {answer['records']} of {count} records"
        raise Missing(msg)
    return int(answer["records"]), float(answer["seconds"])
