"""One index as documents that are state, against an index in memory with sequence numbers like the real one's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.sinks.base import APPLIED, STALE, Outcome, SinkUnavailable, Verdict, rejected
from processors.sinks.search import store
from processors.sinks.search.client import Answer, Elastic, Refused, Write
from processors.sinks.search.document import Rating, fold_product
from processors.sinks.search.ratings import Ratings
from processors.sinks.search.recent import ENTRY_BYTES, Held, Recent
from processors.sinks.search.route import Part
from processors.sinks.search.store import Documents


class Index(Elastic):
    """An index in memory. A document whose name is `bad` is refused, as a mapping would."""

    def __init__(self) -> None:
        self.url, self.timeout_s = "memory", 1.0
        self.uuid = "one"
        self.held: dict[str, Held] = {}
        self.seq_no = 0
        self.reads: list[list[str]] = []
        self.writes: list[list[str]] = []
        self.before_write: Callable[[], None] = lambda: None
        self.status: dict[str, int] = {}
        self.sums: list[tuple[int, int]] = []

    async def request(self, method: str, path: str, body: Mapping[str, Any] | bytes | None = None) -> Any:
        await asyncio.sleep(0)
        if path.endswith("/_settings/index.uuid"):
            if not self.uuid:
                raise Refused(404, "index_not_found_exception", "no such index")
            return {"products": {"settings": {"index": {"uuid": self.uuid}}}}
        total, count = self.sums.pop(0)
        bucket = {"key": "p", "doc_count": count, "sum": {"value": float(total)}}
        return {"aggregations": {"products": {"buckets": [bucket] if count else []}}}

    async def read(self, index: str, documents: Sequence[str]) -> dict[str, Held]:
        self.reads.append(list(documents))
        found = {document: self.held[document] for document in documents if document in self.held}
        await asyncio.sleep(0)  # what was read may be old when it arrives
        return found

    async def write(self, index: str, writes: Sequence[Write]) -> list[Answer]:
        await asyncio.sleep(0)
        self.before_write()
        self.writes.append([write.document for write in writes])
        return [self._write(write) for write in writes]

    async def refresh(self, index: str) -> None:
        await asyncio.sleep(0)

    def _write(self, write: Write) -> Answer:
        if write.document in self.status:
            return Answer(self.status[write.document], reason="not now")
        if b'"name":"bad' in write.source:
            return Answer(400, reason="document_parsing_exception: bad")
        if self.held.get(write.document) != write.held and (
            write.held is None
            or write.document not in self.held
            or self.held[write.document].seq_no != write.held.seq_no
        ):
            return Answer(409, reason="version_conflict_engine_exception")
        self.seq_no += 1
        self.held[write.document] = Held(write.source, self.seq_no, 1)
        return Answer(200, self.held[write.document])

    def document(self, document: str) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.held[document].source)
        return found


def documents(index: Index, recent_bytes: int = 2**20) -> Documents[Part | Rating]:
    return Documents(index, "products", fold_product, recent_bytes)


def product(version: int, name: str = "fine", document: str = "p") -> Part:
    return Part(document, "product", "", version, {"name": name})


def stock(warehouse: str, version: int, quantity: int, document: str = "p") -> Part:
    return Part(document, "stock", warehouse, version, {"quantity": quantity, "reserved": 0})


async def test_all_commands_of_a_document_are_one_write_and_a_hot_one_is_read_once() -> None:
    index = Index()
    products = documents(index)
    first = await products.apply([product(1), stock("a", 2, 5), product(3, "new"), stock("a", 1, 9)])
    assert first == [APPLIED, APPLIED, APPLIED, STALE]
    assert await products.apply([stock("a", 4, 6), product(3, "again")]) == [APPLIED, STALE]
    assert index.writes == [["p"], ["p"]]
    assert index.reads == [["p"]]
    assert (index.document("p")["name"], index.document("p")["stock"]) == ("new", 6)


async def test_what_is_stale_is_not_written() -> None:
    index = Index()
    await documents(index).apply([product(5)])
    assert await documents(index).apply([product(5, "x"), product(4, "y")]) == [STALE, STALE]
    assert len(index.writes) == 1


async def test_two_writers_of_one_document_both_get_theirs_in() -> None:
    index = Index()
    one, two = documents(index), documents(index)
    await one.apply([product(1)])
    await two.apply([stock("a", 2, 5)])
    # `one` still holds the document as it was: its write is refused, it reads back and folds again
    assert await one.apply([product(3, "new"), stock("a", 1, 9)]) == [APPLIED, STALE]
    assert (index.document("p")["name"], index.document("p")["stock"]) == ("new", 5)


@given(st.data())
async def test_any_interleaving_of_writers_ends_in_the_newest_of_every_part(data: st.DataObject) -> None:
    index = Index()
    commands = [product(v, f"v{v}") for v in (1, 2, 3)] + [stock(w, v, v) for w in "ab" for v in (1, 2, 3)]
    writers = [documents(index, data.draw(st.sampled_from([1, 2**20]))) for _ in range(3)]
    batches = [
        (data.draw(st.sampled_from(writers)), data.draw(st.permutations(commands))[: data.draw(st.integers(1, 9))])
        for _ in range(4)
    ]
    # the last one has everything, so that nothing is missing in the end
    batches.insert(data.draw(st.integers(0, 4)), (writers[0], data.draw(st.permutations(commands))))
    verdicts = await asyncio.gather(*(writer.apply(batch) for writer, batch in batches))
    assert {verdict.outcome for batch in verdicts for verdict in batch} <= {Outcome.APPLIED, Outcome.STALE}
    assert (index.document("p")["name"], index.document("p")["stock"]) == ("v3", 6)


async def test_while_all_documents_are_new_nothing_is_read_and_one_that_is_there_is_not_overwritten() -> None:
    index = Index()
    one, two = documents(index), documents(index)
    await two.apply([product(9, "theirs", document="there")])
    index.reads.clear()
    await one.apply([product(1, document=f"a{each}") for each in range(store.ENOUGH)])
    assert len(index.reads) == 1
    await one.apply([product(1, document=f"b{each}") for each in range(store.ENOUGH)])
    assert len(index.reads) == 1  # the next ones are taken for new
    verdicts = await one.apply([product(1, "ours", document="there"), product(1, document="new")])
    assert verdicts == [STALE, APPLIED]
    assert index.document("there")["name"] == "theirs"
    assert index.reads[1:] == [["there"]]
    await one.apply([product(1, document="c")])
    assert index.reads[2:] == [["c"]]  # and no more of that, until nothing is found again


async def test_a_rejected_command_takes_no_other_down() -> None:
    index = Index()
    batch = [stock("a", 1, 5), product(2, "bad"), stock("b", 1, 7), product(1, "good"), product(1, document="q")]
    verdicts = await documents(index).apply(batch)
    assert verdicts == [APPLIED, rejected("document_parsing_exception: bad"), APPLIED, APPLIED, APPLIED]
    assert (index.document("p")["name"], index.document("p")["stock"]) == ("good", 12)
    assert index.document("q")["listed"] is True


async def test_a_document_that_is_throttled_is_a_retry_and_the_others_are_written() -> None:
    index = Index()
    index.status["p"] = 429
    verdicts = await documents(index).apply([product(1), product(1, document="q")])
    assert [verdict.outcome for verdict in verdicts] == [Outcome.RETRY, Outcome.APPLIED]
    assert verdicts[0].reason == "status 429: not now"


async def test_whoever_always_loses_tries_again_later() -> None:
    index = Index()
    index.status["p"] = 409
    [verdict] = await documents(index).apply([product(1)])
    assert verdict.outcome is Outcome.RETRY
    assert len(index.writes) == store.TRIES


async def test_sequence_numbers_of_a_replaced_index_are_forgotten() -> None:
    index = Index()
    products = documents(index)
    await products.apply([product(1, "old index")])
    number = index.held["p"].seq_no
    newer = fold_product("p", None, [product(7, "new index")]).source
    index.uuid, index.held = "two", {"p": Held(newer or b"", number, 1)}
    assert await products.apply([product(2, "late")]) == [STALE]
    assert index.document("p")["name"] == "new index"


async def test_an_index_that_is_gone_is_not_made_again_by_a_write() -> None:
    index = Index()
    index.uuid = ""
    with pytest.raises(SinkUnavailable, match="the index products is gone"):
        await documents(index).apply([product(1)])
    assert index.writes == []


async def test_big_batches_go_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CHUNK_DOCUMENTS", 4)
    monkeypatch.setattr(store, "CHUNK_BYTES", 600)
    index = Index()
    batch = [product(1, "n" * 100, document=str(i)) for i in range(10)]
    assert await documents(index).apply(batch) == [APPLIED] * 10
    assert sorted(document for written in index.writes for document in written) == [str(i) for i in range(10)]
    assert max(map(len, index.writes)) == 2
    assert [len(read) for read in index.reads] == [4, 4, 2]


async def rate(index: Index, products: Documents[Part | Rating]) -> Verdict:
    return (await Ratings(index, "reviews", products.refresher, products).renew(["p"]))["p"]


async def test_an_older_aggregate_loses_against_a_newer_one() -> None:
    index = Index()
    products = documents(index)
    await products.apply([product(1)])
    index.sums = [(5, 1), (9, 2), (9, 2)]
    newer = documents(index)

    async def overtaken() -> None:
        # between this worker's question and its write, another asks and writes
        assert await rate(index, newer) == APPLIED

    asked = products.refresher.shown

    async def shown() -> None:
        await asked()
        if len(index.sums) == 3:
            index.sums.insert(1, index.sums.pop(0))
            await overtaken()

    products.refresher.shown = shown  # type: ignore[method-assign]
    assert await rate(index, products) == APPLIED
    found = index.document("p")
    assert (found["rating_average"], found["rating_count"], found["parts"]["rating"]) == ("4.50", 2, 2)
    assert index.sums == []


async def test_stock_in_between_does_not_disturb_a_rating() -> None:
    index = Index()
    products, other = documents(index), documents(index)
    await products.apply([product(1)])
    index.sums = [(9, 2)]
    asked = products.refresher.shown

    async def shown() -> None:
        await asked()
        await other.apply([stock("a", 1, 5)])

    products.refresher.shown = shown  # type: ignore[method-assign]
    assert await rate(index, products) == APPLIED
    assert (index.document("p")["rating_sum"], index.document("p")["stock"]) == (9, 5)


async def test_a_rating_before_its_product_makes_an_unlisted_document() -> None:
    index = Index()
    index.sums = [(4, 1)]
    products = documents(index)
    assert await rate(index, products) == APPLIED
    assert index.document("p")["listed"] is False
    await products.apply([product(1)])
    assert (index.document("p")["listed"], index.document("p")["rating_average"]) == (True, "4.00")


def test_recent_documents_stay_within_their_bytes() -> None:
    recent = Recent(100 + 2 * ENTRY_BYTES)
    for number in range(4):
        recent.put(str(number), Held(b"x" * 40, number, 1))
        recent.get("0")
    assert recent.get("0") is not None
    assert recent.get("1") is recent.get("2") is None
    assert recent.get("3") == Held(b"x" * 40, 3, 1)
    recent.put("3", Held(b"older", 2, 1))
    assert recent.get("3") == Held(b"x" * 40, 3, 1)
    recent.put("3", Held(b"next term", 0, 2))
    assert recent.get("3") == Held(b"next term", 0, 2)
    recent.put("huge", Held(b"x" * (101 + ENTRY_BYTES), 9, 1))
    assert recent.get("huge") is None


def test_only_what_was_tried_is_refuted() -> None:
    recent = Recent(100 + 2 * ENTRY_BYTES)
    tried, newer = Held(b"a", 1, 1), Held(b"b", 2, 1)
    recent.put("p", newer)
    recent.refute("p", tried)
    assert recent.get("p") == newer
    recent.refute("p", newer)
    assert recent.get("p") is None
