"""Documents of our own in several versions: each reader takes what each writer wrote, both ways, or says that it can't."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import memory
from connectors.health import Remembered
from downriver.versions import Document, Step, UnknownVersion, Versions
from processors.propagation.state import State
from schemas import agreed
from schemas.agreed import Agreed, Agreements
from schemas.registry import RegistryAway
from schemas.rows import Column
from tests.support.ccompat import Ccompat


def split(order: Document) -> Document:
    """1 → 2: the customer's name becomes two."""
    first, _, last = order.pop("name").partition(" ")
    return order | {"first": first, "last": last}


def joined(order: Document) -> Document:
    """2 → 1."""
    return order | {"name": f"{order.pop('first')} {order.pop('last')}".rstrip()}


def grouped(order: Document) -> Document:
    """2 → 3: the customer is a thing of its own, and an amount gets its currency, which was EUR in effect."""
    customer = {name: order.pop(name) for name in ("first", "last")}
    return order | {"customer": customer, "total": {"amount": order["total"], "currency": "EUR"}}


def flat(order: Document) -> Document:
    """3 → 2: who knows no currency is told the amount."""
    customer: Document = order.pop("customer")
    return order | customer | {"total": order["total"]["amount"]}


ORDER = Versions("order.updated", (Step(split, joined), Step(grouped, flat)))
NAMES = st.text("abc", min_size=1, max_size=5)
ORDERS = st.builds(
    lambda first, last, total: {"name": f"{first} {last}", "total": total}, NAMES, NAMES, st.integers(0, 10**6)
)


def seen(document: Document, version: int) -> tuple[str, int]:
    """What a consumer that was written for one version makes of an event."""
    if version == 1:
        return document["name"], document["total"]
    if version == 2:
        return f"{document['first']} {document['last']}", document["total"]
    return f"{document['customer']['first']} {document['customer']['last']}", document["total"]["amount"]


@given(ORDERS, st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]))
def test_consumers_of_every_version_read_producers_of_every_version(order: Document, written: int, read: int) -> None:
    sent = ORDER.cast(order, 1, written)
    before = orjson.dumps(sent)
    assert seen(ORDER.cast(sent, written, read), read) == seen(order, 1)
    assert orjson.dumps(sent) == before, "what was sent is not touched"


@given(ORDERS)
def test_there_and_back_is_what_it_was(order: Document) -> None:
    assert ORDER.cast(ORDER.cast(order, 1), ORDER.newest, 1) == order


def test_what_only_the_newer_can_say_is_left_out_for_the_older() -> None:
    newest = {"customer": {"first": "ada", "last": "l"}, "total": {"amount": 5, "currency": "USD"}, "gift": True}
    assert ORDER.cast(newest, 3, 1) == {"name": "ada l", "total": 5, "gift": True}


@pytest.mark.parametrize(("written", "wanted"), [(4, None), (4, 1), (1, 4), (0, None), (1, 0)])
def test_a_version_that_is_not_known_is_refused(written: int, wanted: int | None) -> None:
    with pytest.raises(UnknownVersion, match=r"order.updated of version [04]: this program knows 1 to 3; upgrade it"):
        ORDER.cast({}, written, wanted)


def test_the_type_of_an_event_tells_its_kind_and_version() -> None:
    assert [ORDER.named(1), ORDER.named()] == ["order.updated.v1", "order.updated.v3"]
    told = ["order.updated.v1", "order.updated.v12", "order.updated.v", "order.updated", "order.updated.view.v1", "v1"]
    assert [ORDER.version_in(each) for each in told] == [1, 12, None, None, None, None]
    assert ORDER.version_in("order.updated.v\N{SUPERSCRIPT TWO}") is None


REMEMBERED = Remembered("system", 2, 50, "c", 100, {"slot-missing": "why"}, "source-promoted")


def test_a_guard_reads_what_an_older_and_a_newer_one_wrote() -> None:
    held = orjson.loads(memory.encode(REMEMBERED))
    older = {key: value for key, value in held.items() if key not in {"version", "stopped"}}
    assert memory.decode(orjson.dumps(older)) == Remembered("system", 2, 50, "c", 100, {"slot-missing": "why"})
    assert memory.decode(orjson.dumps(held | {"added": [1]})) == REMEMBERED
    with pytest.raises(UnknownVersion, match="what the guard remembers of version 2: this program knows 1"):
        memory.decode(orjson.dumps(held | {"version": 2}))


def note(**more: Any) -> dict[str, Any]:
    document = Agreed().seen({"brand": Column("string", nullable=True)}, 7).document("topic", 1)
    document[agreed.ATTRIBUTE] |= more
    return document


def test_a_worker_reads_the_notes_of_an_older_and_a_newer_one() -> None:
    wanted = agreed.read(note())
    older = note()
    del older[agreed.ATTRIBUTE]["version"]
    assert agreed.read(older) == wanted
    newer = note(added=1)
    newer[agreed.ATTRIBUTE]["columns"]["brand"]["comment"] = "new"
    assert agreed.read(newer) == wanted


def test_a_worker_waits_where_it_can_not_read_the_note() -> None:
    registry = Ccompat()
    client = registry.client()
    client.register(f"topic{agreed.SUFFIX}", note(version=2))
    notes = Agreements(client)
    told = "topic-agreed in the registry: a note of version 2: this program knows 1"
    with pytest.raises(RegistryAway, match=told):
        notes.read("topic")
    with pytest.raises(RegistryAway, match=told):
        notes.update("topic", lambda held: held.accept("brand"))


def test_a_worker_reads_the_figures_of_an_older_and_a_newer_one() -> None:
    held = orjson.loads(State(5, {}, 1, 2.5).encode())
    assert State.decode(orjson.dumps(held | {"added": 1})) == State(5, {}, 1, 2.5)
    with pytest.raises(UnknownVersion, match="a propagation state of version 2"):
        State.decode(orjson.dumps(held | {"form": 2}))
