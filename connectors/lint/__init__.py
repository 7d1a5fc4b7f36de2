"""What is wrong with connector files, told offline: every rule's name, reason and fix, and who silenced it and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from connectors.connector import Connector, Silence
from connectors.lint import between, values
from connectors.lint.between import KnownTable
from connectors.lint.finding import Finding, Severity

__all__ = ["SILENCES", "Finding", "KnownTable", "Severity", "check", "silences_beside"]

SILENCES = "lint.yaml"
"""Beside the files: the silences of JSON, which has no comments."""
FOR_GOOD = frozenset(
    {"file", "class", "required", "secret", "name", "form", "duplicate-name", "silence", *between.APART}
)
"""Rules that no reason silences: with these a file can't be used at all, or holds what it never may."""


def check(
    connectors: Sequence[Connector], tables: Iterable[KnownTable] | None = None, *, whole: bool = False
) -> list[Finding]:
    """Return every finding, the silenced ones among them; file by file, then what several have in common.

    Args:
        tables: what the stream workers know; None: don't compare.
        whole: these are all the connectors there are.
    """
    found: list[Finding] = []
    for connector in connectors:
        found += between.names(connector)
        found += values.check(connector)
        found += between.combinations(connector)
        found += between.events(connector)
    found += between.shared(connectors)
    found += between.file_names(connectors)
    if tables is not None:
        found += between.tables(connectors, tables, whole=whole)
    silences = [(connector.name, silence) for connector in connectors for silence in connector.silences]
    used: set[tuple[str, Silence]] = set()
    judged = [_judged(finding, silences, used) for finding in dict.fromkeys(found)]
    return [*judged, *_about(silences, used)]


def silences_beside(folder: Path) -> tuple[dict[str, list[Silence]], list[str]]:
    """Return the silences of a folder's lint.yaml by connector, and what is wrong with that file."""
    path = folder / SILENCES
    if not path.is_file():
        return {}, []
    try:
        entries: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return {}, [f"{path}: can't be read: {' '.join(str(error).split())}"]
    if not isinstance(entries, list):
        return {}, [f"{path}: must be a list of connector, setting, rule, reason"]
    found: dict[str, list[Silence]] = {}
    mistakes: list[str] = []
    for number, entry in enumerate(entries, start=1):
        wanted = {"connector", "setting", "rule", "reason"}
        if (
            not isinstance(entry, dict)
            or set(entry) != wanted
            or not all(isinstance(each, str) for each in entry.values())
        ):
            mistakes.append(f"{path}: entry {number} must have exactly the texts connector, setting, rule and reason")
            continue
        silence = Silence(entry["rule"], entry["setting"], entry["reason"], f"{path}, entry {number}")
        found.setdefault(entry["connector"], []).append(silence)
    return found, mistakes


def _judged(finding: Finding, silences: Sequence[tuple[str, Silence]], used: set[tuple[str, Silence]]) -> Finding:
    """Return the finding, silenced where somebody gave a reason."""
    for name, silence in silences:
        if (name, silence.key, silence.rule) == (finding.connector, finding.key, finding.rule):
            used.add((name, silence))
            if finding.rule not in FOR_GOOD and silence.reason.strip():
                return replace(finding, silenced=silence.reason.strip())
    return finding


def _about(silences: Sequence[tuple[str, Silence]], used: set[tuple[str, Silence]]) -> Iterator[Finding]:
    """Yield what is wrong with the silences themselves."""
    for name, silence in silences:
        if not silence.reason.strip():
            reason, severity = f"silences {silence.rule or 'no rule'} without a reason", Severity.ERROR
            fix = "say why, behind the name of the rule"
        elif silence.rule in FOR_GOOD:
            reason, severity, fix = f"{silence.rule} can't be silenced", Severity.ERROR, "mend the setting"
        elif (name, silence) not in used:
            reason, severity = f"silences {silence.rule}, which finds nothing there", Severity.WARNING
            fix = "remove it"
        else:
            continue
        yield Finding("silence", severity, silence.where, name, silence.key, None, reason, fix)
