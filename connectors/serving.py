"""Serves a long-lived command's metrics to Prometheus, where a worker serves its own: `worker.host`, loopback by default."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server

from downriver.exits import BadInput


def serve(registry: CollectorRegistry, host: str, port: int) -> None:
    """Serve /metrics there, in a thread that ends with the process.

    Raises:
        BadInput: somebody else listens there, or the host is no address of this machine.
    """
    try:
        start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        msg = f"--metrics-port {port} on {host} (worker.host) can't be opened ({error.strerror}); 0 serves no metrics"
        raise BadInput(msg) from None
