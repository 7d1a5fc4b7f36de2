"""Planning a lane of a test's own: as a function, and as the command that a user runs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import orjson

from connectors.connector import Connector
from connectors.consequences import Weight
from connectors.plan import Item, make
from downriver.settings import Settings
from processors.tables.products import PRODUCTS
from schemas.registry import SchemaRegistry
from tests.support.avro import Record
from tests.support.captured import CapturedShop
from tests.support.lane import OwnLane, own_lane, until

WAIT_S = 90.0


@contextmanager
def captured_lane(settings: Settings) -> Iterator[OwnLane]:
    """Capture forty products in a lane whose connectors are ours by their names."""
    with own_lane(settings) as made:
        managed = made.settings.connect.model_copy(update={"managed": made.settings.source})
        own = OwnLane(made.settings.model_copy(update={"connect": managed}), made.connector)
        own.products(40)
        own.execute("ANALYZE")
        own.start()
        yield own


def stopped(lane: OwnLane) -> None:
    """Stop the lane's connector; return when no task of it is left."""
    with lane.client() as client:
        client.stop(lane.name)
        until(
            lambda: (now := client.status(lane.name)) is not None and now.state == "STOPPED" and not now.tasks,
            f"{lane.name} stops",
        )


def changed(connector: Connector, **config: str | None) -> Connector:
    """The connector with other settings; None takes one away. Dots are written as __."""
    new = dict(connector.config) | {key.replace("__", "."): value for key, value in config.items()}
    return replace(connector, config={key: value for key, value in new.items() if value is not None})


def planned(lane: OwnLane, connector: Connector, **options: bool) -> Item:
    """Plan one connector."""
    with lane.client() as client:
        return make(lane.settings, client, [connector], **options).items[0]


def told(item: Item) -> dict[str, tuple[Weight, str]]:
    return {each.name: (each.weight, each.text) for each in item.consequences}


def written(folder: Path, *connectors: Connector) -> Path:
    """Write the connectors' files into the folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for connector in connectors:
        document = {"name": connector.name, "config": dict(connector.config)}
        (folder / f"{connector.name}.json").write_bytes(orjson.dumps(document))
    return folder


def run(lane: OwnLane, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `downriver connectors …` as a user of this lane."""
    mine = {
        "DOWNRIVER_POSTGRES__DATABASE": lane.settings.postgres.database,
        "DOWNRIVER_POSTGRES__CAPTURE_USER": lane.role,
        "DOWNRIVER_CONNECT__MANAGED": lane.settings.connect.managed,
    }
    command = [sys.executable, "-m", "downriver.cli", "connectors", *arguments]
    return subprocess.run(
        command, env=os.environ | mine | environment, capture_output=True, text=True, check=False, timeout=120
    )


def plan_json(lane: OwnLane, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = run(lane, "plan", *arguments, "-o", "json")
    assert done.returncode in {0, 2}, done.stderr
    return done.returncode, orjson.loads(done.stdout)


def live(lane: OwnLane) -> Mapping[str, str] | None:
    with lane.client() as client:
        return client.config(lane.name)


def read(lane: OwnLane, enough: Callable[[list[tuple[str, str]]], bool]) -> list[tuple[str, str]]:
    """Return kind and sku of every change of a product, partition by partition, once there are enough."""
    registry = SchemaRegistry(lane.settings.registry)
    schemas: dict[int, Any] = {}

    def seen(records: list[Record]) -> list[tuple[str, str]]:
        found = []
        for record in sorted(records, key=lambda each: (each.partition, each.offset)):
            assert record.value is not None
            number = int.from_bytes(record.value[1:5], "big")
            schema = schemas.setdefault(number, fastavro.parse_schema(dict(registry.schema(number))))
            change = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), schema, None)
            assert isinstance(change, dict)
            found.append((change["op"], (change["after"] or change["before"])["sku"]))
        return found

    try:
        return seen(CapturedShop(lane.settings).records(PRODUCTS, lambda records: enough(seen(records))))
    finally:
        registry.close()
