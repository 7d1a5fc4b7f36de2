"""The connector files: found, read, merged with an environment's overlay, and refused with every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from connectors import lint, overlays
from connectors.connector import HEARTBEAT_TABLE, REFERENCE, Connector, State, renamed
from connectors.lint import Finding, Severity
from connectors.reading import SUFFIXES, Document, Unreadable, read
from downriver.exits import BadInput

__all__ = ["HEARTBEAT_TABLE", "REFERENCE", "Connector", "Files", "State", "default_files", "load", "look", "renamed"]

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Files:
    """What was found in the files.

    Attributes:
        connectors: those that could be read; findings may say that they can't be used.
        whole: a folder was read, so what it lacks is nowhere.
    """

    connectors: list[Connector]
    findings: list[Finding]
    whole: bool

    @property
    def errors(self) -> list[Finding]:
        """What keeps the files from being used."""
        return [each for each in self.findings if each.severity is Severity.ERROR and not each.silenced]


def default_files() -> list[Path]:
    """Return the files of this folder, sorted by name."""
    return _inside(FOLDER)


def load(paths: Sequence[Path] | None = None, overlay: str = "") -> list[Connector]:
    """Read and check connector files and folders, by default this folder.

    Args:
        overlay: the environment whose differences are merged in; empty: none.

    Raises:
        BadInput: naming every mistake of every file at once: file, line, key, value, what is allowed.
    """
    return usable(look(paths, overlay))


def usable(files: Files) -> list[Connector]:
    """Return the connectors of files without an error.

    Raises:
        BadInput: naming every error.
    """
    if errors := files.errors:
        lines = "".join(f"\n  {error}" for error in errors)
        msg = f"{len(errors)} mistake(s) in the connector files:{lines}"
        raise BadInput(msg)
    return files.connectors


def look(
    paths: Sequence[Path] | None = None, overlay: str = "", tables: Sequence[lint.KnownTable] | None = None
) -> Files:
    """Read connector files and folders and tell every finding; arguments as for `load`.

    Args:
        tables: what the stream workers know, to compare the files with; None: don't.
    """
    connectors: list[Connector] = []
    findings: list[Finding] = []
    given = [FOLDER] if not paths else list(paths)
    whole = any(path.is_dir() for path in given)
    for path in given:
        inside = _inside(path) if path.is_dir() else [path]
        if not inside:
            findings.append(_broken(str(path), f"holds no connector file ({', '.join(SUFFIXES)})"))
        folder = path if path.is_dir() else path.parent
        silences, mistakes = lint.silences_beside(folder)
        here: list[Connector] = []
        for file in inside:
            try:
                documents = read(file)
            except Unreadable as error:
                mistakes.append(f"{file}: {error}")
                continue
            for document in documents:
                mistakes += _mistakes(file, document)
                if connector := _connector(file, document):
                    here.append(replace(connector, silences=(*document.silences, *silences.get(connector.name, ()))))
        if overlay:
            here, wrong = overlays.merge(here, folder, overlay)
            mistakes += wrong
        connectors += here
        findings += [_broken(*mistake.split(": ", 1)) for mistake in dict.fromkeys(mistakes)]
    findings += lint.check(connectors, tables, whole=whole)
    return Files(connectors, findings, whole)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.name != lint.SILENCES)


def _broken(place: str, reason: str) -> Finding:
    return Finding("file", Severity.ERROR, place, "", "", None, reason, "")


def _mistakes(file: Path, document: Document) -> list[str]:
    """Tell why a document is no connector, although its shape is right."""
    found = []
    if not isinstance(document.name, str) or not document.name.strip():
        found.append(f"{file}: name = {document.name!r}: must be a text")
    for key, value in document.config.items():
        if not isinstance(value, str):
            place = f"{file}:{document.lines[key]}" if key in document.lines else str(file)
            found.append(f"{place}: {key} = {value!r}: must be a string in quotes, as Connect keeps it")
    return found


def _connector(file: Path, document: Document) -> Connector | None:
    if not isinstance(document.name, str) or not document.name.strip():
        return None
    config = {key: value for key, value in document.config.items() if isinstance(value, str)}
    places = {key: f"{file}:{line}" for key, line in document.lines.items()}
    return Connector(document.name, config, str(file), document.state, places)
