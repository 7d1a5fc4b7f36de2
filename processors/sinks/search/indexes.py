"""Makes the indexes and aliases that are missing, and refuses those that are not what the sink writes.

Safe when several workers start at once: one creates, the others find. Changes nothing that exists, but for a missing
alias. Knows plans; knows no documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from downriver.exits import BadInput
from processors.sinks.search.client import CREATED_ANYWAY, Elastic, Refused
from processors.sinks.search.mapping import IndexPlan


async def ensure(elastic: Elastic, plan: IndexPlan, replicas: int) -> None:
    """Make sure that the index of `plan` exists, takes writes, and is what its alias shows.

    Raises:
        SinkUnavailable: Elasticsearch, or the index's primary shard, is away.
        BadInput: the index has another mapping, the alias another filter or another index, or a name is taken.
    """
    try:
        found = await _find(elastic, plan)
        if found is None:
            await _create(elastic, plan, replicas)
            found = await _find(elastic, plan)
        _check_mapping(plan, found or {})
        await _check_alias(elastic, plan)
    except Refused as error:
        msg = f"the index {plan.name} with the alias {plan.alias} can't be set up: {error}"
        raise BadInput(msg) from error
    # without a primary shard, writes would hang until they time out: wait here, where the message is about the index
    await elastic.request(
        "GET", f"/_cluster/health/{plan.name}?wait_for_status=yellow&timeout={max(1, int(elastic.timeout_s / 2))}s"
    )


async def _find(elastic: Elastic, plan: IndexPlan) -> Mapping[str, Any] | None:
    """Return what the index is: aliases, mappings, settings; None if there is none."""
    try:
        answer = await elastic.request("GET", f"/{plan.name}")
    except Refused as error:
        if error.status == 404:
            return None
        raise
    found: Mapping[str, Any] = answer[plan.name]
    return found


async def _create(elastic: Elastic, plan: IndexPlan, replicas: int) -> None:
    try:
        await elastic.request("PUT", f"/{plan.name}", plan.body(replicas))
    except Refused as error:
        if error.kind != CREATED_ANYWAY:
            raise


def _check_mapping(plan: IndexPlan, found: Mapping[str, Any]) -> None:
    wrong = _differences(plan.mappings(), found.get("mappings", {}), "")
    if wrong:
        msg = (
            f"the index {plan.name} has another mapping than this version of Downriver writes: {'; '.join(wrong)}. "
            "Delete the index and fill it again from a snapshot, or set elasticsearch.prefix to a new one."
        )
        raise BadInput(msg)


async def _check_alias(elastic: Elastic, plan: IndexPlan) -> None:
    """Add the alias if the index has none; refuse one that shows other documents or another index."""
    try:
        holders = await elastic.request("GET", f"/_alias/{plan.alias}")
    except Refused as error:
        if error.status != 404:
            raise
        holders = {}
    others = sorted(name for name in holders if name != plan.name)
    if others:
        msg = f"the alias {plan.alias} shows {', '.join(others)}, but this worker writes {plan.name}: readers would not see it"
        raise BadInput(msg)
    if not holders:
        add = {"index": plan.name, "alias": plan.alias, "filter": plan.shown}
        await elastic.request("POST", "/_aliases", {"actions": [{"add": add}]})
        return
    wrong = _differences(plan.shown, holders[plan.name]["aliases"][plan.alias].get("filter", {}), "")
    if wrong:
        msg = (
            f"the alias {plan.alias} filters otherwise: {'; '.join(wrong)}. Remove the alias: the next start makes it."
        )
        raise BadInput(msg)


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any], path: str) -> list[str]:
    """Tell where `found` is not `wanted`. What `found` has besides does no harm."""
    wrong: list[str] = []
    for name, value in wanted.items():
        here = f"{path}.{name}" if path else name
        if name not in found:
            wrong.append(f"{here} is missing")
        elif isinstance(value, Mapping) and isinstance(found[name], Mapping):
            wrong += _differences(value, found[name], here)
        elif found[name] != value:
            wrong.append(f"{here} is {found[name]!r}, not {value!r}")
    return wrong
