"""How often the guard restarts, and how fast a re-read may go: by a clock of the test's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from connectors.guard import Attempts, Limits
from connectors.reread import Pace

LIMITS = Limits(restarts=4, pause_s=10, pause_max_s=30, calm_s=100)


def test_restarts_come_with_growing_pauses_and_end() -> None:
    attempts = Attempts()
    times = [second for second in range(200) if attempts.due(float(second), LIMITS)]
    assert times == [0, 10, 30, 60]
    assert [attempts.spent(float(second), LIMITS) for second in (89, 90, 91)] == [False, True, False], "told once"


def test_after_a_calm_time_counting_begins_anew() -> None:
    attempts = Attempts()
    for second in (0, 10, 30, 60):
        assert attempts.due(float(second), LIMITS)
    attempts.well(150.0, LIMITS)
    assert not attempts.due(155.0, LIMITS)
    attempts.well(256.0, LIMITS)
    assert attempts.due(257.0, LIMITS)


def test_no_restart_where_none_is_wanted() -> None:
    assert not Attempts().due(0.0, Limits(restarts=0))


@given(
    batches=st.lists(st.tuples(st.integers(1, 500), st.integers(0, 10**7)), min_size=1, max_size=50),
    rows_per_s=st.floats(1, 1e4),
    bytes_per_s=st.floats(1e3, 1e8),
)
def test_a_pace_is_never_exceeded(batches: list[tuple[int, int]], rows_per_s: float, bytes_per_s: float) -> None:
    pace, now_s, rows, size = Pace(rows_per_s, bytes_per_s), 0.0, 0, 0
    for more, bigger in batches:
        rows, size = rows + more, size + bigger
        now_s += pace.wait_s(rows, size, now_s)
        assert rows <= rows_per_s * now_s * (1 + 1e-9) + 1e-6
        assert size <= bytes_per_s * now_s * (1 + 1e-9) + 1e-3
    assert now_s <= max(rows / rows_per_s, size / bytes_per_s) * (1 + 1e-9), "and never slower than it must be"


def test_a_pace_without_limits_waits_for_nothing() -> None:
    assert Pace(0, 0).wait_s(10**9, 10**12, 0.0) == 0
    assert (Pace(0, 0, 200).batch_rows, Pace(50, 0, 200).batch_rows, Pace(0.5, 0, 200).batch_rows) == (200, 50, 1)
