"""What the Connect client says where waiting can't help: certificates, passwords, addresses. Against a real TLS server."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from connectors.connect import ConnectClient, NotAdmitted, Untrusted
from downriver.exits import BadInput, Exit
from downriver.settings import Connect, Tls

DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


def certificate(folder: Path, name: str, until: datetime.datetime, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """Write a certificate signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    alternative: x509.GeneralName = (
        x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 10 * DAY)
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(True, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@contextmanager
def served(certificate: tuple[Path, Path] | None, code: int = 200) -> Iterator[int]:
    """Answer every request with `code` and an empty list; without a certificate in plain HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


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
