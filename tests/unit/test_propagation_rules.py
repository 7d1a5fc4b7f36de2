"""The rules: what counts, what does not, and what a mistake in the file says."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from downriver.exits import BadInput
from processors.change import Change, Kind, Op, Origin, Stamp, TableId
from processors.propagation.rules import OTHER, RuleSet, load_rules, rule_set

PRODUCTS, INVENTORY, USERS = (TableId("public", name) for name in ("products", "inventory", "users"))
RULES = rule_set(load_rules())


def change_of(
    op: Op, before: dict[str, Any] | None, after: dict[str, Any] | None, kind: Kind = Kind.STREAMED
) -> Change:
    at = datetime(2026, 11, 21, tzinfo=UTC)
    return Change("shop", PRODUCTS, op, {"id": "a"}, before, after, 1, at, 1, Origin("t", 0, 0, kind))


def counts(change: Change, rules: RuleSet = RULES) -> tuple[str, ...]:
    stamp = Stamp(change.op, change.origin.kind, 0, 1, 1)
    return rules.for_table(change.table).counts(stamp, (change.before, change.after))


def row(price: str = "10.00", currency: str = "EUR", **others: Any) -> dict[str, Any]:
    return {"id": "a", "price": Decimal(price), "currency": currency, **others}


def test_the_three_rules_of_the_domain() -> None:
    assert {rule.name: rule.limit_s for rule in RULES.rules} == {"inventory": 60, "reviews": 120, "prices": 300}
    assert {rule.name: rule.objective_percent for rule in RULES.rules} == {
        "inventory": 99.9,
        "reviews": 99.5,
        "prices": 99.9,
    }
    assert RULES.tables("prices") == {"public.products"}


@pytest.mark.parametrize(
    ("op", "before", "after", "wanted"),
    [
        (Op.UPDATE, row(), row("10.01"), ("prices",)),
        (Op.UPDATE, row(), row(currency="USD"), ("prices",)),
        (Op.UPDATE, row(), row("10.0", name="new"), (OTHER,)),
        (Op.UPDATE, row(), row(), (OTHER,)),
        (Op.CREATE, None, row(), (OTHER,)),
        (Op.DELETE, row(), None, (OTHER,)),
        (Op.UPDATE, {"id": "a"}, row("10.01"), (OTHER,)),
        (Op.UPDATE, None, row("10.01"), ("prices",)),
    ],
)
def test_a_price_change_is_an_update_whose_price_or_currency_differs(
    op: Op, before: dict[str, Any] | None, after: dict[str, Any] | None, wanted: tuple[str, ...]
) -> None:
    change = change_of(op, before, after)
    assert counts(change) == wanted
    assert [rule.name for rule in RULES.rules if rule.matches(change)] == [name for name in wanted if name != OTHER]


@pytest.mark.parametrize("kind", [Kind.SNAPSHOT, Kind.REPAIR])
def test_snapshots_and_repairs_count_for_nothing(kind: Kind) -> None:
    change = change_of(Op.UPDATE, row(), row("11"), kind)
    assert counts(change) == ()
    assert not any(rule.matches(change) for rule in RULES.rules)


def test_whole_tables_count_without_their_rows() -> None:
    rules = RULES.for_table(INVENTORY)
    assert not rules.columns
    for op in (Op.CREATE, Op.UPDATE, Op.DELETE):
        assert rules.counts(Stamp(op, Kind.STREAMED, 0, 1, 1), None) == ("inventory",)
    assert RULES.for_table(USERS).counts(Stamp(Op.UPDATE, Kind.STREAMED, 0, 1, 1), None) == (OTHER,)


def test_only_streamed_updates_of_a_compared_table_need_their_row() -> None:
    rules = RULES.for_table(PRODUCTS)
    assert rules.columns == {"price", "currency"}
    needed = {(op, kind) for op in Op for kind in Kind if rules.needs_row(Stamp(op, kind, 0, 1, 1))}
    assert needed == {(Op.UPDATE, Kind.STREAMED)}
    with pytest.raises(ValueError, match="prices compare columns"):
        rules.counts(Stamp(Op.UPDATE, Kind.STREAMED, 0, 1, 1), None)


def write(folder: Path, text: str) -> Path:
    path = folder / "rules.yaml"
    path.write_text(text)
    return path


def test_two_rules_may_count_one_change_and_one_sink_may_be_left_out(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
rules:
  - {name: all, counts: [{table: public.products}], limit_s: 10, sinks: [cache-eu, search]}
  - name: some
    limit_s: 0.5
    counts: [{table: public.products, columns: [price]}, {table: public.products, columns: [name]}]
""",
    )
    rules = rule_set(load_rules(path))
    assert counts(change_of(Op.UPDATE, row(name="x"), row(name="y")), rules) == ("all", "some")
    assert rules.for_table(PRODUCTS).names == ("all", "some")
    assert counts(change_of(Op.UPDATE, row(name="x"), row(name="y")), rules.for_sink("analytics")) == ("some",)
    assert rules.for_sink("cache-eu").limits == {"all": 10, "some": 0.5}
    assert rules.for_sink("cache").for_table(PRODUCTS).names == ("some", OTHER)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("rules:\n  - name: a\n    limit_s: 1\n    counts: [{tabel: x}]", 4, "tabel"),
        ("rules:\n  - name: a\n    counts: [{table: public.users}]", 2, "limit_s is missing"),
        ("rules:\n  - name: a\n    counts: [{table: public.users}]\n    limit_s: 0", 4, "greater than 0"),
        ("rules:\n  - name: a\n    counts: [{table: public.users}]\n    limit_s: .inf", 4, "finite"),
        ("rules:\n  - name: a\n    counts: [{table: public.users}]\n    limit_s: '60'", 4, "valid number"),
        (
            "rules:\n  - name: a\n    limit_s: 1\n    counts: [{table: public.usrs}]",
            4,
            "no captured table 'public.usrs'",
        ),
        (
            "rules:\n  - name: a\n    limit_s: 1\n    counts:\n    - table: public.users\n      columns: [nme]",
            6,
            "'nme'",
        ),
        # captured, but left out of the topic because it is Restricted: comparing it would count nothing
        (
            "rules:\n  - name: a\n    limit_s: 1\n    counts:\n    - table: public.users\n      columns: [phone]",
            6,
            "phone",
        ),
        ("rules:\n  - name: other\n    limit_s: 1\n    counts: [{table: public.users}]", 2, "'other' is taken"),
        ("rules:\n  - name: a\n    limit_s: 1\n    limit_s: 2\n    counts: [{table: public.users}]", 4, "given twice"),
        ("rules:\n  - name: a\n    limit_s: 1\n    counts: [{table: public.users}]\n    sinks: [serch]", 5, "'serch'"),
        ("rules:\n  - name: a\n    limit_s: 1\n    counts: []", 4, "must not be empty"),
        ("rules: [", 1, "not YAML"),
        ("", 1, "must be a mapping"),
        ("rules: 5", 1, "must be a list"),
    ],
)
def test_a_mistake_is_told_with_line_and_reason(tmp_path: Path, text: str, line: int, reason: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadInput) as told:
        load_rules(path)
    assert any(f"{path}:{line}: " in each and reason in each for each in str(told.value).splitlines()), told.value


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    text = "rules:\n  - name: A\n    limit_s: -1\n    counts: [{table: public.users}]\n  - name: b\n    limt: 3\n"
    with pytest.raises(BadInput) as told:
        load_rules(write(tmp_path, text))
    assert str(told.value).startswith("5 mistake(s)")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.yaml can't be read"):
        load_rules(tmp_path / "nowhere.yaml")
