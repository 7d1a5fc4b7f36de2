"""The search sink on the real Elasticsearch: what a reader of the aliases sees, compared value by value."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from downriver.exits import BadInput
from downriver.settings import Settings
from processors.change import MAX_VERSION
from processors.sinks.base import APPLIED, STALE, Outcome, SinkUnavailable
from processors.sinks.search.client import Elastic
from processors.sinks.search.document import product_view, shown_product
from processors.sinks.search.mapping import products, reviews
from processors.sinks.search.review import review_view, shown_review
from processors.sinks.search.route import Command, Part, ReviewRow
from processors.sinks.search.sink import SearchSink

pytestmark = pytest.mark.stack

ROW: dict[str, Any] = {
    "sku": "SKU-1",
    "name": "Wireless Headphones „Größe L“ 漢字 🎧",
    "description": 'Over-ear.\nLine two, \\ and " and \t tab. ' + "long " * 2000,
    "category": "audio",
    "tags": ["sale", "über", "x" * 20_000],
    "attributes": '{"weight": 1.10, "big": 123456789012345678901234567890, "deep": [{"": null}], "huge": 1e400}',
    "price": "12.30",
    "currency": "EUR",
    "status": "active",
    "created_at": "2026-11-21T03:00:37.678447Z",
    "updated_at": "infinity",
}
REVIEW: dict[str, Any] = {
    "user_id": "9f1c",
    "rating": 5,
    "title": "Gut",
    "body": "Sehr „gut“ 👍\n",
    "status": "approved",
    "created_at": "2026-11-21T03:00:37.000001Z",
    "updated_at": "0001-01-01T00:00:00.000000Z",
}


class Reader:
    """Reads what applications read: the aliases."""

    def __init__(self, settings: Settings) -> None:
        self.prefix = settings.elasticsearch.prefix
        self.elastic = Elastic(settings.elasticsearch)

    async def search(self, alias: str, query: Mapping[str, Any], **body: Any) -> list[dict[str, Any]]:
        answer = await self.elastic.request(
            "POST", f"/{self.prefix}{alias}/_search", {"query": query, "size": 100, **body}
        )
        return [hit["_source"] for hit in answer["hits"]["hits"]]

    async def products(self) -> dict[str, dict[str, Any]]:
        return {source["id"]: shown_product(source) for source in await self.search("products", {"match_all": {}})}

    async def reviews(self) -> dict[tuple[str, str], dict[str, Any]]:
        found = await self.search("reviews", {"match_all": {}})
        return {(source["product_id"], source["id"]): shown_review(source) for source in found}

    async def everything(self) -> dict[str, Any]:
        """Every document of both concrete indexes, marks included, but for the revision of ratings."""
        found: dict[str, Any] = {}
        for index in ("products-v1", "reviews-v1"):
            answer = await self.elastic.request(
                "POST", f"/{self.prefix}{index}/_search", {"query": {"match_all": {}}, "size": 1000}
            )
            for hit in answer["hits"]["hits"]:
                hit["_source"].get("parts", {}).pop("rating", None)
                found[hit["_id"]] = hit["_source"]
        return found


@pytest.fixture
def own(settings: Settings) -> Settings:
    """The running stack, with indexes of this test's own."""
    elasticsearch = settings.elasticsearch.model_copy(update={"prefix": f"test-search-{uuid.uuid4().hex[:12]}-"})
    return settings.model_copy(update={"elasticsearch": elasticsearch})


@pytest.fixture
async def reader(own: Settings) -> AsyncIterator[Reader]:
    reading = Reader(own)
    yield reading
    for plan in (products(reading.prefix), reviews(reading.prefix)):
        await reading.elastic.request("DELETE", f"/{plan.name}?ignore_unavailable=true")
    await reading.elastic.close()


@pytest.fixture
async def sink(own: Settings, reader: Reader) -> AsyncIterator[SearchSink]:
    opened = SearchSink(own)
    await opened.open()
    yield opened
    await opened.close()


