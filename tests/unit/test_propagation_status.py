"""The judgement: late beats unknown beats ok, and what stands still is never ok. And how it is shown."""

import io

import orjson
import pytest
from rich.console import Console

from connectors import files
from downriver.exits import BadInput
from downriver.output import Format
from downriver.settings import Settings
from processors.propagation import commands
from processors.propagation.arrival import Missing, spell_lsn, streamed_lsn
from processors.propagation.capture import LaneCapture, age_s, connectors_by_lane
from processors.propagation.figures import Figures
from processors.propagation.monitor import feeding, kind_of
from processors.propagation.status import Health, Standing, Status, judge
from processors.tables.base import Lane

AWAY = "Kafka at 127.0.0.1:9 is away: no broker answers"
FINE = {Lane.INVENTORY: LaneCapture(0.0, 16)}


def figures_of(*latencies_s: float, limit_s: float | None = 60.0) -> Figures:
    figures = Figures()
    for latency_s in latencies_s:
        figures.add(latency_s, limit_s)
    return figures


@pytest.mark.parametrize(
    ("figures", "oldest_s", "unread", "capture", "problems", "state", "shown_s", "why"),
    [
        (figures_of(1.0), None, 0, FINE, (), Health.OK, 0.0, ""),
        (figures_of(1.0), 60.0, 0, FINE, (), Health.OK, 60.0, ""),
        (figures_of(1.0, 61.0), None, 0, FINE, (), Health.LATE, 0.0, "1 late"),
        (figures_of(), 61.0, 0, FINE, (), Health.LATE, 61.0, "a change has been unseen for 61 s"),
        (figures_of(), None, 5, FINE, (), Health.UNKNOWN, None, "5 records not looked at yet"),
        (figures_of(), 10.0, 5, FINE, (), Health.UNKNOWN, 10.0, "5 records not looked at yet"),
        (
            figures_of(),
            None,
            0,
            FINE,
            (AWAY,),
            Health.UNKNOWN,
            None,
            "Kafka is away",
        ),
        (
            figures_of(70.0),
            None,
            0,
            FINE,
            (AWAY,),
            Health.LATE,
            None,
            "1 late",
        ),
        (
            figures_of(1.0),
            None,
            0,
            {Lane.INVENTORY: LaneCapture(61.0)},
            (),
            Health.LATE,
            0.0,
            "capture of inventory is 61 s behind",
        ),
        (
            figures_of(1.0),
            None,
            0,
            {Lane.INVENTORY: LaneCapture(None)},
            (),
            Health.UNKNOWN,
            0.0,
            "no heartbeat of inventory was ever captured",
        ),
        (
            figures_of(1.0),
            None,
            0,
            {Lane.INVENTORY: LaneCapture(1.0, None, "the slot is gone")},
            (),
            Health.UNKNOWN,
            0.0,
            "the slot is gone",
        ),
    ],
)
def test_the_judgement(
    figures: Figures,
    oldest_s: float | None,
    unread: int,
    capture: dict[Lane, LaneCapture],
    problems: tuple[str, ...],
    state: Health,
    shown_s: float | None,
    why: str,
) -> None:
    standing = judge(figures, 60.0, oldest_s, unread, capture, problems)
    assert (standing.state, standing.oldest_s, standing.why) == (state, shown_s, why)


def test_without_a_limit_nothing_is_late() -> None:
    capture = {Lane.ACCOUNTS: LaneCapture(9000.0)}
    assert judge(figures_of(9000.0, limit_s=None), None, 9000.0, 0, capture, ()).state is Health.OK


def status_of(standing: Standing, *problems: str) -> Status:
    return Status(
        100.0,
        {"inventory": 60.0, "other": None},
        {("inventory", "cache"): standing, ("other", "cache"): Standing(Figures(), 0.0, Health.OK)},
        {Lane.INVENTORY: LaneCapture(0.25, 1 << 20)},
        {"cache": 2},
        problems,
    )


