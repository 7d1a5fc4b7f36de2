"""The Redis client of the settings: one server or a cluster, TLS, user and password. Knows nothing of keys."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis as RedisClient
from redis.asyncio import RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from downriver.exits import BadInput
from downriver.settings import Redis

TROUBLE = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What a client raises when the server is away, full, loading, read-only or refuses us."""

_FROM_URL = {"host", "port", "db", "username", "password", "connection_class"}


def connect(redis: Redis, **options: Any) -> RedisClient | RedisCluster:
    """Build the client; it connects when it is first used, and speaks bytes.

    A command is tried twice, because a pooled connection may be dead: waiting is the caller's business.

    Args:
        options: for the client's constructor, such as `redis_connect_func`.

    Raises:
        BadInput: the URL can't be used.
    """
    arguments = _address(redis) | options
    arguments |= {
        "socket_timeout": redis.timeout_s,
        "socket_connect_timeout": redis.timeout_s,
        "client_name": "downriver",
        "retry": Retry(NoBackoff(), 1),
    }
    if redis.tls.enabled or redis.url.startswith("rediss://"):
        files = {
            "ssl_ca_certs": redis.tls.ca_file,
            "ssl_certfile": redis.tls.cert_file,
            "ssl_keyfile": redis.tls.key_file,
        }
        arguments |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
        arguments |= {name: str(path) for name, path in files.items() if path}
    return RedisCluster(**arguments) if redis.cluster else RedisClient(**arguments)


def server_name(redis: Redis) -> str:
    """Name the server in a message, without the password that its URL may hold."""
    address = _address(redis)
    return f"Redis{' cluster' if redis.cluster else ''} at {address['host']}:{address['port']}"


def _address(redis: Redis) -> dict[str, Any]:
    try:
        parsed = dict(parse_url(redis.url))
    except ValueError as error:
        msg = f"redis.url can't be used: {error}"
        raise BadInput(msg) from None
    if "path" in parsed or (odd := sorted(parsed.keys() - _FROM_URL)):
        what = "a socket file" if "path" in parsed else f"the options {', '.join(odd)}"
        msg = f"redis.url names {what}: give redis://host:port/db, and TLS, user and password as settings"
        raise BadInput(msg)
    if redis.cluster and parsed.get("db"):
        msg = f"redis.url names database {parsed['db']}, but a Redis cluster has only database 0"
        raise BadInput(msg)
    password = redis.password.get_secret_value() if redis.password else parsed.get("password")
    return {
        "host": parsed.get("host", "127.0.0.1"),
        "port": parsed.get("port", 6379),
        "db": parsed.get("db", 0),
        "username": redis.username or parsed.get("username"),
        "password": password,
    }
