"""The same work in Quix Streams: a script of its own, run by the peers' Python, which has nothing of ours.

`python quix.py MODE COUNT '{"kafka": …, "registry": …, "topic": …, …}'`; prints one JSON object: records, seconds from
the first record to the last write. Its Avro deserialiser everywhere; its own sink where it has one (Elasticsearch), else
the smallest that does the work.
"""

# mypy: ignore-errors
# the libraries are the peers' own: they are not in our environment

import json
import sys
import time
import warnings
from datetime import UTC, datetime
from tempfile import gettempdir
from typing import Any
from uuid import UUID

warnings.filterwarnings("ignore")

from quixstreams import Application  # noqa: E402
from quixstreams.models import SchemaRegistryClientConfig  # noqa: E402
from quixstreams.models.serializers.avro import AvroDeserializer  # noqa: E402
from quixstreams.sinks import BatchingSink, SinkBatch  # noqa: E402
from quixstreams.sinks.community.elasticsearch import Elasticsearch, ElasticsearchSink  # noqa: E402

CHECKPOINT = 5000


class Clock:
    """When the first record came, when the last write was answered, how many records came."""

    began = wrote = 0.0
    seen = 0

    def tick(self, *_: object) -> None:
        self.began = self.began or time.perf_counter()
        self.seen += 1

    def write(self) -> None:
        self.wrote = time.perf_counter()


clock = Clock()


class Delete(BatchingSink):
    """Deletes the product's key and its category's tag, a pipeline for each checkpoint."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def setup(self) -> None:
        import redis

        self.client = redis.Redis.from_url(self.url)
        self.client.ping()

    def write(self, batch: SinkBatch) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for item in batch:
                row = item.value["after"]
                pipeline.delete("product:" + row["id"], "tag:{products:category:" + row["category"] + "}")
            pipeline.execute()
        clock.write()


class Search(ElasticsearchSink):
    """Its own sink. It asks `GET /` at the start, which a minimal Elasticsearch refuses, so that question is left out."""

    def setup(self) -> None:
        self._client = Elasticsearch(**self._client_kwargs)
        self._create_index()

    def write(self, batch: SinkBatch) -> None:
        super().write(batch)
        clock.write()


class Rows(BatchingSink):
    """Inserts rows built in Python with the ordinary ClickHouse client."""

    def __init__(self, where: dict[str, Any], database: str, columns: list[str]) -> None:
        super().__init__()
        self.where, self.database, self.columns = where, database, columns

    def setup(self) -> None:
        import clickhouse_connect

        self.client = clickhouse_connect.get_client(**self.where, database=self.database, autogenerate_session_id=False)

    def write(self, batch: SinkBatch) -> None:
        at = datetime.fromisoformat
        rows = []
        for item in batch:
            row, source = item.value["after"], item.value["source"]
            changed = {"id": UUID(row["id"]), "created_at": at(row["created_at"]), "updated_at": at(row["updated_at"])}
            row = row | changed | {"tags": row["tags"] or []}
            row |= {"_op": item.value["op"], "_kind": "streamed", "_is_deleted": 0, "_before": {}}
            row |= {"_version": source["lsn"], "_transaction": source["txId"]}
            row["_committed_at"] = datetime.fromtimestamp(source["ts_ms"] / 1000, UTC)
            rows.append([row[name] for name in self.columns])
        self.client.insert("products_history", rows, column_names=self.columns)
        clock.write()


def main(mode: str, count: int, about: dict[str, Any]) -> None:
    """Do the work of the mode on so many records."""
    checkpoint = about.get("checkpoint", CHECKPOINT)
    app = Application(
        broker_address=about["kafka"],
        consumer_group=about["group"],
        auto_offset_reset="earliest",
        loglevel="WARNING",
        commit_interval=5.0,
        commit_every=checkpoint,
        consumer_extra_config={"fetch.min.bytes": 100_000},
        auto_create_topics=False,
        use_changelog_topics=False,
        state_dir=f"{gettempdir()}/downriver-bench-quix",  # nothing is kept there; its default is the present folder
    )
    avro = AvroDeserializer(schema_registry_client_config=SchemaRegistryClientConfig(url=about["registry"]))
    frame = app.dataframe(app.topic(about["topic"], key_deserializer="bytes", value_deserializer=avro))

    frame = frame.update(clock.tick)
    if mode == "cache":
        frame.sink(Delete(about["redis"]))
    elif mode == "search":
        frame.apply(lambda value: value["after"]).sink(
            Search(
                url=about["elasticsearch"],
                index=about["index"],
                mapping=about["mapping"],
                batch_size=1000,
                document_id_setter=lambda item: item.value["id"],
                request_timeout=60,
            )
        )
    elif mode == "analytics":
        frame.sink(Rows(about["clickhouse"], about["database"], about["columns"]))
    else:
        sys.exit(f"no mode {mode!r}")
    app.run(count=count, timeout=30, collect=False)
    print(json.dumps({"records": clock.seen, "seconds": clock.wrote - clock.began}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
