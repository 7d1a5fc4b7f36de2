"""What the demo shows while it runs: a live page on a terminal, a line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from downriver.output import say, stderr

LINE_EVERY_S = 10.0


class Screen:
    """A live page between `with` and its end; what is said goes above it.

    Args:
        page: the page's body now, None while there is nothing to show.
        line: the same in one line, for where there is no terminal.
    """

    def __init__(self, page: Callable[[], RenderableType | None], line: Callable[[], str]) -> None:
        self._page = page
        self._line = line
        self._headline = ""
        self._detail = ""
        self._said_at = time.monotonic()
        self._live = (
            Live(console=stderr, get_renderable=self._render, refresh_per_second=4, transient=True)
            if stderr.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; the page disappears, what was said stays."""
        if self._live:
            self._live.stop()

    def _render(self) -> RenderableType:
        body = self._page()
        head = Text.assemble((self._headline, "bold"), "  ", self._detail)
        return Group(head, Text(), body) if body is not None else head

    def headline(self, text: str) -> None:
        """Say what happens now."""
        self._headline, self._detail = text, ""
        if self._live is None:
            say(text)

    def detail(self, text: str) -> None:
        """Say how far it is; call it often. Where there is no live page, the line is printed now and then."""
        self._detail = text
        if self._live is None and time.monotonic() - self._said_at >= LINE_EVERY_S and (line := self._line()):
            self._said_at = time.monotonic()
            say(f"  {text}; {line}")