def test_the_object_for_programs() -> None:
    standing = judge(figures_of(1.0, -0.5, 61.0), 60.0, 3.25, 0, FINE, ())
    shown = orjson.loads(orjson.dumps(status_of(standing).as_json()))
    assert shown["ok"] is False
    assert shown["rules"]["inventory"]["limit_s"] == 60.0
    cache = shown["rules"]["inventory"]["sinks"]["cache"]
    assert (cache["count"], cache["late"], cache["negative"], cache["oldest_s"]) == (3, 1, 1, 3.25)
    assert (cache["max_s"], cache["state"]) == (61.0, "late")
    assert cache["p50_s"] == pytest.approx(1.0, rel=0.01)
    assert shown["rules"]["other"]["sinks"]["cache"]["p99_s"] is None
    assert shown["capture"] == {"inventory": {"age_s": 0.25, "retained_bytes": 1 << 20, "problem": ""}}
    assert shown["dead_letters"] == {"cache": 2}


def test_ok_needs_every_rule_ok_and_nobody_away() -> None:
    fine = Standing(figures_of(1.0), 0.0, Health.OK)
    assert status_of(fine).ok
    assert not status_of(fine, "Kafka is away").ok
    assert not status_of(Standing(Figures(), None, Health.UNKNOWN)).ok


def test_the_page_for_people() -> None:
    page = io.StringIO()
    standing = judge(figures_of(0.045, 61.0), 60.0, None, 1234, FINE, ())
    Console(file=page, width=200).print(commands.page(status_of(standing)))
    lines = [line.split() for line in page.getvalue().splitlines()]
    assert lines[1][:7] == ["inventory", "cache", "60", "s", "2", "45", "ms"]
    assert lines[1][-2:] == ["?", "late"]
    assert ["late:", "inventory", "at", "cache:", "1", "late"] in lines
    assert ["inventory", "250", "ms", "1.0", "MiB"] in lines
    assert ["Dead", "letters:", "cache", "2"] in lines


def test_the_rules_are_listed_with_the_sinks_they_hold_for(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    commands.rules(Format.JSON)
    listed = orjson.loads(capfdbinary.readouterr().out)
    assert [(each["rule"], each["counts"], each["limit_s"]) for each in listed] == [
        ("inventory", "public.inventory: any change", 60),
        ("reviews", "public.reviews: any change", 120),
        ("prices", "public.products: updates of price, currency", 300),
    ]
    assert {each["sinks"] for each in listed} == {"cache, search, analytics"}


def test_beats_come_in_intervals() -> None:
    (connector,) = (each for each in files.load() if each.name == "downriver_inventory")
    interval_s = int(connector.config["heartbeat.interval.ms"]) / 1000
    assert age_s(None, connector, 100.0) is None
    assert age_s(99.9, connector, 100.0) == 0.0
    assert age_s(70.0, connector, 100.0) == 30.0 - interval_s


def test_every_lane_has_its_connector() -> None:
    found = connectors_by_lane(Settings(), files.load())
    assert {lane: connector.slot for lane, connector in found.items()} == {
        lane: f"downriver_{lane}" for lane in (Lane.INVENTORY, Lane.CATALOG, Lane.ACCOUNTS)
    }
    with pytest.raises(BadInput, match=r"topic\.prefix other_inventory, other_catalog, other_accounts, which"):
        connectors_by_lane(Settings(source="other"), files.load())


def test_an_instance_is_of_its_kind() -> None:
    assert [kind_of(name) for name in ("cache", "cache-eu", "cached")] == ["cache", "cache", "cached"]
    assert feeding("search-2") == feeding("search") != []
    assert feeding("unheard") == []


@pytest.mark.parametrize(
    ("offsets", "lsn"),
    [
        ([], 0),
        ([{"lsn": 5, "snapshot": "INITIAL"}], 0),
        ([{"lsn": 5}], 5),
        ([{"lsn": 5, "lsn_commit": 9, "lsn_proc": 7, "snapshot": None}], 9),
        ([{"lsn": None, "lsn_proc": "7"}], 7),
    ],
)
def test_how_far_a_connector_has_streamed(offsets: list[dict[str, object]], lsn: int) -> None:
    assert streamed_lsn(offsets) == lsn


def test_what_is_missing_is_spelt_out() -> None:
    assert spell_lsn(0x1_016B_3748) == "1/16B3748"
    assert str(Missing("inventory", "", -1, 0, 255)) == "lane inventory: captured up to 0/0, wanted 0/FF"
    assert str(Missing("cache", "t", 3, 1, 2)) == "cache: t/3 is visible up to 1 of 2"
