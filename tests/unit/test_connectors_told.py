"""What a plan shows: each setting that differs and no other, never a secret, the same for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from connectors import told
from connectors.connect import ConnectClient, Status, Task
from connectors.connector import Connector, State
from connectors.consequences import Consequence, Weight
from connectors.plan import Difference, Item, Plan, Step, compared, make, moves, summary
from downriver.settings import load

KEYS = st.sampled_from(["a", "b.c", "poll.interval.ms", "database.password", "x.token", "y.url"])
VALUES = st.sampled_from(["1", "hunter2", "${env:P}", "http://me:hunter2@host/"])
CONFIGS = st.dictionaries(KEYS, VALUES, max_size=6)


class Connect(ConnectClient):
    """Answers from memory."""

    def __init__(self, live: Mapping[str, str], state: str = "RUNNING", tasks: tuple[str, ...] = ("RUNNING",)) -> None:
        self.live = dict(live)
        self.now = Status(state, "", tuple(Task(number, each, "") for number, each in enumerate(tasks)))

    def config(self, name: str) -> dict[str, str] | None:
        return self.live

    def status(self, name: str) -> Status | None:
        return self.now


def differences(live: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, Difference]:
    """Plan without judging: an unchanged connector asks nobody, a changed one is only compared here."""

    item = compared(Connect(live), Connector("a", wanted, "memory"))
    return {each.key: each for each in item.differences}


@given(live=CONFIGS, wanted=CONFIGS)
def test_each_setting_that_differs_is_told_and_no_other(live: dict[str, str], wanted: dict[str, str]) -> None:
    found = differences(live, wanted)
    assert set(found) == {key for key in live | wanted if live.get(key) != wanted.get(key)}
    for key, each in found.items():
        assert (each.live is None, each.wanted is None) == (key not in live, key not in wanted)


@given(live=CONFIGS, wanted=CONFIGS)
def test_a_secret_is_never_told_where_the_key_or_the_address_says_that_it_is_one(
    live: dict[str, str], wanted: dict[str, str]
) -> None:
    secret = {"database.password", "x.token", "y.url"}
    live, wanted = ({key: value for key, value in each.items() if key in secret} for each in (live, wanted))
    live.pop("y.url", None) if live.get("y.url") == "hunter2" else None
    wanted.pop("y.url", None) if wanted.get("y.url") == "hunter2" else None
    shown = tuple(differences(live, wanted).values())
    plan = Plan((Item("a", Step.UPDATE, "RUNNING", "RUNNING", shown),))
    assert "hunter2" not in orjson.dumps(told.plan_records(plan)).decode() + "".join(told.plan_lines(plan))


def test_an_unchanged_connector_asks_nobody() -> None:
    plan = make(load(), Connect({"a": "1"}), [Connector("a", {"a": "1"}, "memory")])
    assert [item.step for item in plan.items] == [Step.NONE]
    assert not plan.changes


def test_a_failed_task_is_a_failed_connector() -> None:
    assert summary(Status("RUNNING", "", (Task(0, "FAILED", "why"),))) == "FAILED"
    assert summary(Status("PAUSED", "", ())) == "PAUSED"


def test_one_that_connect_is_assigning_is_left_to_it() -> None:
    assert [moves(live, State.RUNNING) for live in ("RUNNING", "UNASSIGNED", "RESTARTING", "PAUSED", "FAILED")] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_the_terminal_shows_values_as_they_are_and_says_what_apply_needs() -> None:
    item = Item(
        "a",
        Step.UPDATE,
        "PAUSED",
        "RUNNING",
        (Difference("p", "[bold]x", None), Difference("q.password", "***", "***")),
        (Consequence("new-slot", Weight.ALLOW, "it [ends]", "don't"), Consequence("no-key", Weight.BLOCKS, "none")),
    )
    lines = [
        Text.from_markup(line).plain for line in told.plan_lines(Plan((item, Item("b", Step.NONE, "RUNNING", ""))))
    ]
    assert lines == [
        "~ a  is updated: 2 setting(s), PAUSED → RUNNING",
        '    p           "[bold]x" → (not set)',
        "    q.password  *** → ***  (changed; secrets are not shown)",
        "    needs --allow new-slot: it [ends]",
        "        → don't",
        "    blocks no-key: none",
        "= b  unchanged, RUNNING",
        "",
        "plan: 1 to update (1 unchanged)",
        "apply needs: --allow new-slot",
        "apply refuses this plan: what blocks must be mended first",
    ]


def test_programs_get_the_name_that_apply_wants() -> None:
    item = Item("a", Step.CREATE, "", "RUNNING", (), (Consequence("new-slot", Weight.ALLOW, "text", "way"),))
    (record,) = told.plan_records(Plan((item,)))
    assert record["state"] == {"live": None, "wanted": "RUNNING"}
    assert record["consequences"] == [
        {"name": "new-slot", "weight": "allow", "allow": "new-slot", "text": "text", "way_out": "way"}
    ]
