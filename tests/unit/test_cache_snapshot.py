"""Which transactions a snapshot of the primary shows."""

import pytest

from processors.sinks.cache.primary import ANCIENT_BYTES, XIDS, Snapshot

NOW = 10 * ANCIENT_BYTES


@pytest.mark.parametrize(
    ("transaction", "shown"),
    [(99, True), (100, False), (101, True), (105, False), (109, True), (110, False), (111, False), (5_000, False)],
)
def test_running_and_later_transactions_are_not_shown(transaction: int, shown: bool) -> None:
    assert Snapshot.parse("100:110:100,105", NOW).shows(transaction, NOW - 8) is shown


def test_no_running_transaction() -> None:
    assert Snapshot.parse("110:110:", NOW) == Snapshot(110, frozenset(), NOW)


@pytest.mark.parametrize("epoch", [1, 2, 77])
def test_ids_are_compared_across_the_wrap(epoch: int) -> None:
    xmax = epoch * XIDS + 3
    snapshot = Snapshot.parse(f"{xmax - 10}:{xmax}:{xmax - 10},{xmax - 3}", NOW)
    assert not snapshot.shows((xmax - 10) % XIDS, NOW - 8)  # from before the wrap, still running
    assert snapshot.shows((xmax - 9) % XIDS, NOW - 8)
    assert not snapshot.shows(0, NOW - 8)  # the first after the wrap, still running
    assert snapshot.shows(2, NOW - 8)
    assert not snapshot.shows(3, NOW - 8)
    assert not snapshot.shows(1_000, NOW - 8)


def test_a_replayed_record_whose_id_has_come_round_again_does_not_wait_for_ever() -> None:
    snapshot = Snapshot(5 * XIDS + 100, frozenset(), NOW)
    assert not snapshot.shows(2_000, NOW - ANCIENT_BYTES)
    assert snapshot.shows(2_000, NOW - ANCIENT_BYTES - 1)
    assert not snapshot.shows(2_000, 0)  # nothing known of its age: rather wait than acknowledge unchecked


def test_an_id_that_runs_again_is_waited_for_however_old_the_record() -> None:
    assert not Snapshot(5 * XIDS + 100, frozenset({50}), NOW).shows(50, 8)
