"""ClickHouse for one test: the local front as a process of its own, and a registry that it can ask. Knows no sink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from schemas.registry import UnknownSchema
from tests.support.avro import Registry

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Front:
    """A running front. Killing `process` is the test's right."""

    port: int
    path: Path
    process: subprocess.Popen[str]


def front_command(path: Path, *, host: str = "127.0.0.1", port: int = 0) -> list[str]:
    """Return the command that serves `path`."""
    return [sys.executable, "-m", "deploy.local.clickhouse", "--host", host, "--port", str(port), "--path", str(path)]


@contextmanager
def running_front(path: Path, *, port: int = 0, **environment: str) -> Iterator[Front]:
    """Serve `path` until the block ends; the port is a free one unless given."""
    process = subprocess.Popen(
        front_command(path, port=port),
        cwd=CHECKOUT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, line + process.stdout.read()
        yield Front(int(line.partition("http://127.0.0.1:")[2].partition(",")[0]), path, process)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def served(registry: Registry) -> Iterator[str]:
    """Serve the registry's schemas as the Confluent API does; gives its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer: Mapping[str, Any] = {"schema": json.dumps(registry.schema(int(self.path.rpartition("/")[2])))}
                status = 200
            except UnknownSchema as error:
                answer, status = {"error_code": 40403, "message": str(error)}, 404
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
