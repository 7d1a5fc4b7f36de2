"""The schema registry: what a record's four bytes stand for, and what stands under a subject.

Blocking and thread-safe; callers on an event loop use a thread. It never retries: who asks decides how long to wait.
It knows nothing of topics, tables or Debezium.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import orjson

from downriver import tls
from downriver.exits import DownriverError
from downriver.settings import Registry

NO_SUCH_SCHEMA = 40403
NO_SUCH_SUBJECT = 40401
NO_SUCH_VERSION = 40402
NO_LEVEL = 40408
"""The Confluent API's codes for what is not there; any other 404 comes from something that is not a registry."""

UNKNOWN_FOR_S = 10.0
"""How long an unknown id is remembered: a flood of poison records asks once, a schema registered late is soon found."""

SNIPPET = 200
"""Characters of an unexpected answer that an error repeats."""


class UnknownSchema(DownriverError):
    """The registry answered, and there is no Avro schema under this id: waiting does not help."""


class RegistryAway(DownriverError):
    """The registry did not answer, or answered that it can't now, or not like a registry: ask again later."""


class Refused(DownriverError):
    """The registry understood the request and said no: an incompatible or unreadable schema, a subject it won't have."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a subject. The same schema registered again keeps its version: the newest need not be in use."""

    subject: str
    number: int
    id: int
    schema: Mapping[str, Any]


class SchemaRegistry:
    """Schemas by id, over the registry's Confluent-compatible API. An id never changes its meaning: kept for good."""

    def __init__(
        self,
        settings: Registry,
        *,
        transport: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the client; nothing is asked yet. `transport` (the network) and `clock` (seconds) are for tests."""
        self._url = settings.url.rstrip("/")
        self._timeout_s = settings.timeout_s
        password = settings.password.get_secret_value() if settings.password else ""
        self._client = httpx2.Client(
            timeout=settings.timeout_s,
            verify=tls.context(settings.tls, "registry") if settings.tls.enabled else True,
            auth=(settings.username, password) if settings.username else None,
            headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"},
            transport=transport,
        )
        self._clock = clock
        self._schemas: dict[int, Mapping[str, Any]] = {}
        self._unknown: dict[int, tuple[float, str]] = {}

    def schema(self, schema_id: int) -> Mapping[str, Any]:
        """Return the Avro schema of that id, as parsed JSON.

        Raises:
            UnknownSchema: the registry has no Avro schema of that id.
            RegistryAway: time-out, connection error, 5xx, 429, refused credentials, or half an answer.
        """
        if (known := self._schemas.get(schema_id)) is not None:
            return known
        since, reason = self._unknown.get(schema_id, (float("-inf"), ""))
        if self._clock() - since < UNKNOWN_FOR_S:
            raise UnknownSchema(reason)
        try:
            schema = self._fetch(schema_id)
        except UnknownSchema as error:
            now = self._clock()
            self._unknown = {
                other: (seen, why) for other, (seen, why) in self._unknown.copy().items() if now - seen < UNKNOWN_FOR_S
            } | {schema_id: (now, str(error))}
            raise
        return self._schemas.setdefault(schema_id, schema)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def has_subject(self, subject: str) -> bool:
        """Return whether the registry knows the subject.

        Raises:
            RegistryAway: as `schema`.
        """
        return bool(self.versions(subject))

    def subjects(self) -> list[str]:
        """Return every subject's name, sorted. Raises RegistryAway."""
        return sorted(self._listed("subjects", str))

    def versions(self, subject: str) -> list[int]:
        """Return the numbers of the subject's versions, oldest first; empty if there is no such subject.

        Raises:
            RegistryAway: as `schema`.
        """
        return sorted(self._listed(f"subjects/{_name(subject)}/versions", int))

    def version(self, subject: str, number: int | None = None) -> Version | None:
        """Return a version of the subject (None: the newest), or None if there is no such subject or version.

        Raises:
            RegistryAway: as `schema`.
            UnknownSchema: what stands there is not Avro, or refers to other schemas.
        """
        path = f"subjects/{_name(subject)}/versions/{'latest' if number is None else number}"
        answer = self._ask("GET", path, missing=(NO_SUCH_SUBJECT, NO_SUCH_VERSION))
        if answer is None:
            return None
        if not isinstance(answer.get("schema"), str) or not isinstance(answer.get("id"), int):
            msg = f"the schema registry at {self._url}/{path} gave half an answer: {str(answer)[:SNIPPET]!r}"
            raise RegistryAway(msg)
        return Version(subject, answer["version"], answer["id"], _avro(answer["id"], answer, answer["schema"]))

    def level(self, subject: str | None = None) -> str | None:
        """Return the compatibility level set for the subject, or (None) for all without one; None: none is set.

        Raises:
            RegistryAway: as `schema`.
        """
        path = "config" if subject is None else f"config/{_name(subject)}"
        answer = self._ask("GET", path, missing=(NO_SUCH_SUBJECT, NO_LEVEL))
        return None if answer is None else str(answer["compatibilityLevel"])

    def set_level(self, level: str, subject: str | None = None) -> None:
        """Set the compatibility level of the subject, or of all that have none. Raises RegistryAway, Refused."""
        self._ask("PUT", "config" if subject is None else f"config/{_name(subject)}", {"compatibility": level})

    def register(self, subject: str, schema: Mapping[str, Any]) -> int:
        """Register the schema as the subject's newest version and return its id; one that it has already keeps its id.

        Raises:
            RegistryAway: as `schema`.
            Refused: it is not compatible with the subject's versions, or no Avro.
        """
        body = {"schema": orjson.dumps(schema).decode(), "schemaType": "AVRO"}
        return int((self._ask("POST", f"subjects/{_name(subject)}/versions", body) or {})["id"])

    def forget(self, subject: str) -> None:
        """Delete the subject with all its versions; no error if there is none. Raises RegistryAway, Refused."""
        self._ask("DELETE", f"subjects/{_name(subject)}", missing=(NO_SUCH_SUBJECT,))

    def _listed(self, path: str, kind: type) -> list[Any]:
        """Return what should be a list of `kind`; empty for a subject that is not there."""
        url = f"{self._url}/{path}"
        response = self._send("GET", url)
        if response.status_code == 404 and _object(response.content).get("error_code") == NO_SUCH_SUBJECT:
            return []
        listed = _parsed(response.content)
        if response.status_code != 200 or not isinstance(listed, list) or not all(isinstance(x, kind) for x in listed):
            raise _half_an_answer(url, response)
        return listed

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, missing: tuple[int, ...] = ()
    ) -> dict[str, Any] | None:
        """Ask, and return the answer's object; None where the registry says that it has no such thing."""
        url = f"{self._url}/{path}"
        response = self._send(method, url, body)
        answer = _object(response.content)
        code = answer.get("error_code")
        if response.status_code == 404 and code in missing:
            return None
        if response.status_code in {400, 409, 422} and code is not None:
            msg = f"the schema registry at {url} refuses: {str(answer.get('message'))[:SNIPPET]}"
            raise Refused(msg)
        if response.status_code != 200 or (not answer and method != "DELETE"):
            raise _half_an_answer(url, response)
        return answer

    def _fetch(self, schema_id: int) -> Mapping[str, Any]:
        url = f"{self._url}/schemas/ids/{schema_id}"
        response = self._send("GET", url)
        answer = _object(response.content)
        if response.status_code == 404 and answer.get("error_code") == NO_SUCH_SCHEMA:
            msg = f"schema id {schema_id} is unknown to the registry at {self._url}"
            raise UnknownSchema(msg)
        text = answer.get("schema")
        if response.status_code != 200 or not isinstance(text, str):
            raise _half_an_answer(url, response)
        return _avro(schema_id, answer, text)

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> httpx2.Response:
        try:
            return self._client.request(method, url, json=body)
        except httpx2.TimeoutException:
            msg = f"the schema registry at {url} did not answer within {self._timeout_s:g} s"
            raise RegistryAway(msg) from None
        except httpx2.HTTPError as error:
            if why := tls.explained(error, "registry"):
                msg = f"the schema registry at {self._url} can't be trusted: {why}"
                raise RegistryAway(msg) from None
            msg = f"the schema registry at {url} can't be reached: {str(error) or type(error).__name__}"
            raise RegistryAway(msg) from None