def product(version: int, document: str = "p", **fields: Any) -> Part:
    return Part(document, "product", "", version, ROW | fields)


def stock(warehouse: str, version: int, quantity: int, reserved: int = 0, document: str = "p") -> Part:
    return Part(document, "stock", warehouse, version, {"quantity": quantity, "reserved": reserved})


def review(product_id: str, id_: str, version: int, **fields: Any) -> ReviewRow:
    return ReviewRow(product_id, id_, version, REVIEW | fields)


async def write(sink: SearchSink, *batch: Command) -> list[Outcome]:
    verdicts = await sink.write(batch)
    await sink.shown()
    return [verdict.outcome for verdict in verdicts]


def rows(*quantities: tuple[int, int]) -> list[dict[str, int]]:
    return [{"quantity": quantity, "reserved": reserved} for quantity, reserved in quantities]


async def test_a_reader_sees_exactly_what_was_written(sink: SearchSink, reader: Reader) -> None:
    outcomes = await write(sink, product(3), stock("a", 4, 10, 3), stock("b", 5, 2), review("p", "r", 6))
    assert outcomes == [Outcome.APPLIED] * 4
    assert await reader.products() == {"p": product_view({"id": "p"} | ROW, rows((10, 3), (2, 0)), 5, 1)}
    assert await reader.reviews() == {("p", "r"): review_view({"product_id": "p", "id": "r"} | REVIEW)}
    nothing = dict.fromkeys(ROW)
    assert await write(sink, product(7, "null", **nothing)) == [Outcome.APPLIED]
    assert (await reader.products())["null"] == product_view({"id": "null"} | nothing, [], 0, 0)


async def test_versions_keep_all_their_bits(own: Settings, sink: SearchSink, reader: Reader) -> None:
    await write(sink, product(MAX_VERSION - 1), review("p", "r", MAX_VERSION - 1))
    other = SearchSink(own)
    await other.open()
    older: list[Command] = [product(MAX_VERSION - 2, name="older"), review("p", "r", MAX_VERSION - 2, rating=1)]
    assert await write(other, *older) == [Outcome.STALE] * 2
    newer: list[Command] = [product(MAX_VERSION, name="newer"), review("p", "r", MAX_VERSION, rating=2)]
    assert await write(other, *newer) == [Outcome.APPLIED] * 2
    await other.close()
    assert await reader.products() == {"p": product_view({"id": "p"} | ROW | {"name": "newer"}, [], 2, 1)}


async def test_stock_may_come_first_and_updates_replace(sink: SearchSink, reader: Reader) -> None:
    await write(sink, stock("a", 4, 10))
    assert await reader.products() == {}
    await write(sink, product(3))
    await write(sink, product(8, price="9.99", tags=[]), stock("a", 9, 0))
    expected = {"id": "p"} | ROW | {"price": "9.99", "tags": []}
    assert await reader.products() == {"p": product_view(expected, rows((0, 0)), 0, 0)}


async def test_a_deleted_product_is_not_shown_and_may_come_back(sink: SearchSink, reader: Reader) -> None:
    await write(sink, product(3), stock("a", 4, 10), review("p", "r", 5))
    await write(sink, Part("p", "product", "", 6, None))
    assert await reader.products() == {}
    assert await write(sink, product(3), product(0)) == [Outcome.STALE] * 2
    assert await reader.products() == {}
    await write(sink, product(9, name="Back"))
    assert await reader.products() == {
        "p": product_view({"id": "p"} | ROW | {"name": "Back"}, rows((10, 0)), 5, 1),
    }


