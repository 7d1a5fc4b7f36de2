"""Kafka Connect's REST API: what `apply` and `status` need of it, with every way in which it may not answer.

Requests are repeated within a limit while Connect starts, rebalances or is away; all that are repeated are idempotent.
It knows nothing of Debezium or of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2
import orjson
import stamina

from downriver.exits import DownriverError, ServerAway
from downriver.kafka import ssl_context
from downriver.settings import Connect

SNIPPET = 500
"""Characters of an unexpected answer that an error repeats."""
PAUSE_MAX_S = 2.0


class Refused(DownriverError):
    """Connect understood the request and said no; the message repeats what it said."""


class NotNow(DownriverError):
    """Connect can't do it at this moment: it starts, rebalances, is away, or gave half an answer. Repeated inside."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a connector; `trace` is its stack trace where it FAILED, else empty."""

    id: int
    state: str
    trace: str


@dataclass(frozen=True, slots=True)
class Status:
    """What Connect says of a connector: its state, the trace where that is FAILED, its tasks."""

    state: str
    trace: str
    tasks: tuple[Task, ...]


class ConnectClient:
    """A blocking client. Every method raises `Refused`, or `ServerAway` when Connect is away longer than the limit.

    Args:
        settings: URL, credentials, TLS, the time-out of one request.
        patience_s: how long one call is repeated before it gives up; 0: asked once.
        tell: hears, once for each reason, why a call is repeated.
        transport: replaces the network, for tests.
    """

    def __init__(
        self,
        settings: Connect,
        patience_s: float,
        tell: Callable[[str], None] = lambda _: None,
        *,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._url = settings.url.rstrip("/")
        self._timeout_s = settings.timeout_s
        self._give_up_at = monotonic() + patience_s
        self._patience_s = patience_s
        self._tell = tell
        password = settings.password.get_secret_value() if settings.password else ""
        self._client = httpx2.Client(
            timeout=settings.timeout_s,
            verify=ssl_context(settings.tls) if settings.tls.enabled else True,
            auth=(settings.username, password) if settings.username else None,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def plugins(self) -> frozenset[str]:
        """Return the classes of every installed plugin: connectors, converters, transforms, predicates."""
        found = self._ask("GET", "/connector-plugins?connectorsOnly=false", list)
        return frozenset(str(plugin["class"]) for plugin in found or ())

    def mistakes(self, config: Mapping[str, str]) -> list[str]:
        """Let the connector's own code check its settings, connection to the source included; return `key: error` lines."""
        path = f"/connector-plugins/{quote(config['connector.class'])}/config/validate"
        answer = self._ask("PUT", path, dict, config) or {}
        values = [entry.get("value") or {} for entry in answer.get("configs", ())]
        return [f"{value.get('name')}: {error}" for value in values for error in value.get("errors", ())]

    def config(self, name: str) -> dict[str, str] | None:
        """Return the connector's settings without its name, None if there is no such connector."""
        found = self._ask("GET", f"/connectors/{quote(name)}/config", dict)
        return None if found is None else {key: value for key, value in found.items() if key != "name"}

    def put(self, name: str, config: Mapping[str, str]) -> None:
        """Create the connector, or give it these settings."""
        self._ask("PUT", f"/connectors/{quote(name)}/config", dict, config)

    def status(self, name: str) -> Status | None:
        """Return the connector's state, None if there is none (yet)."""
        found = self._ask("GET", f"/connectors/{quote(name)}/status", dict)
        if found is None:
            return None
        tasks = tuple(Task(task["id"], task["state"], task.get("trace", "")) for task in found["tasks"])
        return Status(found["connector"]["state"], found["connector"].get("trace", ""), tasks)

    def offsets(self, name: str) -> list[dict[str, Any]]:
        """Return the stored source offsets, one for each partition that has any."""
        found = self._ask("GET", f"/connectors/{quote(name)}/offsets", dict) or {}
        return [entry["offset"] for entry in found.get("offsets", ()) if entry.get("offset")]

    def stop(self, name: str) -> None:
        """End the connector's tasks and keep its settings and offsets."""
        self._ask("PUT", f"/connectors/{quote(name)}/stop", type(None))

    def resume(self, name: str) -> None:
        """Start a connector that is stopped or paused."""
        self._ask("PUT", f"/connectors/{quote(name)}/resume", type(None))

    def delete(self, name: str) -> None:
        """Delete the connector; its offsets stay. No error if there is none."""
        self._ask("DELETE", f"/connectors/{quote(name)}", type(None))

    def _ask(self, method: str, path: str, kind: type, body: Mapping[str, str] | None = None) -> Any:
        """Ask, again and again while Connect can't answer. Returns None where it says 404: no such connector."""
        told: set[str] = set()

        def again(error: Exception) -> bool:
            if isinstance(error, NotNow) and monotonic() < self._give_up_at:
                if str(error) not in told:
                    self._tell(f"waiting: {error}")
                told.add(str(error))
                return True
            return False

        try:
            for attempt in stamina.retry_context(on=again, attempts=None, timeout=None, wait_max=PAUSE_MAX_S):
                with attempt:
                    return self._once(method, path, kind, body)
        except NotNow as error:
            msg = f"{error} (gave up after {self._patience_s:g} s)"
            raise ServerAway(msg) from None

    def _once(self, method: str, path: str, kind: type, body: Mapping[str, str] | None) -> Any:
        where = f"Kafka Connect at {self._url}"
        asked = f"{method} {path.partition('?')[0]}"
        try:
            response = self._client.request(method, self._url + path, json=body)
        except httpx2.TimeoutException:
            msg = f"{where} did not answer {asked} within {self._timeout_s:g} s"
            raise NotNow(msg) from None
        except httpx2.HTTPError as error:
            msg = f"{where} can't be reached for {asked}: {str(error) or type(error).__name__}"
            raise NotNow(msg) from None
        try:
            answer = orjson.loads(response.content) if response.content else None
        except orjson.JSONDecodeError:
            answer = response.text
        said = str(answer.get("message", answer) if isinstance(answer, dict) else answer)[:SNIPPET]
        code = response.status_code
        if code in {408, 409, 425, 429} or code >= 500:
            msg = f"{where} answered {asked} with {code}: {said}"
            raise NotNow(msg)
        if code == 404 and isinstance(answer, dict) and answer.get("error_code") == 404:
            return None
        if code >= 300:
            msg = f"{where} refused {asked} with {code}: {said}"
            raise Refused(msg)
        if not isinstance(answer, kind):
            msg = f"{where} gave half an answer to {asked}: {said!r}"
            raise NotNow(msg)
        return answer
