"""Configuration files of the Java servers hold exactly what was meant, whatever a path contains."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from deploy.local.java import properties


def read(text: str) -> str:
    """Read one value as java.util.Properties does: escapes undone, leading spaces dropped."""
    value, at, out = text.lstrip(" "), 0, ""
    while at < len(value):
        if value[at] != "\\":
            out += value[at]
            at += 1
        elif value[at + 1] == "u":
            out += chr(int(value[at + 2 : at + 6], 16))
            at += 6
        else:
            out += {"n": "\n"}.get(value[at + 1], value[at + 1])
            at += 2
    return out.encode("utf-16", "surrogatepass").decode("utf-16")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\t\f")))
def test_a_value_reads_back_as_it_was(tmp_path_factory: object, value: str) -> None:
    path = Path(str(tmp_path_factory.mktemp("java"))) / "file.properties"  # type: ignore[attr-defined]
    written = properties(path, {"name": value}).read_text(encoding="ascii")
    assert written.endswith("\n")
    assert read(written.removeprefix("name=").removesuffix("\n")) == value