async def test_replaying_everything_changes_nothing(own: Settings, sink: SearchSink, reader: Reader) -> None:
    history: list[Command] = [
        product(0),
        stock("a", 4, 10),
        review("p", "r1", 5),
        product(6, name="renamed"),
        review("p", "r2", 7, rating=2),
        Part("p", "stock", "a", 8, None),
        stock("a", 11, 3),
        ReviewRow("p", "r1", 12, None),
        product(13, "q"),
        Part("q", "product", "", 14, None),
        review("q", "r3", 15, status="pending"),
    ]
    for command in history:
        await write(sink, command)
    before, shown = await reader.everything(), await reader.products()
    assert len(before) == 5
    assert shown["p"]["rating_average"] == "2.00"
    other = SearchSink(own)
    await other.open()
    for batch in (history, history[::-1], history[3:7]):
        assert set(await write(other, *batch)) == {Outcome.STALE}
    await other.close()
    assert await reader.everything() == before
    assert await reader.products() == shown


async def test_a_review_that_moves_corrects_both_ratings(sink: SearchSink, reader: Reader) -> None:
    await write(sink, product(1, "p"), product(1, "q"))
    await write(sink, review("p", "r1", 2, rating=5), review("p", "r2", 3, rating=2), review("q", "r3", 4, rating=1))
    await write(sink, review("p", "r4", 5, rating=1, status="pending"))
    found = await reader.products()
    assert [(found[id_]["rating_average"], found[id_]["rating_count"]) for id_ in "pq"] == [("3.50", 2), ("1.00", 1)]
    # one LSN: the delete's version is even, the create's odd, one more
    await write(sink, ReviewRow("p", "r1", 10, None), review("q", "r1", 11, rating=5))
    found = await reader.products()
    assert [(found[id_]["rating_average"], found[id_]["rating_count"]) for id_ in "pq"] == [("2.00", 1), ("3.00", 2)]
    await write(sink, ReviewRow("p", "r2", 12, None), review("q", "r3", 13, rating=1, status="rejected"))
    found = await reader.products()
    assert [(found[id_]["rating_average"], found[id_]["rating_count"]) for id_ in "pq"] == [(None, 0), ("5.00", 1)]


async def test_a_rating_lost_by_a_crash_is_healed_by_redelivery(sink: SearchSink, reader: Reader) -> None:
    await write(sink, product(1))
    row = review("p", "r", 2, rating=4)
    # killed between the two steps: the review is there, the rating is not
    assert await sink._reviews.apply([row]) == [APPLIED]
    assert (await reader.products())["p"]["rating_average"] is None
    assert await write(sink, row) == [Outcome.STALE]
    assert (await reader.products())["p"]["rating_average"] == "4.00"


async def test_two_workers_write_the_same_documents(own: Settings, sink: SearchSink, reader: Reader) -> None:
    other = SearchSink(own)
    await other.open()
    batches: list[tuple[SearchSink, Sequence[Command]]] = []
    for version in range(1, 21):
        worker = (sink, other)[version % 2]
        batches += [
            (worker, [product(version, id_, name=f"v{version}") for id_ in "pqr"]),
            (worker, [stock("a", version, version, document=id_) for id_ in "rpq"]),
            (worker, [review(id_, f"r{version % 3}", version, rating=version % 5 + 1) for id_ in "pq"]),
        ]
    verdicts = await asyncio.gather(*(worker.write(batch) for worker, batch in batches))
    # losing too often in a row is a RETRY: the engine comes again
    for (worker, batch), answers in zip(batches, verdicts, strict=True):
        assert {answer.outcome for answer in answers} <= {Outcome.APPLIED, Outcome.STALE, Outcome.RETRY}
        for command, answer in zip(batch, answers, strict=True):
            if answer.outcome is Outcome.RETRY:
                assert (await worker.write([command]))[0] in (APPLIED, STALE)
    await sink.shown()
    await other.shown()
    await other.close()
    found = await reader.products()
    # the newest of r0, r1, r2 are versions 18, 19, 20: ratings 4, 5, 1
    for id_ in "pq":
        expected = {"id": id_} | ROW | {"name": "v20"}
        assert found[id_] == product_view(expected, rows((20, 0)), 10, 3)
    assert found["r"] == product_view({"id": "r"} | ROW | {"name": "v20"}, rows((20, 0)), 0, 0)


