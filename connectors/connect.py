"""Kafka Connect's REST API: what the commands need of it, with every way in which it may not answer.

Requests are repeated within a limit while Connect starts, rebalances or is away; all that are repeated are idempotent.
What waiting can't mend (a certificate, a password, an address that is none) is told at once, with the setting to change.
It knows nothing of Debezium or of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
import orjson
import stamina

from downriver import tls
from downriver.exits import BadInput, DownriverError, Exit, ServerAway
from downriver.settings import Connect

SNIPPET = 500
"""Characters of an unexpected answer that an error repeats."""
PAUSE_MAX_S = 2.0

T = TypeVar("T")


class Refused(DownriverError):
    """Connect understood the request and said no; the message repeats what it said."""


class NotAdmitted(Refused):
    """Connect, or what stands before it, does not know the credentials, or knows them and does not allow this."""

    exit_code = Exit.BAD_INPUT


class Untrusted(DownriverError):
    """TLS can't be agreed on: a certificate is expired, of an unknown authority, of another host, missing."""


class AlreadyThere(Refused):
    """A connector of that name exists."""


class NotNow(DownriverError):
    """Connect can't do it at this moment: it starts, rebalances, is away, or gave half an answer. Repeated inside."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a connector; `trace` is its stack trace where it FAILED, else empty."""

    id: int
    state: str
    trace: str
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What Connect says of a connector: its state, the trace where that is FAILED, its tasks."""

    state: str
    trace: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Live:
    """A connector as Connect has it: its settings (without the name) and its state; None while it has none."""

    name: str
    config: Mapping[str, str]
    status: Status | None


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
            verify=tls.context(settings.tls, "connect") if settings.tls.enabled else True,
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
        found = self._ask(
            "GET", "/connector-plugins?connectorsOnly=false", lambda plugins: [p["class"] for p in plugins]
        )
        return frozenset(found or ())

    def mistakes(self, config: Mapping[str, str]) -> list[str]:
        """Let the connector's own code check its settings, connection to the source included; return `key: error` lines."""
        path = f"/connector-plugins/{quote(config['connector.class'])}/config/validate"
        values = self._ask("PUT", path, lambda answer: [entry["value"] for entry in answer["configs"]], config) or []
        return [f"{value['name']}: {error}" for value in values for error in value["errors"]]

    def connectors(self) -> dict[str, Live]:
        """Return every connector of the cluster, by name; one request."""

        def read(answer: dict[str, Any]) -> dict[str, Live]:
            return {
                name: Live(
                    name,
                    _without_name(entry["info"]["config"]),
                    _status(entry["status"]) if entry.get("status") else None,
                )
                for name, entry in sorted(answer.items())
            }

        return self._ask("GET", "/connectors?expand=info&expand=status", read) or {}

    def config(self, name: str) -> dict[str, str] | None:
        """Return the connector's settings without its name, None if there is no such connector."""
        return self._ask("GET", f"/connectors/{quote(name)}/config", _without_name)

    def put(self, name: str, config: Mapping[str, str]) -> None:
        """Create the connector, or give it these settings."""
        self._ask("PUT", f"/connectors/{quote(name)}/config", dict, config)

    def status(self, name: str) -> Status | None:
        """Return the connector's state, None if there is none (yet)."""
        return self._ask("GET", f"/connectors/{quote(name)}/status", _status)

    def topics(self, name: str) -> list[str]:
        """Return the topics that the connector has written to since it was made (or since they were reset)."""
        found = self._ask("GET", f"/connectors/{quote(name)}/topics", lambda answer: list(answer[name]["topics"]))
        return sorted(found or ())

    def offsets(self, name: str) -> list[dict[str, Any]]:
        """Return the stored source offsets, one for each partition that has any."""
        return [entry["offset"] for entry in self.positions(name) if entry.get("offset")]

    def positions(self, name: str) -> list[dict[str, Any]]:
        """Return the stored offsets with their partitions, as `set_offsets` takes them."""
        return self._ask("GET", f"/connectors/{quote(name)}/offsets", lambda answer: list(answer["offsets"])) or []

    def set_offsets(self, name: str, positions: Sequence[Mapping[str, Any]]) -> None:
        """Replace stored offsets; one that is None removes its partition's. Only while the connector is stopped."""
        self._ask("PATCH", f"/connectors/{quote(name)}/offsets", dict, {"offsets": list(positions)})

    def reset_offsets(self, name: str) -> None:
        """Delete every stored offset. Only while the connector is stopped."""
        self._ask("DELETE", f"/connectors/{quote(name)}/offsets", dict)

    def pause(self, name: str) -> None:
        """Let the tasks stay and do nothing."""
        self._ask("PUT", f"/connectors/{quote(name)}/pause", _nothing)

    def stop(self, name: str) -> None:
        """End the connector's tasks and keep its settings and offsets."""
        self._ask("PUT", f"/connectors/{quote(name)}/stop", _nothing)

    def resume(self, name: str) -> None:
        """Start a connector that is stopped or paused."""
        self._ask("PUT", f"/connectors/{quote(name)}/resume", _nothing)

    def restart(self, name: str, *, only_failed: bool = True) -> None:
        """Restart the connector and its tasks; by default those of them that failed."""
        flags = f"includeTasks=true&onlyFailed={str(only_failed).lower()}"
        self._ask("POST", f"/connectors/{quote(name)}/restart?{flags}", lambda _: None)

    def restart_task(self, name: str, task: int) -> None:
        """Restart one task, whatever its state."""
        self._ask("POST", f"/connectors/{quote(name)}/tasks/{task}/restart", _nothing)

    def delete(self, name: str) -> None:
        """Delete the connector; its offsets stay. No error if there is none."""
        self._ask("DELETE", f"/connectors/{quote(name)}", _nothing)

    def create(self, name: str, config: Mapping[str, str], state: str) -> None:
        """Create the connector in a state: RUNNING, PAUSED or STOPPED. Refused if another has its name."""
        try:
            self._ask("POST", "/connectors", dict, {"name": name, "config": dict(config), "initial_state": state})
        except AlreadyThere:
            if self.config(name) != {key: value for key, value in config.items() if key != "name"}:
                raise  # else an attempt of our own, whose answer was lost

    def _ask(self, method: str, path: str, read: Callable[[Any], T], body: Mapping[str, Any] | None = None) -> T | None:
        """Ask, again and again while Connect can't answer. Returns None where it says 404: no such connector.

        Args:
            read: takes from the answer what is wanted; what it can't take is half an answer.
        """
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
                    return self._once(method, path, read, body)
        except NotNow as error:
            msg = f"{error} (gave up after {self._patience_s:g} s)"
            raise ServerAway(msg) from None
        raise AssertionError("stamina returns or raises")

    def _once(self, method: str, path: str, read: Callable[[Any], T], body: Mapping[str, Any] | None) -> T | None:
        where = f"Kafka Connect at {self._url}"
        asked = f"{method} {path.partition('?')[0]}"
        try:
            response = self._client.request(method, self._url + path, json=body)
        except httpx2.TimeoutException:
            msg = f"{where} did not answer {asked} within {self._timeout_s:g} s"
            raise NotNow(msg) from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            msg = f"connect.url = {self._url!r}: {error}; write http://host:port or https://host:port"
            raise BadInput(msg) from None
        except httpx2.HTTPError as error:
            if explained := tls.explained(error, "connect"):
                msg = f"{where} can't be trusted: {explained}"
                raise Untrusted(msg) from None
            msg = f"{where} can't be reached for {asked}: {str(error) or type(error).__name__}"
            raise NotNow(msg) from None
        try:
            answer = orjson.loads(response.content) if response.content else None
        except orjson.JSONDecodeError:
            answer = response.text
        said = str(answer.get("message", answer) if isinstance(answer, dict) else answer)[:SNIPPET]
        code = response.status_code
        if code == 409 and "already exists" in said:
            msg = f"{where} refused {asked}: {said}"
            raise AlreadyThere(msg)
        if code in {408, 409, 425, 429} or code >= 500:
            msg = f"{where} answered {asked} with {code}: {said}"
            raise NotNow(msg)
        if code == 404 and isinstance(answer, dict) and answer.get("error_code") == 404:
            return None
        if code in {401, 403}:
            way_out = "DOWNRIVER_CONNECT__USERNAME and DOWNRIVER_CONNECT__PASSWORD name who asks"
            msg = f"{where} refused {asked} with {code}: {said}; {way_out}"
            raise NotAdmitted(msg)
        if code >= 300:
            msg = f"{where} refused {asked} with {code}: {said}"
            raise Refused(msg)
        try:
            return read(answer)
        except (KeyError, TypeError, ValueError, AttributeError):
            msg = f"{where} gave half an answer to {asked}: {said!r}"
            raise NotNow(msg) from None


def _nothing(answer: Any) -> None:
    """Take an answer that must be empty."""
    if answer is not None:
        raise ValueError


def _without_name(config: Any) -> dict[str, str]:
    return {str(key): value for key, value in config.items() if key != "name"}


def _status(answer: Any) -> Status:
    tasks = tuple(
        Task(task["id"], task["state"], task.get("trace", ""), task.get("worker_id", "")) for task in answer["tasks"]
    )
    return Status(answer["connector"]["state"], answer["connector"].get("trace", ""), tasks)