def _half_an_answer(url: str, response: httpx2.Response) -> RegistryAway:
    msg = f"the schema registry at {url} answered {response.status_code}: {response.text[:SNIPPET]!r}"
    return RegistryAway(msg)


def _name(subject: str) -> str:
    return quote(subject, safe="")


def _object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; anything else is an empty one, which no caller takes for an answer."""
    parsed = _parsed(content)
    return parsed if isinstance(parsed, dict) else {}


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _avro(schema_id: int, answer: Mapping[str, Any], text: str) -> Mapping[str, Any]:
    """Return the schema that the registry's answer carries.

    Debezium's schemas are self-contained (tried with Apicurio's converter 2.6.13), so references are not followed.
    """
    if (kind := answer.get("schemaType") or "AVRO") != "AVRO":
        msg = f"schema id {schema_id} is a {kind} schema, not Avro"
        raise UnknownSchema(msg)
    if answer.get("references"):
        msg = f"schema id {schema_id} refers to other schemas; only self-contained ones can be read"
        raise UnknownSchema(msg)
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError:
        schema = None
    if isinstance(schema, str):  # Avro writes a bare primitive as a JSON string
        schema = {"type": schema}
    if not isinstance(schema, dict):
        msg = f"schema id {schema_id} is not an Avro schema: {text[:SNIPPET]!r}"
        raise UnknownSchema(msg)
    return schema