async def test_what_the_mapping_refuses_is_rejected_alone(sink: SearchSink, reader: Reader) -> None:
    batch = [product(1, "a"), product(2, "p", price="NaN"), stock("w", 3, 5), product(1, "b")]
    verdicts = await sink.write(batch)
    await sink.shown()
    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.APPLIED,
        Outcome.REJECTED,
        Outcome.APPLIED,
        Outcome.APPLIED,
    ]
    assert "price" in verdicts[1].reason
    assert set(await reader.products()) == {"a", "b"}
    [verdict] = await sink.write([Part("p", "product", "", 4, ROW | {"unknown": 1})])
    assert verdict.outcome is Outcome.REJECTED
    assert "strict_dynamic_mapping_exception" in verdict.reason
    assert await write(sink, product(5, "p")) == [Outcome.APPLIED]
    assert (await reader.products())["p"]["stock"] == 5


async def test_nothing_is_visible_before_it_is_shown(sink: SearchSink, reader: Reader) -> None:
    await sink.write([product(1)])
    assert await reader.products() == {}
    await sink.shown()
    assert set(await reader.products()) == {"p"}


async def test_shoppers_find_filter_and_sort(sink: SearchSink, reader: Reader) -> None:
    names = {"p1": ("Wireless Headphones", "19.99"), "p2": ("Headphone stand", "9.99"), "p3": ("Desk lamp", "15.00")}
    await write(
        sink,
        *(product(1, id_, name=name, price=price, description=None) for id_, (name, price) in names.items()),
        stock("w", 2, 3, document="p1"),
        review("p1", "r", 3, rating=4),
    )
    typo = {"multi_match": {"query": "hedphones", "fields": ["name", "description"], "fuzziness": "AUTO"}}
    assert [hit["id"] for hit in await reader.search("products", typo)] == ["p1", "p2"]
    filters = [{"range": {"price": {"gte": 9.99, "lte": 19.99}}}, {"term": {"tags": "sale"}}]
    filters.append({"term": {"category": "audio"}})
    hits = await reader.search("products", {"bool": {"filter": filters}}, sort=[{"price": "desc"}])
    assert [hit["id"] for hit in hits] == ["p1", "p3", "p2"]
    hits = await reader.search("products", {"term": {"in_stock": True}}, sort=[{"rating_average": "desc"}])
    assert [(hit["id"], hit["price"], hit["rating_average"]) for hit in hits] == [("p1", "19.99", "4.00")]


async def test_several_workers_open_at_once_and_again(own: Settings, reader: Reader) -> None:
    workers = [SearchSink(own) for _ in range(4)]
    await asyncio.gather(*(worker.open() for worker in workers))
    await workers[0].open()
    await asyncio.gather(*(worker.close() for worker in workers))
    settings = await reader.elastic.request("GET", f"/{reader.prefix}products-v1/_settings")
    index = settings[f"{reader.prefix}products-v1"]["settings"]["index"]
    assert index["number_of_replicas"] == str(own.elasticsearch.replicas)


async def test_what_is_something_else_is_refused_and_a_missing_alias_is_made(own: Settings, reader: Reader) -> None:
    worker, elastic, prefix = SearchSink(own), reader.elastic, reader.prefix
    plan = products(prefix)
    body = plan.body(0)
    body["mappings"]["properties"]["price"] = {"type": "float"}
    await elastic.request("PUT", f"/{plan.name}", body)
    with pytest.raises(BadInput, match=r"properties\.price\.type is 'float', not 'double'"):
        await worker.open()
    await elastic.request("DELETE", f"/{plan.name}")
    await worker.open()
    change: dict[str, Any] = {"remove": {"index": plan.name, "alias": plan.alias}}
    await elastic.request("POST", "/_aliases", {"actions": [change]})
    await worker.open()
    found = await elastic.request("GET", f"/_alias/{plan.alias}")
    assert found[plan.name]["aliases"][plan.alias]["filter"] == plan.shown
    change = {"add": {"index": plan.name, "alias": plan.alias, "filter": {"term": {"listed": False}}}}
    await elastic.request("POST", "/_aliases", {"actions": [change]})
    with pytest.raises(BadInput, match="filters otherwise"):
        await worker.open()
    change = {"add": {"index": reviews(prefix).name, "alias": plan.alias}}
    await elastic.request("POST", "/_aliases", {"actions": [change]})
    with pytest.raises(BadInput, match=f"the alias {plan.alias} shows {reviews(prefix).name}"):
        await worker.open()
    await worker.close()


