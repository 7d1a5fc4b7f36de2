"""What the Connect client says where waiting can't help: certificates, passwords, addresses. Against a real TLS server."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from connectors.connect import ConnectClient, NotAdmitted, Untrusted
from connectors.guard import Guard
from downriver.exits import BadInput, Exit
from downriver.settings import Connect, Registry, Tls, load
from schemas.registry import RegistryAway, SchemaRegistry
from tests.support.commands import Commands
from tests.support.tls import DAY, NOW, certificate, served


def client(port: int, ca: Path | None, scheme: str = "https") -> ConnectClient:
    tls = Tls(enabled=scheme == "https", ca_file=ca)
    # patient for a minute: what is told at once was not waited for
    return ConnectClient(Connect(url=f"{scheme}://127.0.0.1:{port}", tls=tls, timeout_s=5), 60)


def test_a_certificate_that_is_trusted_is(tmp_path: Path) -> None:
    made = certificate(tmp_path, "good", NOW + DAY)
    with served(made) as port, client(port, made[0]) as connect:
        assert connect.plugins() == frozenset()


@pytest.mark.parametrize(
    ("until", "host", "trusted", "told"),
    [
        (NOW - DAY, "127.0.0.1", True, "expired; renew the server's certificate"),
        (NOW + DAY, "127.0.0.1", False, "DOWNRIVER_CONNECT__TLS__CA_FILE"),
        (NOW + DAY, "10.9.8.7", True, "write the name that its certificate carries into DOWNRIVER_CONNECT__URL"),
    ],
    ids=["expired", "unknown authority", "another host"],
)
def test_a_certificate_that_is_not_is_told_at_once(
    tmp_path: Path,
    until: datetime.datetime,
    host: str,
    trusted: bool,
    told: str,
) -> None:
    made = certificate(tmp_path, "server", until, host)
    other = certificate(tmp_path, "other", NOW + DAY)
    with served(made) as port, client(port, (made if trusted else other)[0]) as connect:
        with pytest.raises(Untrusted) as caught:
            connect.plugins()
        assert f"Kafka Connect at https://127.0.0.1:{port} can't be trusted" in str(caught.value)
        assert told in str(caught.value)


def test_tls_on_a_plain_port_is_told() -> None:
    with served(None) as port, client(port, None) as connect, pytest.raises(Untrusted, match="speaks TLS"):
        connect.plugins()


@pytest.mark.parametrize("code", [401, 403])
def test_who_is_not_admitted_hears_which_settings_say_who_asks(code: int) -> None:
    secret = "not-to-be-seen"  # noqa: S105
    with served(None, code) as port:
        settings = Connect(url=f"http://127.0.0.1:{port}", username="ada", password=SecretStr(secret))
        with ConnectClient(settings, 60) as connect, pytest.raises(NotAdmitted) as caught:
            connect.plugins()
    assert "DOWNRIVER_CONNECT__PASSWORD" in str(caught.value)
    assert secret not in str(caught.value)
    assert caught.value.exit_code is Exit.BAD_INPUT


@pytest.mark.parametrize("url", ["127.0.0.1:8083", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with ConnectClient(Connect(url=url), 60) as connect, pytest.raises(BadInput, match=r"connect\.url"):
        connect.plugins()


def test_a_certificate_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"absent\.pem"):
        client(1, tmp_path / "absent.pem")


@pytest.fixture
def expired(tmp_path: Path) -> Iterator[tuple[str, Tls]]:
    """A server whose certificate was good until yesterday, and the settings that trust its authority."""
    made = certificate(tmp_path, "server", NOW - DAY)
    with served(made) as port:
        yield f"https://127.0.0.1:{port}", Tls(enabled=True, ca_file=made[0])


def test_an_expired_certificate_is_one_message(expired: tuple[str, Tls], monkeypatch: pytest.MonkeyPatch) -> None:
    url, tls = expired
    run = Commands(monkeypatch, load().model_copy(update={"connect": Connect(url=url, tls=tls)}), [])
    ran = run("status", "any")
    way_out = "renew the server's certificate (or set this machine's clock)"
    told = f"Kafka Connect at {url} can't be trusted: certificate has expired; {way_out}"
    assert (ran.code, ran.out, ran.told) == (Exit.FAILED, "", told)


def test_a_guard_outlives_a_certificate_that_expires(expired: tuple[str, Tls]) -> None:
    url, tls = expired
    watching = Guard(load().model_copy(update={"connect": Connect(url=url, tls=tls)}), ["any"], _known={})
    (event,) = watching.look()
    assert (event.kind, event.rule) == ("problem", "connect-away")
    assert "certificate has expired; renew" in event.text
    assert watching.look() == [], "told once"


def test_a_registrys_expired_certificate_is_told_and_waited_for(expired: tuple[str, Tls]) -> None:
    url, tls = expired
    with pytest.raises(RegistryAway) as caught:
        SchemaRegistry(Registry(url=url, tls=tls)).subjects()
    assert str(caught.value).startswith(
        f"the schema registry at {url} can't be trusted: certificate has expired; renew"
    )
