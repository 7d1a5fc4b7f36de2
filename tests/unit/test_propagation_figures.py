"""Figures: the quantiles are as near as promised, and adding, storing and taking apart changes nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.propagation.figures import ACCURACY, UNIT_S, Figures, bucket, middle_s
from processors.propagation.state import State, StateKey

latencies = st.lists(
    st.floats(-4000, 4_000_000, allow_nan=False) | st.sampled_from([0.0, UNIT_S, -UNIT_S, 0.0004, 60.0, 60.001]),
    min_size=1,
    max_size=60,
)


def figures_of(values: list[float], limit_s: float | None = 60.0) -> Figures:
    figures = Figures()
    for value in values:
        figures.add(value, limit_s)
    return figures


@given(latencies, st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_the_accuracy_of_the_exact_one(values: list[float], share: float) -> None:
    exact = sorted(values)[int(share * (len(values) - 1))]
    found = figures_of(values).quantile_s(share)
    assert found is not None
    assert abs(found - exact) <= max(abs(exact) * ACCURACY * 1.000001, UNIT_S)


@given(st.floats(0.0011, 1e9))
def test_buckets_are_ordered_and_signed(value: float) -> None:
    assert bucket(value) > 0 > bucket(-value) == -bucket(value)
    assert bucket(value * 1.03) > bucket(value)
    assert middle_s(bucket(-value)) == -middle_s(bucket(value))


@given(latencies, latencies)
def test_merging_is_as_if_all_had_been_added_to_one(first: list[float], second: list[float]) -> None:
    merged, whole = figures_of(first), figures_of(first + second)
    merged.merge(figures_of(second))
    assert merged.sum_s == pytest.approx(whole.sum_s)
    merged.sum_s = whole.sum_s
    assert merged == whole


@given(latencies)
def test_they_survive_storing(values: list[float]) -> None:
    state = State(7, {"prices": figures_of(values), "none": Figures()}, 3, 1.5)
    assert State.decode(state.encode()) == state


@given(latencies, latencies)
def test_since_is_what_was_added_later(first: list[float], second: list[float]) -> None:
    later = figures_of(first + second).since(figures_of(first))
    wanted = figures_of(second)
    assert (later.count, later.late, later.negative, +later.buckets) == (
        wanted.count,
        wanted.late,
        wanted.negative,
        +wanted.buckets,
    )
    assert abs(later.max_s - wanted.max_s) <= max(abs(wanted.max_s) * 2.1 * ACCURACY, UNIT_S)
    assert abs(later.min_s - wanted.min_s) <= max(abs(wanted.min_s) * 2.1 * ACCURACY, UNIT_S)


def test_nothing_since_is_empty() -> None:
    figures = figures_of([1.0])
    assert figures.since(figures_of([1.0])) == Figures()
    assert Figures().quantile_s(0.5) is None


def test_late_is_over_the_limit_not_at_it_and_negative_keeps_its_sign() -> None:
    figures = figures_of([60.0, 60.0001, -2.0])
    assert (figures.count, figures.late, figures.negative) == (3, 1, 1)
    assert figures.min_s == -2.0
    assert figures.sum_s == pytest.approx(118.0001)
    assert figures.quantile_s(0.0) == pytest.approx(-2.0, rel=ACCURACY)


def test_weights_count_as_often() -> None:
    once = Figures()
    once.add(2.0, 1.0, times=3)
    assert once == figures_of([2.0, 2.0, 2.0], 1.0)


@pytest.mark.parametrize(
    "stored",
    [b"", b"null", b"{}", b"[1]", b'{"form":1,"accuracy":0.01}', b'{"form":1,"accuracy":0.02}'],
)
def test_what_is_no_state_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match="no propagation state"):
        State.decode(stored)


def test_a_sketch_that_does_not_add_up_is_refused() -> None:
    stored = figures_of([1.0]).as_json() | {"count": 2}
    with pytest.raises(ValueError, match="the sketch holds 1"):
        Figures.from_json(stored)


@pytest.mark.parametrize("key", [None, b"", b"{}", b'["a","b"]', b'["a","b","c"]', b"\xff"])
def test_what_is_no_key_is_refused(key: bytes | None) -> None:
    with pytest.raises(ValueError, match="no key"):
        StateKey.decode(key)


def test_a_key_is_compact_json() -> None:
    key = StateKey("cache", "shop_inventory.public.inventory", 3)
    assert key.encode() == b'["cache","shop_inventory.public.inventory",3]'
    assert StateKey.decode(key.encode()) == key


def test_empty_figures_have_infinite_extremes() -> None:
    assert Figures().min_s == math.inf
    assert Figures().max_s == -math.inf
