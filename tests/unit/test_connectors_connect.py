"""The Connect client against a scripted transport: what is repeated, what is refused, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx2
import orjson
import pytest
import stamina
from pydantic import SecretStr

from connectors.connect import ConnectClient, Refused, Status, Task
from downriver.exits import Exit, ServerAway
from downriver.settings import Connect

URL = "http://connect.test:8083"
OK = httpx2.Response(200, json={"connector": {"state": "RUNNING"}, "tasks": []})
Answer = httpx2.Response | Exception


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=5):
        yield


def client(
    *answers: Answer, patience_s: float = 60, tell: Callable[[str], None] = lambda _: None, **settings: object
) -> tuple[ConnectClient, list[httpx2.Request]]:
    asked: list[httpx2.Request] = []
    script = iter(answers)

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        answer = next(script)
        if isinstance(answer, Exception):
            raise answer
        return answer

    group = Connect.model_validate({"url": URL, **settings})
    return ConnectClient(group, patience_s, tell, transport=httpx2.MockTransport(handle)), asked


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            httpx2.Response(409, json={"error_code": 409, "message": "rebalance in process"}),
            "409: rebalance in process",
        ),
        (httpx2.Response(500, json={"error_code": 500, "message": "Request timed out"}), "500: Request timed out"),
        (httpx2.Response(503, text="starting"), "503: starting"),
        (httpx2.Response(429), "429: None"),
        (httpx2.Response(200, text='{"connector": {"sta'), "gave half an answer to GET /connectors/a/status"),
        (httpx2.Response(200), "gave half an answer to GET /connectors/a/status: 'None'"),
        (httpx2.ConnectError("refused"), "can't be reached for GET /connectors/a/status: refused"),
        (httpx2.ReadTimeout(""), "did not answer GET /connectors/a/status within 30 s"),
        (httpx2.RemoteProtocolError(""), "can't be reached for GET /connectors/a/status: RemoteProtocolError"),
    ],
)
def test_what_may_pass_is_asked_again_and_told_once(answer: Answer, told: str) -> None:
    heard: list[str] = []
    connect, asked = client(answer, answer, answer, OK, tell=heard.append)
    assert connect.status("a") == Status("RUNNING", "", ())
    assert len(asked) == 4
    (sentence,) = heard
    assert sentence.startswith(f"waiting: Kafka Connect at {URL} ")
    assert told in sentence


def test_patience_ends_with_what_was_said_last() -> None:
    connect, asked = client(httpx2.Response(503, text="starting"), patience_s=0)
    with pytest.raises(
        ServerAway, match=r"answered GET /connectors/a/config with 503: starting \(gave up after 0 s\)"
    ) as e:
        connect.config("a")
    assert len(asked) == 1
    assert e.value.exit_code == Exit.SERVER_AWAY


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(400, json={"error_code": 400, "message": "no such setting"}),
        httpx2.Response(401, text="no such setting"),
        httpx2.Response(404, text="no such setting"),
        httpx2.Response(302, text="no such setting"),
    ],
)
def test_a_refusal_is_not_repeated(answer: httpx2.Response) -> None:
    connect, asked = client(answer)
    with pytest.raises(Refused, match=rf"refused PUT /connectors/a/config with {answer.status_code}: no such setting"):
        connect.put("a", {"tasks.max": "1"})
    assert len(asked) == 1


def test_an_absent_connector_is_none() -> None:
    gone = httpx2.Response(404, json={"error_code": 404, "message": "Connector a not found"})
    connect, _ = client(gone, gone, gone, gone)
    assert (connect.config("a"), connect.status("a"), connect.offsets("a")) == (None, None, [])
    connect.delete("a")


def test_requests_say_what_connect_expects() -> None:
    config = {"connector.class": "org.Some", "tasks.max": "1"}
    created = httpx2.Response(201, json={"name": "a", "config": config, "tasks": []})
    connect, asked = client(
        created,
        httpx2.Response(202),
        httpx2.Response(204),
        httpx2.Response(200, json={"name": "a", **config}),
        httpx2.Response(200, json=[{"class": "org.Some", "type": "source"}]),
        username="ada",
        password=SecretStr("secret"),
    )
    connect.put("a b", config)
    connect.resume("a")
    connect.stop("a")
    assert connect.config("a") == config
    assert connect.plugins() == {"org.Some"}
    assert [(request.method, request.url.raw_path.decode()) for request in asked] == [
        ("PUT", "/connectors/a%20b/config"),
        ("PUT", "/connectors/a/resume"),
        ("PUT", "/connectors/a/stop"),
        ("GET", "/connectors/a/config"),
        ("GET", "/connector-plugins?connectorsOnly=false"),
    ]
    assert orjson.loads(asked[0].content) == config
    assert {request.headers["authorization"] for request in asked} == {"Basic YWRhOnNlY3JldA=="}


def test_status_and_offsets_are_read() -> None:
    connect, _ = client(
        httpx2.Response(
            200,
            json={
                "name": "a",
                "connector": {"state": "RUNNING", "worker_id": "w"},
                "tasks": [{"id": 0, "state": "FAILED", "worker_id": "w", "trace": "boom"}],
                "type": "source",
            },
        ),
        httpx2.Response(
            200,
            json={"offsets": [{"partition": {"server": "s"}, "offset": {"lsn": 7}}, {"partition": {}, "offset": None}]},
        ),
    )
    assert connect.status("a") == Status("RUNNING", "", (Task(0, "FAILED", "boom", "w"),))
    assert connect.offsets("a") == [{"lsn": 7}]


def test_the_connectors_own_check_is_one_line_a_mistake() -> None:
    connect, asked = client(
        httpx2.Response(
            200,
            json={
                "configs": [
                    {"value": {"name": "poll.interval.ms", "errors": ["must be a number", "and positive"]}},
                    {"value": {"name": "tasks.max", "errors": []}},
                ]
            },
        )
    )
    assert connect.mistakes({"connector.class": "org.Some"}) == [
        "poll.interval.ms: must be a number",
        "poll.interval.ms: and positive",
    ]
    assert asked[0].url.path == "/connector-plugins/org.Some/config/validate"
