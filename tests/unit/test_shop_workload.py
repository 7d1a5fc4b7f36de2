"""The workload's planner: same seed, same choices; hot products; every kind of step; an account that adds up."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random
from uuid import UUID

from shop.workload.mix import SHARES, long_step, steps
from shop.workload.run import Committed
from shop.workload.transaction import Step
from shop.workload.world import Popular, World


def ids(count: int, kind: int) -> list[UUID]:
    return [UUID(int=kind << 64 | number) for number in range(count)]


def world(seed: int = 1, products: int = 1_000) -> World:
    random = Random(seed)
    return World(
        random=random,
        products=Popular(ids(products, 1), random),
        users=Popular(ids(max(1, products // 2), 2), random),
        reviews=ids(products, 3),
        orders=dict.fromkeys(ids(products // 10, 4), 3),
        categories=["Books", "Tools"],
    )


def plan(seed: int, count: int = 2_000) -> tuple[list[tuple[str, int]], tuple[object, ...]]:
    """Return the names and sizes of the first steps, and what the world looks like after them."""
    made = world(seed)
    planned = [(step.action, step.expected) for step in islice(steps(made), count)]
    return planned, (made.reviews, made.orders, made.newcomers, made.launched, made.random.getstate())


def test_the_same_seed_makes_the_same_choices() -> None:
    assert plan(5) == plan(5)


def test_another_seed_makes_others() -> None:
    assert plan(5)[0] != plan(6)[0]


def test_stock_moves_are_the_majority_of_changes_of_the_hot_lane() -> None:
    counts = Counter(step.action for step in islice(steps(world()), 5_000))
    stock = sum(count for action, count in counts.items() if action.startswith("stock_"))
    assert stock > 5_000 / 2
    assert counts["stock_move"] == max(counts.values())


def test_every_kind_of_step_comes_up() -> None:
    actions = {step.action for step in islice(steps(world()), 20_000)}
    assert len(actions) >= len(SHARES)
    assert actions >= {
        "stock_key_change", "stock_key_swap", "stock_recount", "stock_close_out", "stock_restock",
        "price_change", "category_move", "description_edit", "product_key_change", "product_launch", "product_withdraw",
        "review_write", "review_approved", "review_rejected", "review_move", "review_delete",
        "user_email_change", "user_soft_delete", "user_hard_delete", "address_edit",
        "order_place", "order_progress", "order_cancel", "order_abandon", "order_item_key_change",
    }  # fmt: skip


def test_a_closed_out_row_comes_back() -> None:
    order = [s.action for s in islice(steps(world()), 2_000) if s.action in {"stock_close_out", "stock_restock"}]
    assert order[:4] == ["stock_close_out", "stock_restock"] * 2


def test_a_shop_of_one_product_is_enough() -> None:
    tiny = world(products=1)
    planned: list[Step] = [*islice(steps(tiny), 3_000), long_step(tiny)]
    assert all(step.expected >= 1 for step in planned)


def test_a_shop_without_reviews_and_orders_is_enough() -> None:
    bare = world()
    bare.reviews.clear()
    bare.orders.clear()
    first = [step.action for step in islice(steps(bare), 2_000)]
    assert first.index("review_write") < first.index("review_approved")
    assert first.index("order_place") < first.index("order_progress")


def test_attention_is_skewed() -> None:
    random = Random(3)
    products = Popular(ids(10_000, 1), random)
    counts = Counter(products.one(random) for _ in range(20_000))
    top = sum(count for _, count in counts.most_common(10)) / 20_000
    assert 0.35 < top < 0.46  # Zipf with exponent 1.1 gives 0.406 for ten of 10,000


def test_some_are_different_and_sorted() -> None:
    random = Random(3)
    chosen = Popular(ids(50, 1), random).some(random, 40)
    assert chosen == sorted(set(chosen))


def test_a_replaced_id_is_chosen_no_more() -> None:
    random, (old, new) = Random(1), ids(2, 9)
    products = Popular([old], random)
    products.replace(old, new)
    assert {products.one(random), products.any(random)} == {new}


def test_the_account_as_json() -> None:
    account = Committed(transactions=2, rolled_back=1, seconds=2.0)
    account.committed.update(users=3, inventory=5)
    account.by_action.update(stock_move=2)
    assert account.as_dict() == {
        "committed": {"inventory": 5, "users": 3},
        "transactions": 2,
        "rolled_back": 1,
        "retried": 0,
        "unknown": {},
        "by_action": {"stock_move": 2},
        "seconds": 2.0,
        "rate": 4.0,
        "failure": None,
    }
