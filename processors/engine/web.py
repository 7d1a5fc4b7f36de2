"""Health and Prometheus metrics of one worker, over HTTP on loopback, in a thread of their own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from downriver.exits import BadInput

Health = Mapping[str, Any]


def application(registry: CollectorRegistry, health: Callable[[], Health]) -> Starlette:
    """Build the application: /metrics, /health (JSON; 503 unless its `ready` is true), /health/live (200 while it answers).

    The page of metrics holds those of `registry` and the process's own: memory, files, and what the sink's modules count.
    """

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry) + generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    def ready(_: Request) -> Response:
        state = health()
        return JSONResponse(dict(state), status_code=200 if state["ready"] else 503)

    def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    return Starlette(routes=[Route("/metrics", metrics), Route("/health", ready), Route("/health/live", live)])


class Web:
    """The HTTP server. It runs in a thread, so that it answers while the worker's loop is busy."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            msg = f"worker.port {port} on {host} can't be opened ({error.strerror}); 0 takes any free one"
            raise BadInput(msg) from None
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="web", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering; waits a moment for requests under way. Does nothing if it was never started."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=2)
