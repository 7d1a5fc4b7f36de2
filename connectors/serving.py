"""Serves a long-lived command's metrics to Prometheus, on loopback."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server

from downriver.exits import BadInput


def serve(registry: CollectorRegistry, port: int) -> None:
    """Serve /metrics on 127.0.0.1, in a thread that ends with the process.

    Raises:
        BadInput: somebody else listens there.
    """
    try:
        start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        msg = f"--metrics-port {port} on 127.0.0.1 can't be opened ({error.strerror}); 0 serves no metrics"
        raise BadInput(msg) from None
