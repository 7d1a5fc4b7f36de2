"""SchemaRegistry against the real registry."""

from __future__ import annotations

from secrets import token_hex

import httpx2
import orjson
import pytest

from downriver.settings import Settings
from schemas.registry import RegistryAway, SchemaRegistry, UnknownSchema

pytestmark = pytest.mark.stack


def test_a_registered_schema_is_found_by_its_id(settings: Settings) -> None:
    subject = f"t{token_hex(4)}-value"
    schema = {"type": "record", "name": "Probe", "namespace": subject[:-6], "fields": [{"name": "x", "type": "long"}]}
    versions = f"{settings.registry.url}/subjects/{subject}/versions"
    registry = SchemaRegistry(settings.registry)
    try:
        made = httpx2.post(versions, json={"schema": orjson.dumps(schema).decode()}).raise_for_status()
        assert registry.schema(made.json()["id"]) == schema
    finally:
        registry.close()
        httpx2.delete(f"{settings.registry.url}/subjects/{subject}").raise_for_status()


def test_an_id_that_was_never_given_is_unknown(settings: Settings) -> None:
    registry = SchemaRegistry(settings.registry)
    for schema_id in (2**31 - 1, 2**32 - 1):
        with pytest.raises(UnknownSchema, match=f"schema id {schema_id} is unknown to the registry"):
            registry.schema(schema_id)
    registry.close()


def test_a_port_where_nobody_listens_is_away(settings: Settings) -> None:
    registry = SchemaRegistry(settings.registry.model_copy(update={"url": "http://127.0.0.1:9/apis/ccompat/v7"}))
    with pytest.raises(RegistryAway, match=r"the schema registry at http://127\.0\.0\.1:9/.* can't be reached"):
        registry.schema(1)
    registry.close()


def test_another_server_is_no_registry(settings: Settings) -> None:
    """Kafka Connect answers 404 in JSON to what it does not know: that says nothing of the schema."""
    registry = SchemaRegistry(settings.registry.model_copy(update={"url": settings.connect.url}))
    with pytest.raises(RegistryAway, match="answered 404"):
        registry.schema(1)
    registry.close()
