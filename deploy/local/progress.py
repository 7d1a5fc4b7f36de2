"""How a start is shown: a live table on a terminal, plain lines elsewhere. On stderr: stdout belongs to the answer."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from downriver.output import stderr

MIB = 2**20


class Progress(Protocol):
    """Told what each server does. Called from several threads."""

    def state(self, server: str, text: str) -> None:
        """The server is now `text`: downloading, initialising, starting, healthy …"""

    def received(self, server: str, size: int) -> None:
        """So many bytes more were downloaded for the server."""

    def failed(self, server: str, reason: str) -> None:
        """The server did not come up; `reason` may be many lines long."""


class Silent:
    """A progress that shows nothing."""

    def state(self, server: str, text: str) -> None:
        """Show nothing."""

    def received(self, server: str, size: int) -> None:
        """Show nothing."""

    def failed(self, server: str, reason: str) -> None:
        """Show nothing: the error that `up` raises tells it too."""


class Shown:
    """A progress for people. Use it as a context manager around `Stack.up`."""

    def __init__(self, console: Console = stderr) -> None:
        self._console = console
        self._rows: dict[str, str] = {}
        self._bytes: dict[str, int] = {}
        self._guard = threading.Lock()
        self._begun = time.monotonic()
        self._live = (
            Live(console=console, get_renderable=self._table, refresh_per_second=8) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        if self._live:
            self._live.stop()

    def state(self, server: str, text: str) -> None:
        """Show the state; as a line of its own where nothing is live."""
        with self._guard:
            if self._rows.get(server) == text:
                return
            self._rows[server] = text
        if not self._live:
            self._console.print(f"{time.monotonic() - self._begun:6.1f} s  {server:<14} {escape(text)}", soft_wrap=True)

    def received(self, server: str, size: int) -> None:
        """Add to what the server downloaded; a line for every 50 MiB where nothing is live."""
        with self._guard:
            before = self._bytes.get(server, 0)
            after = self._bytes[server] = before + size
        if not self._live and before // (50 * MIB) != after // (50 * MIB):
            self._console.print(f"{'':9} {server:<14} downloaded {after // MIB} MiB")

    def failed(self, server: str, reason: str) -> None:
        """Show the reason at once, above the table."""
        self.state(server, "failed")
        self._console.print(f"[red]{server}:[/] {escape(reason)}", soft_wrap=True)

    def _table(self) -> Table:
        shown = Table(box=None, show_header=False, pad_edge=False)
        with self._guard:
            for server, text in self._rows.items():
                size = self._bytes.get(server, 0)
                colour = {"healthy": "green", "failed": "red"}.get(text.split()[0], "yellow")
                shown.add_row(server, f"[{colour}]{escape(text)}[/]", f"{size // MIB} MiB downloaded" if size else "")
        return shown
