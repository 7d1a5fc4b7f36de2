"""The front door's own command: `downriver settings`."""

from __future__ import annotations

import os

from pydantic import BaseModel, SecretStr

from downriver.output import Format, OutputOption, report
from downriver.settings import PREFIX, load


def settings(output: OutputOption = Format.TABLE) -> None:
    """Each row names the environment variable that sets it; secrets are masked."""
    rows: list[dict[str, object]] = []

    def walk(group: BaseModel, path: tuple[str, ...]) -> None:
        for name, field in type(group).model_fields.items():
            value = getattr(group, name)
            if isinstance(value, BaseModel):
                walk(value, (*path, name))
                continue
            variable = PREFIX + "__".join((*path, name)).upper()
            rows.append(
                {
                    "setting": ".".join((*path, name)),
                    "value": str(value) if isinstance(value, SecretStr) else value,
                    "variable": variable,
                    "from": "environment" if variable in os.environ else "file or default",
                    "meaning": field.description or "",
                }
            )

    walk(load(), ())
    report(output, rows, ["setting", "value", "variable", "meaning"])
