"""Runs `downriver connectors …` in this process, for a lane of a test's own, and returns what a person would see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from connectors import live
from connectors.commands import app
from connectors.files import Connector
from downriver.exits import DownriverError
from downriver.settings import Settings


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended; `told` is what it said, the error's text included."""

    code: int
    out: str
    told: str

    @property
    def document(self) -> Any:
        """The JSON that it printed."""
        return orjson.loads(self.out)


class Commands:
    """The commands, with the settings and the files of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings, files: list[Connector]) -> None:
        monkeypatch.setattr(live, "in_use", lambda context=None: settings)
        monkeypatch.setattr(live, "wanted", lambda settings: {connector.name: connector for connector in files})

    def __call__(self, *arguments: str, stdin: str | None = None) -> Ran:
        """Run one command."""
        done = CliRunner().invoke(app, list(arguments), input=stdin)
        if isinstance(done.exception, DownriverError):
            return Ran(int(done.exception.exit_code), done.stdout, f"{done.stderr}{done.exception}")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ran(done.exit_code, done.stdout, done.stderr)
