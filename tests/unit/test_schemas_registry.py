"""SchemaRegistry against a scripted transport: what is cached, and which answers mean "unknown" or "away"."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import orjson
import pytest
from pydantic import SecretStr

from downriver.settings import Registry
from schemas.registry import UNKNOWN_FOR_S, RegistryAway, SchemaRegistry, UnknownSchema

ENVELOPE = {"type": "record", "name": "Envelope", "namespace": "shop_catalog.public.products", "fields": []}
URL = "http://registry.test/apis/ccompat/v7"
Handler = Callable[[httpx2.Request], httpx2.Response]


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def made(
    handler: Handler, clock: Clock | None = None, **settings: object
) -> tuple[SchemaRegistry, list[httpx2.Request]]:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return handler(request)

    group = Registry.model_validate({"url": URL, **settings})
    return SchemaRegistry(group, transport=httpx2.MockTransport(handle), clock=clock or Clock()), seen


def answer(schema: object, **more: object) -> httpx2.Response:
    return httpx2.Response(200, json={"schema": orjson.dumps(schema).decode(), **more})


def unknown_answer() -> httpx2.Response:
    return httpx2.Response(404, json={"error_code": 40403, "message": "Schema not found"})


def test_a_schema_is_asked_once() -> None:
    registry, seen = made(lambda _: answer(ENVELOPE))
    assert registry.schema(7) == ENVELOPE
    assert registry.schema(7) is registry.schema(7)
    assert [str(request.url) for request in seen] == [f"{URL}/schemas/ids/7"]
    registry.close()


def test_a_bare_primitive_is_a_schema() -> None:
    registry, _ = made(lambda _: answer("string"))
    assert registry.schema(1) == {"type": "string"}


def test_credentials_are_sent() -> None:
    registry, seen = made(lambda _: answer(ENVELOPE), username="reader", password=SecretStr("of:water"))
    registry.schema(1)
    assert seen[0].headers["authorization"] == httpx2.BasicAuth("reader", "of:water")._auth_header


def test_an_unknown_id_is_soon_asked_again() -> None:
    clock = Clock()
    answers = iter([unknown_answer(), answer(ENVELOPE)])
    registry, seen = made(lambda _: next(answers), clock)
    for _ in range(3):
        with pytest.raises(UnknownSchema, match=r"schema id 9 is unknown to the registry at http://registry\.test"):
            registry.schema(9)
    assert len(seen) == 1
    clock.now_s += UNKNOWN_FOR_S
    assert registry.schema(9) == ENVELOPE


def test_forgotten_unknown_ids_take_no_memory() -> None:
    clock = Clock()
    registry, _ = made(lambda _: unknown_answer(), clock)
    for schema_id in range(5):
        with pytest.raises(UnknownSchema):
            registry.schema(schema_id)
        clock.now_s += UNKNOWN_FOR_S / 2
    assert set(registry._unknown) == {3, 4}


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(500, text="boom"),
        httpx2.Response(503),
        httpx2.Response(429, json={"error_code": 429, "message": "slow down"}),
        httpx2.Response(401, text="who are you"),
        httpx2.Response(404, text="<html>no such page</html>"),
        httpx2.Response(404, json={"error_code": 404, "message": "HTTP 404 Not Found"}),
        httpx2.Response(200, text='{"schema": "{'),
        httpx2.Response(200, text=""),
        httpx2.Response(200, json=["schema"]),
        httpx2.Response(200, json={"schemaType": "AVRO"}),
    ],
)
def test_anything_but_an_answer_means_away_and_is_not_kept(response: httpx2.Response) -> None:
    answers = iter([response, answer(ENVELOPE)])
    registry, _ = made(lambda _: next(answers))
    with pytest.raises(RegistryAway, match=rf"{URL}/schemas/ids/3 answered {response.status_code}"):
        registry.schema(3)
    assert registry.schema(3) == ENVELOPE


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (httpx2.ReadTimeout("slow"), "did not answer within 5 s"),
        (httpx2.ConnectError("refused"), "can't be reached: refused"),
        (httpx2.RemoteProtocolError(""), "can't be reached: RemoteProtocolError"),
    ],
)
def test_a_silent_registry_is_away(error: Exception, told: str) -> None:
    def fail(_: httpx2.Request) -> httpx2.Response:
        raise error

    registry, _ = made(fail)
    with pytest.raises(RegistryAway, match=told):
        registry.schema(3)


@pytest.mark.parametrize(
    ("response", "told"),
    [
        (answer({"type": "object"}, schemaType="JSON"), "is a JSON schema, not Avro"),
        (answer(ENVELOPE, references=[{"name": "a", "subject": "a", "version": 1}]), "refers to other schemas"),
        (answer(["null", "string"]), "is not an Avro schema"),
        (httpx2.Response(200, json={"schema": "{broken"}), "is not an Avro schema"),
    ],
)
def test_what_can_not_be_read_is_unknown(response: httpx2.Response, told: str) -> None:
    registry, _ = made(lambda _: response)
    with pytest.raises(UnknownSchema, match=told):
        registry.schema(3)
