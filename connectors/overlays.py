"""What is different in one environment: `overlays/<environment>/…` beside the files, merged key by key, null removes.

An overlay file has the shape of a connector file; its config holds only what differs. The name `*` means every connector;
what names one connector is merged after it. The rule for null is that of Connect's own PATCH.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from connectors.connector import Connector
from connectors.reading import SUFFIXES, Document, Unreadable, read
from downriver.settings import Settings

FOLDER = "overlays"
EVERY = "*"
HERE = Path(__file__).parent


def environments(folder: Path) -> list[str]:
    """Return the environments that a folder of connector files has overlays for."""
    found = folder / FOLDER
    return sorted(path.name for path in found.iterdir() if path.is_dir()) if found.is_dir() else []


def merge(connectors: Sequence[Connector], folder: Path, environment: str) -> tuple[list[Connector], list[str]]:
    """Return the connectors as the environment has them, and every mistake of its overlay files.

    Args:
        folder: the one with the connector files; `overlays` is below it.
    """
    home = folder / FOLDER / environment
    if not home.is_dir():
        known = ", ".join(environments(folder)) or "none"
        return list(connectors), [f"{home}: there is no overlay {environment!r}; there are: {known}"]
    found: list[tuple[Path, Document]] = []
    mistakes: list[str] = []
    for path in sorted(path for path in home.iterdir() if path.suffix in SUFFIXES):
        try:
            found += [(path, document) for document in read(path)]
        except Unreadable as error:
            mistakes.append(f"{path}: {error}")
    names = {connector.name for connector in connectors}
    for path, document in found:
        if document.name != EVERY and document.name not in names:
            known = ", ".join(sorted(names)) or "none"
            mistakes.append(
                f"{path}: name = {document.name!r}: no such connector here; there are: {known}, and {EVERY}"
            )
    merged = list(connectors)
    for path, document in sorted(found, key=lambda each: each[1].name != EVERY):
        merged = [
            _merged(connector, path, document) if document.name in {EVERY, connector.name} else connector
            for connector in merged
        ]
    return merged, mistakes


def _merged(connector: Connector, path: Path, document: Document) -> Connector:
    config = {**connector.config, **document.config}
    places = dict(connector.places) | {key: f"{path}:{line}" for key, line in document.lines.items()}
    kept = [silence for silence in connector.silences if silence.key not in document.config]
    return replace(
        connector,
        config={key: value for key, value in config.items() if value is not None},
        places=places,
        silences=(*kept, *document.silences),
    )


def meant(settings: Settings, files: Sequence[Path] | None, asked: str | None) -> str:
    """Return the overlay that is meant: the option's, the context's, or the one that has the context's name."""
    if asked is not None:
        return asked
    context = settings.contexts.get(settings.context)
    if context is None:
        return ""
    if context.overlay:
        return context.overlay
    folders = [path if path.is_dir() else path.parent for path in files or [HERE]]
    return settings.context if any(settings.context in environments(folder) for folder in folders) else ""