async def test_a_deleted_index_is_noticed_before_a_write(sink: SearchSink, reader: Reader) -> None:
    await sink.write([product(1)])
    await reader.elastic.request("DELETE", f"/{reader.prefix}products-v1")
    with pytest.raises(SinkUnavailable, match="products-v1 is gone"):
        await sink.write([product(2)])
    with pytest.raises(SinkUnavailable, match="products-v1"):
        await sink.shown()
    await sink.open()
    assert await write(sink, product(2)) == [Outcome.APPLIED]
    assert set(await reader.products()) == {"p"}


async def test_columns_that_a_migration_added_get_fields_of_their_own(sink: SearchSink, reader: Reader) -> None:
    extra = {"brand": "word", "weight": "whole", "vat": "number", "seen_at": "moment"}
    fields = ROW | {"brand": "acme", "weight": 7, "vat": "19.00", "seen_at": "2026-01-02T00:00:00.000000Z"}
    assert await write(sink, Part("p", "product", "", 9, fields, extra), product(9, "q")) == [Outcome.APPLIED] * 2
    for query in ({"term": {"brand": "acme"}}, {"range": {"weight": {"gte": 7}}}, {"range": {"vat": {"lt": 20}}}):
        assert [source["id"] for source in await reader.search("products", query)] == ["p"]
    assert (await reader.products())["p"] | fields == (await reader.products())["p"]
    assert "brand" not in (await reader.products())["q"]
    row = ReviewRow("p", "r", 9, REVIEW | {"tone": "warm"}, {"tone": "word"})
    assert await write(sink, row) == [Outcome.APPLIED]
    assert (await reader.reviews())["p", "r"]["tone"] == "warm"


async def test_a_value_of_another_type_than_its_field_stays_readable(sink: SearchSink, reader: Reader) -> None:
    await write(
        sink, Part("p", "product", "", 9, ROW | {"grams": "7.5", "ok": True}, {"grams": "number", "ok": "boolean"})
    )
    other = Part("q", "product", "", 9, ROW | {"grams": "9 g", "ok": "maybe"}, {"grams": "word", "ok": "word"})
    assert await write(sink, other) == [Outcome.APPLIED]
    assert [source["id"] for source in await reader.search("products", {"range": {"grams": {"gt": 7}}})] == ["p"]
    assert (await reader.products())["q"]["grams"] == "9 g"


async def test_another_worker_writes_to_the_grown_index(sink: SearchSink, reader: Reader, own: Settings) -> None:
    await write(sink, Part("p", "product", "", 9, ROW | {"brand": "acme"}, {"brand": "word"}))
    other = SearchSink(own)
    await other.open()
    try:
        await write(other, Part("q", "product", "", 9, ROW | {"brand": "other"}, {"brand": "word"}))
        # a kind that the field is not: what fits it is written, what does not is refused alone
        third = SearchSink(own)
        await third.open()
        given = [
            Part(name, "product", "", 9, ROW | {"brand": value}, {"brand": "kept"})
            for name, value in (("r", "x"), ("s", {}))
        ]
        assert await write(third, *given) == [Outcome.APPLIED, Outcome.REJECTED]
        await third.close()
        assert {id_: source["brand"] for id_, source in (await reader.products()).items()} == {
            "p": "acme",
            "q": "other",
            "r": "x",
        }
    finally:
        await other.close()
