"""The sinks. Adding one is one file (or folder) here, one line below, and a route in each table that feeds it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from downriver.exits import BadInput

if TYPE_CHECKING:
    from downriver.settings import Settings
    from processors.sinks.base import Sink

SINKS: dict[str, str] = {
    # kind: module:class; the class is built as Class(settings, name=kind) and imported only when a worker runs it
    "cache": "processors.sinks.cache.sink:CacheSink",
    "search": "processors.sinks.search.sink:SearchSink",
    "analytics": "processors.sinks.analytics.sink:AnalyticsSink",
}


def build(kind: str, settings: Settings) -> Sink[Any]:
    """Build the sink of that kind; it is not opened yet.

    Raises:
        BadInput: no such kind, or its extra is not installed.
    """
    if kind not in SINKS:
        msg = f"there is no sink {kind!r}; there are: {', '.join(SINKS)}"
        raise BadInput(msg)
    module, _, name = SINKS[kind].partition(":")
    try:
        made: Sink[Any] = getattr(importlib.import_module(module), name)(settings, name=kind)
    except ModuleNotFoundError as error:
        msg = f"the {kind} sink needs {error.name}, which is not installed: pip install -e '.[{kind}]'"
        raise BadInput(msg) from None
    return made
