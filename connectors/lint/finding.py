"""One finding of the linter: which rule, where, what is there now, why it matters, what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is. Nothing is planned or applied from files with an ERROR."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        connector: its name; empty where a file could not even be read.
        key: the setting, empty where none is at fault.
        value: what it is now, a secret masked; None: it is not set.
        place: file and, where known, line.
        silenced: the reason somebody gave why the rule does not hold here; empty: nobody did.
    """

    rule: str
    severity: Severity
    place: str
    connector: str
    key: str
    value: str | None
    reason: str
    fix: str
    silenced: str = ""

    def __str__(self) -> str:
        what = f"{self.key} = {self.value!r}: " if self.key and self.value is not None else self.key and f"{self.key}: "
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.place}: {what}{self.reason}{fix} [{self.rule}]"
