"""Bytes to changes: the wire format of the connectors (Confluent framing, Avro, Debezium's envelope).

Knows tables and schemas by id; no sink, no engine, and no I/O but the registry's.
"""

from processors.decode.decoder import Decoder
from processors.decode.errors import SchemaLookup, Undecodable
from processors.decode.values import DEFAULT_PLACEHOLDER

__all__ = ["DEFAULT_PLACEHOLDER", "Decoder", "SchemaLookup", "Undecodable"]
