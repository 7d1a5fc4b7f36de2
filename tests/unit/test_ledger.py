"""The ledger never lets a commit pass a batch that is not delivered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from processors.engine.batch import Batch, Partition
from processors.engine.ledger import Ledger

P = Partition("t", 0)
Q = Partition("t", 1)


def batch(next_offset: int, partition: Partition = P) -> Batch:
    return Batch(partition, (), next_offset)


def test_nothing_is_committable_before_a_delivery() -> None:
    ledger = Ledger()
    ledger.taken(batch(5))
    assert ledger.committable(P) is None


def test_the_prefix_ends_at_the_first_batch_in_flight() -> None:
    ledger = Ledger()
    first, second, third = batch(5), batch(10), batch(15)
    for item in (first, second, third):
        ledger.taken(item)
    ledger.delivered(third)
    ledger.delivered(second)
    assert ledger.committable(P) is None
    ledger.delivered(first)
    assert ledger.committable(P) == 15


def test_a_stuck_batch_holds_back_only_its_own_partition() -> None:
    ledger = Ledger()
    stuck, other = batch(5), batch(7, Q)
    ledger.taken(stuck)
    ledger.taken(other)
    ledger.delivered(other)
    assert (ledger.committable(P), ledger.committable(Q)) == (None, 7)


def test_a_batch_from_before_a_revocation_does_not_count_after_it() -> None:
    ledger = Ledger()
    old = batch(5)
    ledger.taken(old)
    ledger.forget([P])
    again = batch(5)
    ledger.taken(again)
    ledger.delivered(old)
    assert ledger.committable(P) is None
    ledger.delivered(again)
    assert ledger.committable(P) == 5


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.integers(0, n))))
def test_any_order_of_deliveries_commits_the_longest_prefix(case: tuple[list[int], int]) -> None:
    order, count = case
    ledger = Ledger()
    batches = [batch((index + 1) * 3) for index in range(len(order))]
    for item in batches:
        ledger.taken(item)
    done: set[int] = set()
    for index in order[:count]:
        ledger.delivered(batches[index])
        done.add(index)
        prefix = next((i for i in range(len(batches)) if i not in done), len(batches))
        assert ledger.committable(P) == (prefix * 3 or None)
        assert ledger.in_flight(P) == len(batches) - prefix
