"""How our clients reach the brokers: the settings in the words of each client library. No connection is made here."""

from __future__ import annotations

from typing import Any

from downriver import tls
from downriver.settings import Kafka


def confluent_config(kafka: Kafka) -> dict[str, Any]:
    """Return the settings as confluent-kafka (librdkafka) wants them, for consumers, producers and the admin client."""
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap,
        "security.protocol": kafka.security_protocol,
        "client.id": "downriver",
    }
    if kafka.sasl_mechanism and kafka.sasl_password:
        config |= {
            "sasl.mechanism": kafka.sasl_mechanism,
            "sasl.username": kafka.sasl_username,
            "sasl.password": kafka.sasl_password.get_secret_value(),
        }
    files = {
        "ssl.ca.location": kafka.tls.ca_file,
        "ssl.certificate.location": kafka.tls.cert_file,
        "ssl.key.location": kafka.tls.key_file,
    }
    return config | {name: str(path) for name, path in files.items() if path}


def aiokafka_config(kafka: Kafka) -> dict[str, Any]:
    """Return the settings as aiokafka wants them, for its consumers, producers and admin client."""
    config: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap.split(","),
        "security_protocol": kafka.security_protocol,
        "client_id": "downriver",
    }
    if kafka.sasl_mechanism and kafka.sasl_password:
        config |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.sasl_username,
            "sasl_plain_password": kafka.sasl_password.get_secret_value(),
        }
    if kafka.security_protocol.endswith("SSL"):
        config["ssl_context"] = tls.context(kafka.tls, "kafka")
    return config
