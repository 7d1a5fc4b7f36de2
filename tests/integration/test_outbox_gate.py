"""What `schemas gate` says of the outbox, and what Debezium then does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from downriver.settings import Settings
from schemas.contracts import load as contracts
from schemas.gate.effects import Verdict
from schemas.gate.judge import Judgement, judge
from tests.integration.test_outbox import events, insert, until_id
from tests.support.lane import OwnLane, own_lane, until

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def lane(settings: Settings) -> Iterator[OwnLane]:
    with own_lane(settings, "events") as made:
        made.start()
        yield made


def gate(lane: OwnLane, folder: Path, text: str) -> Judgement:
    path = folder / "migration.sql"
    path.write_text(text)
    return judge(lane.settings, [lane.connector], contracts(source=lane.settings.source), [path])


def test_what_does_not_touch_the_events_is_told_and_harmless(lane: OwnLane, tmp_path: Path) -> None:
    text = "ALTER TABLE outbox ADD COLUMN tenant text NOT NULL DEFAULT 'a', ALTER type TYPE varchar(200);"
    judged = gate(lane, tmp_path, text + "\nDELETE FROM outbox;")
    (effect,) = judged.effects
    assert (effect.table, effect.verdict, effect.before) == ("public.outbox", Verdict.SAME, [])
    assert effect.why[0].startswith("an outbox: its rows leave as events")
    assert judged.schemas == {}
    assert [note.partition(": ")[2] for note in judged.notes] == [
        "changes rows of public.outbox: what it inserts is sent as events, and nothing else of it"
    ]
    before = insert(lane, "migrated", "1")
    lane.execute(text)
    after = insert(lane, "migrated", "1")
    assert [event.id for event in events(lane, "migrated", until_id(after))] == [before, after]
    assert gate(lane, tmp_path, "CREATE TABLE elsewhere (n int);").effects == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("DROP TABLE outbox;", "public.outbox is dropped"),
        ("ALTER TABLE outbox RENAME TO mail;", "public.outbox is renamed to public.mail"),
        ("ALTER PUBLICATION {publication} DROP TABLE outbox;", "public.outbox leaves the publication"),
        ("ALTER TABLE outbox RENAME COLUMN payload TO body;", "public.outbox.payload goes"),
    ],
)
def test_what_ends_the_events_is_told(lane: OwnLane, tmp_path: Path, text: str, why: str) -> None:
    (effect,) = gate(lane, tmp_path, text.format(publication=lane.connector.publication)).effects
    assert (effect.verdict, len(effect.before)) == (Verdict.BREAKS, 1)
    assert effect.why[0].startswith(why)


def test_a_column_that_the_router_asks_for_stops_the_events_as_foretold(lane: OwnLane, tmp_path: Path) -> None:
    text = "ALTER TABLE outbox DROP COLUMN user_id;"
    (effect,) = gate(lane, tmp_path, text).effects
    assert (effect.verdict, effect.why[0].split(",")[0]) == (Verdict.BREAKS, "public.outbox.user_id goes")
    lane.execute(text)
    insert(lane, "broken", "1")
    until(lambda: "FAILED" in lane.state(), "the task fails")
