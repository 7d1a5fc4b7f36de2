"""Bytes to changes: the wire format of the connectors (Confluent framing, Avro, Debezium's envelope).

Knows tables and schemas by id; no sink, no engine, and no I/O but the registry's.
"""

from processors.decode.decoder import Decoder
from processors.decode.errors import OtherKey, SchemaLookup, Undecodable

__all__ = ["Decoder", "OtherKey", "SchemaLookup", "Undecodable"]
