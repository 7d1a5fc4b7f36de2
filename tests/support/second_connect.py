"""A second Kafka Connect cluster beside the stack's: one worker with a group and topics of its own, on the same Kafka."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from confluent_kafka.admin import AdminClient

from deploy.local import processes
from deploy.local.artifacts import Depot, pinned
from deploy.local.home import Home
from deploy.local.servers.base import Capture, Context
from deploy.local.servers.connect import Connect
from downriver.kafka import confluent_config
from downriver.settings import PORT_OFFSETS, Settings
from tests.support.lane import until
from tests.support.stack import RunningStack
from tests.support.standby import free_port

START_S = 120.0


@dataclass(frozen=True, slots=True)
class SecondConnect:
    """The worker. `settings` are the stack's, with this cluster as their Connect."""

    settings: Settings
    home: Home
    server: Connect
    properties: str

    def start(self) -> None:
        """Start it; return when it has joined its group and answers."""
        launch = self.server.prepare(lambda _: None, lambda _: None)
        file = self.home.data(self.server.name) / "connect.properties"
        file.write_text(file.read_text(encoding="utf-8") + self.properties, encoding="utf-8")  # the last line counts
        port = self.server.context.ports["connect"]
        processes.spawn(self.home, self.server.name, launch, {"connect": port})
        until(self.server.healthy, f"a second Connect: {self.home.log(self.server.name)}", START_S)

    def stop(self) -> None:
        """End it."""
        processes.stop(self.home, self.server.name, self.server.grace_s)


@contextmanager
def second_connect(stack: RunningStack, folder: Path) -> Iterator[SecondConnect]:
    """Run it for the length of the block; its topics are gone afterwards."""
    name = f"second_{token_hex(4)}"
    settings = stack.settings
    port = free_port()
    home = Home.at(folder / name, stack.stack.home.artifacts)
    ports = {each: settings.stack.port(each) for each in PORT_OFFSETS} | {"connect": port}
    capture = Capture(password=stack.stack.capture_password(), offsets_topic=f"{name}_offsets")
    own = settings.connect.model_copy(
        update={"url": f"http://127.0.0.1:{port}", "offsets_topic": capture.offsets_topic}
    )
    properties = f"\ngroup.id={name}\nconfig.storage.topic={name}_configs\nstatus.storage.topic={name}_status\n"
    made = SecondConnect(
        settings.model_copy(update={"connect": own}),
        home,
        Connect(Context(home, Depot(home.artifacts), pinned(), ports, capture)),
        properties,
    )
    try:
        home.make()
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(home.folder, ignore_errors=True)
        admin = AdminClient(confluent_config(settings.kafka))
        topics = [topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(name)]
        for done in admin.delete_topics(topics).values() if topics else ():
            done.result(30)
        for done in admin.delete_consumer_groups([name]).values():
            done.exception(30)  # it may be forgotten already


def contexts(folder: Path, **clusters: Settings) -> Path:
    """Write a settings file in which each of these Connect clusters is a context; return it."""
    told = [
        f'[contexts.{name}.connect]\nurl = "{each.connect.url}"\nmanaged = "{each.connect.managed}"\n'
        f'offsets_topic = "{each.connect.offsets_topic}"\n'
        for name, each in clusters.items()
    ]
    path = folder / "downriver.toml"
    path.write_text("".join(told), encoding="utf-8")
    return path
