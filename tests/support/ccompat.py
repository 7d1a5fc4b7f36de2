"""A schema registry in memory, behind its HTTP API: subjects, versions, levels, as Apicurio 3.3 answers (tried).

It enforces nothing. `asked` holds every request that changes something, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import httpx2
import orjson

from downriver.settings import Registry
from schemas.registry import SchemaRegistry

URL = "http://registry.test/apis/ccompat/v7"


class Ccompat:
    """The registry; `client()` asks it."""

    def __init__(self) -> None:
        self.subjects: dict[str, list[Mapping[str, Any]]] = {}
        self.levels: dict[str, str] = {"": "NONE"}
        self.asked: list[tuple[str, str]] = []
        self._ids: list[Mapping[str, Any]] = []

    def client(self) -> SchemaRegistry:
        """Return a client of this registry."""
        return SchemaRegistry(Registry(url=URL), transport=httpx2.MockTransport(self._answer))

    def put(self, subject: str, *schemas: Mapping[str, Any]) -> None:
        """Register schemas, as a converter would."""
        for schema in schemas:
            self._register(subject, schema)

    def _register(self, subject: str, schema: Mapping[str, Any]) -> int:
        if schema not in self._ids:
            self._ids.append(schema)
        versions = self.subjects.setdefault(subject, [])
        if schema not in versions:
            versions.append(schema)
        return self._ids.index(schema) + 1

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        parts = [unquote(part) for part in request.url.raw_path.decode().split("/")[4:]]
        body = orjson.loads(request.content) if request.content else {}
        if request.method != "GET":
            self.asked.append((request.method, "/".join(parts)))
        match request.method, parts:
            case "GET", ["subjects"]:
                return httpx2.Response(200, json=sorted(self.subjects))
            case _, ["config", *subject]:
                return self._level("".join(subject), body.get("compatibility"))
            case "POST", ["subjects", subject, "versions"]:
                return httpx2.Response(200, json={"id": self._register(subject, orjson.loads(body["schema"]))})
            case "DELETE", ["subjects", subject]:
                gone = self.subjects.pop(subject, None)
                return _missing(40401) if gone is None else httpx2.Response(200, json=[1])
            case "GET", ["subjects", subject, "versions", *number]:
                return self._version(subject, number)
        return httpx2.Response(404, text=f"{request.method} {parts}")

    def _level(self, subject: str, wanted: str | None) -> httpx2.Response:
        if wanted is not None:
            self.levels[subject] = wanted
            return httpx2.Response(200, json={"compatibility": wanted})
        level = self.levels.get(subject)
        return httpx2.Response(200, json={"compatibilityLevel": level}) if level else _missing(40401)

    def _version(self, subject: str, number: list[str]) -> httpx2.Response:
        versions = self.subjects.get(subject)
        if versions is None:
            return _missing(40401)
        if not number:
            return httpx2.Response(200, json=list(range(1, len(versions) + 1)))
        wanted = len(versions) if number[0] == "latest" else int(number[0])
        if not 1 <= wanted <= len(versions):
            return _missing(40402)
        schema = versions[wanted - 1]
        return httpx2.Response(
            200,
            json={
                "subject": subject,
                "version": wanted,
                "id": self._ids.index(schema) + 1,
                "schema": orjson.dumps(schema).decode(),
            },
        )


def _missing(code: int) -> httpx2.Response:
    return httpx2.Response(404, json={"error_code": code, "message": "not found"})
