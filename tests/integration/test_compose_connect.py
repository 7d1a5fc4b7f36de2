"""What the image of Connect is filled with, made here: the pinned files, and a Java that starts Connect with them."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from deploy.compose import connect
from deploy.local.artifacts import pinned, sha256_of

pytestmark = pytest.mark.stack  # its downloads are those of the local stack


def test_the_image_holds_the_pinned_files_and_they_start(tmp_path: Path) -> None:
    folder = tmp_path / "connect"
    connect.assemble(folder)
    pins = pinned()
    libs = sorted(sha256_of(path) for path in (folder / "libs").iterdir())
    assert libs == sorted(file.sha256 for file in pins["connect"].files)
    converter = folder / "plugins" / "converter"
    assert not any(path.is_symlink() for path in converter.iterdir())
    jars = {sha256_of(path) for path in converter.glob("*.jar") if path.name != "manifest.jar"}
    assert jars == {file.sha256 for file in pins["converter"].files}
    with zipfile.ZipFile(converter / "manifest.jar") as manifest:
        (service,) = manifest.namelist()
    assert service == "META-INF/services/org.apache.kafka.connect.storage.Converter"
    assert (folder / "plugins" / "debezium-connector-postgres").is_dir()
    assert (folder / "secrets").is_dir()
    command = [str(folder / "jre" / "bin" / "java"), f"@{folder / 'java.options'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Usage: ConnectDistributed worker.properties" in done.stdout + done.stderr
