"""Every setting of every room: name, default, meaning. Read from the environment and from one file, checked all at once.

Order, first wins: environment (`DOWNRIVER_KAFKA__BOOTSTRAP`), then the TOML file (`DOWNRIVER_CONFIG`, default
`downriver.toml`), then the defaults. Addresses of servers default to the local stack's, which follow
`stack.port_base`. This module reads; it connects to nothing.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from downriver.exits import BadInput

PREFIX = "DOWNRIVER_"
PORT_OFFSETS = {
    "postgres": 0,
    "kafka": 1,
    "kafka-controller": 2,
    "registry": 3,
    "registry-management": 4,
    "connect": 5,
    "redis": 6,
    "elasticsearch": 7,
    "elasticsearch-transport": 8,
    "clickhouse": 9,
}
"""What the local stack adds to `stack.port_base` for each port it opens."""


class Group(BaseModel):
    """A group of settings; an unknown name is an error, so that a typing mistake is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(Group):
    """TLS towards one server. Off unless `enabled`; certificates are always verified."""

    enabled: bool = False
    ca_file: Path | None = Field(None, description="PEM file of the authorities to trust; default: the system's.")
    cert_file: Path | None = Field(None, description="Client certificate, PEM.")
    key_file: Path | None = Field(None, description="Key of the client certificate, PEM.")


class Postgres(Group):
    """The source database."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535, description="0: the local stack's.")
    database: str = "shop"
    user: str = "postgres"
    password: SecretStr = SecretStr("")
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    sslrootcert: Path | None = None
    capture_user: str = Field("downriver_capture", description="The role the connectors log in with.")
    capture_password: SecretStr = SecretStr("")

    def dsn(self, **overrides: str) -> str:
        """Return a libpq connection string. `overrides` replace single parts, such as `dbname` or `user`."""
        from psycopg.conninfo import make_conninfo

        parts: dict[str, str] = {
            "host": self.host,
            "port": str(self.port),
            "dbname": self.database,
            "user": self.user,
            "sslmode": self.sslmode,
            "application_name": "downriver",
            "connect_timeout": "10",
        }
        if password := self.password.get_secret_value():
            parts["password"] = password
        if self.sslrootcert:
            parts["sslrootcert"] = str(self.sslrootcert)
        return make_conninfo("", **(parts | overrides))


class Kafka(Group):
    """The brokers."""

    bootstrap: str = Field("", description="host:port, comma separated; empty: the local stack's.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    tls: Tls = Tls()
    replication_factor: int = Field(1, ge=1, description="For the topics Downriver makes itself.")

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> Self:
        if self.security_protocol.startswith("SASL") and not (
            self.sasl_mechanism and self.sasl_username and self.sasl_password
        ):
            msg = f"security_protocol {self.security_protocol} needs sasl_mechanism, sasl_username and sasl_password"
            raise ValueError(msg)
        return self


class Registry(Group):
    """The schema registry, by its Confluent-compatible API."""

    url: str = Field("", description="Base of the Confluent API; empty: the local stack's.")
    native_url: str = Field(
        "", description="Base of Apicurio's own API, which its converter asks; empty: the local stack's."
    )
    username: str | None = None
    password: SecretStr | None = None
    tls: Tls = Tls()
    timeout_s: float = Field(5.0, gt=0)


class Connect(Group):
    """Kafka Connect's REST API."""

    url: str = ""
    username: str | None = None
    password: SecretStr | None = None
    tls: Tls = Tls()
    timeout_s: float = Field(30.0, gt=0)
    offsets_topic: str = "downriver_connect_offsets"
    managed: str = Field(
        "downriver_",
        min_length=1,
        description="Connectors whose names begin so are ours: one without a file is an orphan.",
    )


class Redis(Group):
    """The cache."""

    url: str = Field("", description="redis:// or rediss://; empty: the local stack's.")
    cluster: bool = False
    username: str | None = None
    password: SecretStr | None = None
    tls: Tls = Tls()
    timeout_s: float = Field(5.0, gt=0)


