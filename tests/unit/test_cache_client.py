"""The Redis client of the settings."""

import ssl

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis as RedisClient
from redis.asyncio import RedisCluster
from redis.asyncio.connection import SSLConnection

from downriver.exits import BadInput
from downriver.settings import Redis, Tls
from processors.sinks.cache.client import connect, server_name


def arguments(redis: Redis) -> dict[str, object]:
    client = connect(redis)
    assert isinstance(client, RedisClient)
    return dict(client.connection_pool.connection_kwargs)


def test_address_user_and_password_come_from_the_url() -> None:
    made = arguments(Redis(url="redis://ann:s%40crt@cache:7000/3", timeout_s=2))
    assert (made["host"], made["port"], made["db"]) == ("cache", 7000, 3)
    assert (made["username"], made["password"], made["socket_timeout"]) == ("ann", "s@crt", 2)


def test_settings_of_their_own_win_over_the_url() -> None:
    made = arguments(Redis(url="redis://ann:old@cache", username="bob", password=SecretStr("new")))
    assert (made["username"], made["password"]) == ("bob", "new")


@pytest.mark.parametrize("redis", [Redis(url="rediss://cache"), Redis(url="redis://cache", tls=Tls(enabled=True))])
def test_tls_verifies_certificate_and_name(redis: Redis) -> None:
    client = connect(redis)
    assert isinstance(client, RedisClient)
    assert client.connection_pool.connection_class is SSLConnection
    connection = SSLConnection(**client.connection_pool.connection_kwargs)
    assert connection.ssl_context.check_hostname
    assert connection.ssl_context.cert_reqs == ssl.CERT_REQUIRED


def test_a_cluster_is_a_setting() -> None:
    assert isinstance(connect(Redis(url="redis://cache:7000", cluster=True)), RedisCluster)


@pytest.mark.parametrize(
    ("redis", "reason"),
    [
        (Redis(url="http://cache"), "redis.url can't be used"),
        (Redis(url="redis://cache/2", cluster=True), "only database 0"),
        (Redis(url="unix:///run/redis.sock"), "socket file"),
        (Redis(url="rediss://cache?ssl_cert_reqs=none"), "ssl_cert_reqs"),
    ],
)
def test_a_url_that_can_not_be_used_is_named(redis: Redis, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        connect(redis)


def test_a_message_holds_no_password() -> None:
    assert server_name(Redis(url="redis://ann:secret@cache:7000/3")) == "Redis at cache:7000"
