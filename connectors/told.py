"""A plan and a linter's findings as people and programs read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape

from connectors.consequences import Weight
from connectors.lint import Finding, Severity
from connectors.plan import CHANGES, Item, Plan, Step

SIGNS = {
    Step.CREATE: "[green]+[/]",
    Step.UPDATE: "[yellow]~[/]",
    Step.STATE: "[yellow]>[/]",
    Step.DELETE: "[red]-[/]",
    Step.NONE: "=",
    Step.ORPHAN: "[yellow]?[/]",
    Step.UNMANAGED: " ",
}
COLOURS = {Weight.NOTE: "dim", Weight.WARNING: "yellow", Weight.ALLOW: "bold red", Weight.BLOCKS: "bold red"}
LABELS = {Weight.NOTE: "note", Weight.WARNING: "warning", Weight.ALLOW: "needs --allow", Weight.BLOCKS: "blocks"}
OURS = CHANGES | {Step.NONE}
"""Of these a file says what they are to do."""
SHORT = 8
"""Settings of a new connector that are listed; more are counted."""


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield the plan for a terminal, with rich's markup."""
    for item in plan.items:
        yield f"{SIGNS[item.step]} [bold]{escape(item.connector)}[/]  {_what(item)}"
        yield from _differences(item)
        for each in item.consequences:
            label, colour = LABELS[each.weight], COLOURS[each.weight]
            yield f"    [{colour}]{label} {escape(each.name)}:[/] {escape(each.text)}"
            if each.way_out:
                yield f"        → {escape(each.way_out)}"
    yield ""
    yield _summary(plan)
    if needed := plan.needed():
        yield f"apply needs: {' '.join(f'--allow {name}' for name in needed)}"
    if plan.blocked():
        yield "apply refuses this plan: what blocks must be mended first"


def plan_records(plan: Plan) -> list[dict[str, object]]:
    """Return the plan for programs, one record a connector."""
    return [
        {
            "connector": item.connector,
            "action": item.step,
            "changes": item.changes,
            "state": {"live": item.live_state or None, "wanted": item.state or None if item.step in OURS else None},
            "differences": [{"key": each.key, "live": each.live, "wanted": each.wanted} for each in item.differences],
            "consequences": [
                {
                    "name": each.name,
                    "weight": each.weight,
                    "allow": each.name if each.weight is Weight.ALLOW else None,
                    "text": each.text,
                    "way_out": each.way_out,
                }
                for each in item.consequences
            ],
        }
        for item in plan.items
    ]


def finding_record(finding: Finding) -> Mapping[str, object]:
    """Return a finding for programs."""
    return {
        "severity": finding.severity,
        "rule": finding.rule,
        "connector": finding.connector or None,
        "place": finding.place,
        "key": finding.key or None,
        "value": finding.value,
        "reason": finding.reason,
        "fix": finding.fix,
        "silenced": finding.silenced or None,
    }


def finding_lines(findings: Sequence[Finding], *, silenced: bool) -> Iterator[str]:
    """Yield the findings for a terminal; the silenced ones only if asked."""
    for each in findings:
        if each.silenced and not silenced:
            continue
        colour = "dim" if each.silenced else "red" if each.severity is Severity.ERROR else "yellow"
        what = each.key and (f"{each.key} = {each.value!r}" if each.value is not None else each.key)
        yield f"[{colour}]{each.severity} {escape(each.rule)}[/]  {escape(each.place)}  {escape(what)}"
        yield f"    {escape(each.reason)}"
        if each.fix:
            yield f"    → {escape(each.fix)}"
        if each.silenced:
            yield f"    silenced: {escape(each.silenced)}"
    open_ = Counter(each.severity for each in findings if not each.silenced)
    quiet = sum(bool(each.silenced) for each in findings)
    yield f"{open_[Severity.ERROR]} error(s), {open_[Severity.WARNING]} warning(s), {quiet} silenced"


def _what(item: Item) -> str:
    moved = f", {item.live_state} → {item.state}" if item.live_state != item.state else ""
    return {
        Step.CREATE: "is created" + ("" if item.state == "RUNNING" else f" {item.state}"),
        Step.UPDATE: f"is updated: {len(item.differences)} setting(s){moved}",
        Step.STATE: f"{item.live_state} → {item.state}",
        Step.DELETE: f"is deleted ({item.live_state}): no file says that it should be there",
        Step.NONE: f"unchanged, {item.live_state}",
        Step.ORPHAN: f"orphan, {item.live_state}: ours by its name, and no file has it; `apply --prune` deletes it",
        Step.UNMANAGED: f"unmanaged, {item.live_state}: left alone",
    }[item.step]


def _differences(item: Item) -> Iterator[str]:
    shown = item.differences
    if item.step is Step.CREATE:
        shown = shown[:SHORT]
    width = max((len(each.key) for each in shown), default=0)
    for each in shown:
        key = escape(each.key.ljust(width))
        if item.step is Step.CREATE:
            yield f"    {key}  {_value(each.wanted)}"
        else:
            note = "  (changed; secrets are not shown)" if each.live == each.wanted else ""
            yield f"    {key}  {_value(each.live)} → {_value(each.wanted)}{note}"
    if len(shown) < len(item.differences):
        yield f"    … and {len(item.differences) - len(shown)} more"


def _value(value: str | None) -> str:
    return "(not set)" if value is None else escape(value) if value == "***" else f'"{escape(value)}"'


def _summary(plan: Plan) -> str:
    count = Counter(item.step for item in plan.items)
    told = [f"{count[step]} to {word}" for step, word in _WORDS.items() if count[step]]
    rest = [f"{count[step]} {step}" for step in Step if step not in CHANGES and count[step]]
    return f"plan: {', '.join(told) or 'nothing to do'} ({', '.join(rest) or 'no others'})"


_WORDS = {Step.CREATE: "create", Step.UPDATE: "update", Step.STATE: "start, pause or stop", Step.DELETE: "delete"}