class Elasticsearch(Group):
    """The search store."""

    url: str = ""
    username: str | None = None
    password: SecretStr | None = None
    api_key: SecretStr | None = None
    tls: Tls = Tls()
    timeout_s: float = Field(30.0, gt=0)
    replicas: int = Field(0, ge=0, description="Replicas of the indexes Downriver creates.")
    prefix: str = Field("", pattern=r"^[a-z0-9_-]*$", description="In front of every index and alias name.")


class Clickhouse(Group):
    """The analytics store, over HTTP."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535, description="0: the local stack's.")
    username: str = "default"
    password: SecretStr = SecretStr("")
    tls: Tls = Tls()
    database: str = Field("downriver", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    timeout_s: float = Field(60.0, gt=0)
    registry_url: str = Field(
        "",
        description="The registry as ClickHouse reaches it (with user:password@ if it needs one); empty: registry.url.",
    )


class Stack(Group):
    """The real servers on this machine, without Docker."""

    folder: Path = Field(Path(".downriver"), description="Data, logs and unpacked artifacts.")
    port_base: int = Field(29_100, ge=1024, le=65_000, description="The first of the ports the servers listen on.")
    start_timeout_s: float = Field(180.0, gt=0)

    def port(self, name: str) -> int:
        """Return the port of `name`, a key of PORT_OFFSETS."""
        return self.port_base + PORT_OFFSETS[name]


class Worker(Group):
    """One stream worker process; `host` is of every long-lived command."""

    host: str = Field("127.0.0.1", description="Where health and metrics listen; those of --metrics-port, too.")
    port: int = Field(0, ge=0, le=65535, description="0: any free port, printed at start.")
    max_batch: int = Field(5_000, ge=1, le=100_000, description="Records of one fetch.")
    max_buffered_bytes: int = Field(48 * 2**20, ge=2**20, description="Fetched and not yet delivered, all partitions.")
    max_wait_s: float | None = Field(None, gt=0, description="End with exit code 3 when a server is away this long.")
    stall_s: float = Field(120.0, gt=0, description="End with exit code 4 when there is lag and no progress this long.")
    loop_stall_s: float = Field(5.0, gt=0, description="End with exit code 4 when the event loop is blocked this long.")
    retry_initial_s: float = Field(0.1, gt=0)
    retry_max_s: float = Field(10.0, gt=0)
    max_record_bytes: int = Field(16 * 2**20, ge=1024, description="A larger record is a dead letter.")
    log_format: Literal["json", "console"] = "json"


class Context(Group):
    """One more environment: a Kafka Connect of its own, and what else differs there. A group given replaces the whole group."""

    connect: Connect
    kafka: Kafka | None = None
    postgres: Postgres | None = None
    registry: Registry | None = None
    overlay: str = Field(
        "", description="The overlay of the connector files; empty: the context's name, if it has one."
    )

    @model_validator(mode="after")
    def _addresses_are_given(self) -> Self:
        if not self.connect.url:
            raise ValueError("connect.url is missing: a context never means the local stack by accident")
        return self


class Settings(BaseSettings):
    """All settings. Build it with `load()`, which explains mistakes; `resolved` addresses are filled in there."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    stack: Stack = Stack()
    postgres: Postgres = Postgres()
    kafka: Kafka = Kafka()
    registry: Registry = Registry()
    connect: Connect = Connect()
    redis: Redis = Redis()
    elasticsearch: Elasticsearch = Elasticsearch()
    clickhouse: Clickhouse = Clickhouse()
    worker: Worker = Worker()
    source: str = Field("shop", pattern=r"^[a-z][a-z0-9_]{0,30}$", description="Names the source: topics, versions.")
    group_prefix: str = Field(
        "downriver", pattern=r"^[A-Za-z0-9._-]{1,60}$", description="Of consumer groups and own topics."
    )
    epoch: int = Field(1, ge=1, le=63, description="Raise it when the source was restored or promoted.")
    contexts: dict[str, Context] = Field({}, description="Other Kafka Connect clusters, by name.")
    context: str = Field("", description="The one of `contexts` that is meant; empty: the groups above.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment before file before defaults."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def config_file() -> Path:
    """Return the path of the settings file: `DOWNRIVER_CONFIG`, or downriver.toml in the working folder."""
    return Path(os.environ.get(PREFIX + "CONFIG", "downriver.toml"))


def with_local_addresses(settings: Settings) -> Settings:
    """Fill every address that was left empty with that of the local stack."""
    stack = settings.stack

    def local(name: str, scheme: str = "http", path: str = "") -> str:
        return f"{scheme}://127.0.0.1:{stack.port(name)}{path}"

    def fill(group: Any, **defaults: Any) -> Any:
        return group.model_copy(update={name: value for name, value in defaults.items() if not getattr(group, name)})

    registry = fill(
        settings.registry,
        url=local("registry", path="/apis/ccompat/v7"),
        native_url=local("registry", path="/apis/registry/v2"),
    )
    return settings.model_copy(
        update={
            "stack": stack.model_copy(update={"folder": stack.folder.absolute()}),
            "postgres": fill(settings.postgres, port=stack.port("postgres")),
            "kafka": fill(settings.kafka, bootstrap=f"127.0.0.1:{stack.port('kafka')}"),
            "registry": registry,
            "connect": fill(settings.connect, url=local("connect")),
            "redis": fill(settings.redis, url=local("redis", "redis", "/0")),
            "elasticsearch": fill(settings.elasticsearch, url=local("elasticsearch")),
            "clickhouse": fill(settings.clickhouse, port=stack.port("clickhouse"), registry_url=registry.url),
        }
    )


def in_context(settings: Settings, name: str) -> Settings:
    """Return the settings with the groups that a context replaces.

    Raises:
        BadInput: there is no such context.
    """
    if name not in settings.contexts:
        msg = f"context {name!r}: there is none in {config_file()}; there are: {', '.join(settings.contexts) or 'none'}"
        raise BadInput(msg)
    chosen = settings.contexts[name]
    groups = {group: getattr(chosen, group) for group in ("connect", "kafka", "postgres", "registry")}
    return settings.model_copy(update={"context": name} | {key: group for key, group in groups.items() if group})


@cache
def load(context: str | None = None) -> Settings:
    """Read and check all settings.

    Args:
        context: the one of `contexts` that is meant; None: what the setting `context` says.

    Raises:
        BadInput: naming every mistake at once: setting, value, what is allowed, where it came from.
    """
    _refuse_unknown_variables()
    try:
        settings = Settings()
        if name := settings.context if context is None else context:
            settings = in_context(settings, name)
        return with_local_addresses(settings)
    except ValidationError as error:
        raise BadInput(explain(error)) from None
    except ValueError as error:  # the TOML does not parse, or a variable holds broken JSON
        msg = f"{config_file()}: {error}"
        raise BadInput(msg) from None


def explain(error: ValidationError) -> str:
    """Tell every mistake of `error`, one a line: name, value, what is allowed, where it came from."""
    lines = [f"{error.error_count()} setting(s) can't be used:"]
    for mistake in error.errors(include_url=False):
        path = [str(part) for part in mistake["loc"]]
        name = ".".join(path) or "settings"
        variable = PREFIX + "__".join(path).upper()
        origin = f"from {variable} in the environment" if variable in os.environ else f"from {config_file()}"
        value = mistake["input"]
        shown = "***" if any(word in name for word in ("password", "key", "secret")) else repr(value)
        lines.append(f"  {name} = {shown}: {mistake['msg']} ({origin})")
    return "\n".join(lines)


def _refuse_unknown_variables() -> None:
    """Refuse DOWNRIVER_ variables that name no setting: pydantic ignores them, and a typing mistake would go unseen."""
    known = {PREFIX + "CONFIG", PREFIX + "TEST_REUSE"}  # the second is read by tests/support

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            variable = prefix + name.upper()
            known.add(variable)
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation, variable + "__")

    walk(Settings, PREFIX)
    contexts = f"{PREFIX}CONTEXTS__"  # what follows is a name that the user chose; pydantic checks the rest
    unknown = sorted(
        name for name in os.environ if name.startswith(PREFIX) and name not in known and not name.startswith(contexts)
    )
    if unknown:
        listed = "\n".join(f"  {name} (from the environment)" for name in unknown)
        msg = f"{len(unknown)} environment variable(s) name no setting:\n{listed}\n`downriver settings` lists all of them."
        raise BadInput(msg)
