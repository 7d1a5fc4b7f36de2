"""The cleaner that stays: what a round tells, what it counts, and what ends it.

What it removes: tests/integration/test_outbox.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from connectors import cleaner, live
from connectors.clean import Cleaned
from connectors.cleaner import Metrics, rounds
from connectors.connector import Connector
from connectors.files import load
from downriver.exits import BadInput, DownriverError, ServerAway
from downriver.settings import Settings
from tests.support.commands import Commands

(EVENTS,) = (connector for connector in load() if connector.name == "downriver_events")
SETTINGS = Settings.model_construct()
DONE = [Cleaned("downriver_events", "public.outbox", 7)]


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[list[Cleaned] | DownriverError]:
    """What each cleaning comes to, in order; the cleaner under test takes them from here."""
    left: list[list[Cleaned] | DownriverError] = []

    def clean(_: Settings, __: Connector, keep_s: float, wait_s: float) -> list[Cleaned]:
        assert (keep_s, wait_s) == (10, 1)
        outcome = left.pop(0)
        if isinstance(outcome, DownriverError):
            raise outcome
        return outcome

    monkeypatch.setattr(cleaner, "clean", clean)
    return left


def started(
    metrics: Metrics, slept: list[float], connectors: tuple[Connector, ...] = (EVENTS,)
) -> Iterator[cleaner.Round]:
    return rounds(SETTINGS, connectors, 10, 1, 600, metrics, slept.append)


def shown(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"connector": EVENTS.name, **labels})


def test_what_goes_wrong_is_told_and_tried_again(outcomes: list[list[Cleaned] | DownriverError]) -> None:
    outcomes += [ServerAway("PostgreSQL is away"), DownriverError("slot is behind"), DONE, DONE]
    metrics, slept = Metrics(), list[float]()
    running = started(metrics, slept)
    assert [next(running).problem for _ in range(2)] == ["PostgreSQL is away", "slot is behind"]
    assert shown(metrics, "downriver_outbox_cleaned_timestamp_seconds") == 0
    for times in (1, 2):
        found = next(running)
        assert (found.connector, found.cleaned, found.problem) == (EVENTS.name, DONE, "")
        assert shown(metrics, "downriver_outbox_removed_rows_total", table="public.outbox") == 7 * times
        assert shown(metrics, "downriver_outbox_cleaned_timestamp_seconds") == pytest.approx(found.at_s, abs=5)
    assert len(slept) == 3
    assert all(590 < each <= 600 for each in slept)


def test_one_connector_s_trouble_is_not_the_other_s(outcomes: list[list[Cleaned] | DownriverError]) -> None:
    outcomes += [DownriverError("lost"), DONE]
    slept = list[float]()
    running = started(Metrics(), slept, (EVENTS, EVENTS))
    assert [(each.problem, each.cleaned) for each in (next(running), next(running))] == [("lost", ()), ("", DONE)]
    assert slept == []


def test_what_no_round_can_mend_ends_it(outcomes: list[list[Cleaned] | DownriverError]) -> None:
    outcomes += [BadInput("permission denied")]
    with pytest.raises(BadInput, match="permission denied"):
        next(started(Metrics(), []))


def test_a_port_for_metrics_belongs_to_one_that_stays_and_must_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Commands(monkeypatch, SETTINGS, [EVENTS])
    assert live.wanted(SETTINGS) == {EVENTS.name: EVENTS}
    once = run("clean-outbox", "--metrics-port", "1")
    assert (once.code, "give --every" in once.told) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("clean-outbox", "--every", "9", "--metrics-port", str(port))
    assert (refused.code, f"--metrics-port {port} on 127.0.0.1" in refused.told) == (2, True)


@pytest.mark.parametrize("command", [("guard",), ("clean-outbox", "--every", "9")])
def test_metrics_are_served_on_the_worker_s_host(monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    elsewhere = SETTINGS.model_copy(update={"worker": SETTINGS.worker.model_copy(update={"host": "192.0.2.1"})})
    refused = Commands(monkeypatch, elsewhere, [EVENTS])(*command, "--metrics-port", "1")
    assert (refused.code, "--metrics-port 1 on 192.0.2.1 (worker.host) can't be opened" in refused.told) == (2, True)
