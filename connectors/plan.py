"""What applying the files would change on Kafka Connect, key by key, and what would follow from it. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum

from connectors import captured, cause, preflight, stored
from connectors.connect import ConnectClient, Status
from connectors.connector import POSTGRES_CONNECTOR, Connector, State, homes, masked
from connectors.consequences import Consequence, Facts, Weight, judge, left_behind
from connectors.live import described
from connectors.topics import present, wanted
from downriver.exits import DownriverError
from downriver.settings import Settings


class Step(StrEnum):
    """What applying would do with one connector."""

    CREATE = "create"
    UPDATE = "update"
    STATE = "state"
    """Its settings are right; it is to run, pause or stop, or to start again what failed."""
    DELETE = "delete"
    """An orphan, under --prune."""
    NONE = "unchanged"
    ORPHAN = "orphan"
    """Ours by its name, and no file says so."""
    UNMANAGED = "unmanaged"
    """Somebody else's."""


CHANGES = frozenset({Step.CREATE, Step.UPDATE, Step.STATE, Step.DELETE})


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that differs; secrets are masked already. None: not there."""

    key: str
    live: str | None
    wanted: str | None


@dataclass(frozen=True, slots=True)
class Item:
    """One connector of the plan.

    Attributes:
        live_state: empty where Connect does not have it.
        failed: why it does not run, in a sentence; empty where it runs.
    """

    connector: str
    step: Step
    live_state: str
    state: str
    differences: tuple[Difference, ...] = ()
    consequences: tuple[Consequence, ...] = ()
    failed: str = ""

    @property
    def changes(self) -> bool:
        """Whether applying would do anything with it."""
        return self.step in CHANGES


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole plan, the connectors of the files first, in their order."""

    items: tuple[Item, ...]

    @property
    def changes(self) -> bool:
        """Whether applying would do anything."""
        return any(item.changes for item in self.items)

    def needed(self) -> dict[str, list[str]]:
        """Return what must be allowed by name → the connectors that need it."""
        names: dict[str, list[str]] = {}
        for item in self.items:
            for each in item.consequences:
                if each.weight is Weight.ALLOW and item.connector not in names.setdefault(each.name, []):
                    names[each.name].append(item.connector)
        return names

    def blocked(self) -> list[str]:
        """Return in sentences what keeps the plan from being applied at all."""
        return [
            f"{item.connector}: {each.text}; {each.way_out} [{each.name}]"
            for item in self.items
            for each in item.consequences
            if each.weight is Weight.BLOCKS
        ]


def make(
    settings: Settings,
    client: ConnectClient,
    connectors: Sequence[Connector],
    *,
    whole: bool = False,
    prune: bool = False,
) -> Plan:
    """Compare the files with what is live, and judge what would follow.

    Args:
        connectors: what the files say.
        whole: these are all connectors: tell orphans and unmanaged ones.
        prune: plan to delete the orphans.

    Raises:
        Refused, ServerAway: Connect; PostgreSQL or Kafka, where a change has to be judged.
    """
    items = [compared(client, connector) for connector in connectors]
    judged = _judged(settings, client, connectors, items)
    others = _others(settings, client, {connector.name for connector in connectors}, prune=prune) if whole else []
    return Plan((*judged, *others))


def compared(client: ConnectClient, connector: Connector) -> Item:
    """Return what differs between a connector and the live one of its name, without consequences."""
    live = client.config(connector.name)
    if live is None:
        every = {key: value for key, value in connector.config.items() if key != "name"}
        return Item(connector.name, Step.CREATE, "", connector.state, _differences({}, every))
    now = client.status(connector.name)
    doing = "UNASSIGNED" if now is None else summary(now)
    differences = _differences(live, {key: value for key, value in connector.config.items() if key != "name"})
    step = Step.UPDATE if differences else Step.STATE if moves(doing, connector.state) else Step.NONE
    return Item(connector.name, step, doing, connector.state, differences, failed=_why(now))


def summary(now: Status) -> str:
    """Return what a connector does in one word: FAILED if anything of it failed, else its own state."""
    return "FAILED" if "FAILED" in {now.state, *(task.state for task in now.tasks)} else now.state


def _why(now: Status | None) -> str:
    """Return the sentence at the bottom of what failed, empty if nothing did."""
    traces = [] if now is None else [now.trace, *(task.trace for task in now.tasks)]
    return next((cause.read(trace).text for trace in traces if trace), "")


def moves(live: str, wanted_state: State) -> bool:
    """Tell whether applying has to move a connector. One that Connect is just assigning will run by itself."""
    return live in {"FAILED", *State} and live != wanted_state


def _differences(live: Mapping[str, str], want: Mapping[str, str]) -> tuple[Difference, ...]:
    def shown(key: str, config: Mapping[str, str]) -> str | None:
        return masked(key, config[key]) if key in config else None

    keys = sorted(key for key in live.keys() | want.keys() if live.get(key) != want.get(key))
    return tuple(Difference(key, shown(key, live), shown(key, want)) for key in keys)


def _judged(
    settings: Settings, client: ConnectClient, connectors: Sequence[Connector], items: Sequence[Item]
) -> list[Item]:
    """Return the items with the consequences of those that change; nobody is asked for the others."""
    changing = [(connector, item) for connector, item in zip(connectors, items, strict=True) if item.changes]
    if not changing:
        return list(items)
    topics = [topic.topic for connector, _ in changing for topic in wanted(connector)]
    with ThreadPoolExecutor(3) as pool:
        there = pool.submit(present, settings.kafka, topics)
        offsets = pool.submit(stored.offsets, settings, [connector.name for connector, _ in changing])
        sources = {connector.name: pool.submit(captured.ask, settings, connector) for connector, _ in changing}
        findings = {connector.name: preflight.check(settings, [connector], connectors) for connector, _ in changing}
        together = preflight.check(settings, [connector for connector, _ in changing], connectors)
        kept = offsets.result()
        judged: dict[str, Item] = {}
        for connector, item in changing:
            own = [topic.topic for topic in wanted(connector)]
            facts = Facts(
                client.config(connector.name) if item.live_state else None,
                item.live_state,
                kept.get((connector.name, connector.prefix)),
                sources[connector.name].result(),
                {name: there.result()[name] for name in own if name in there.result()},
                item.failed,
                homes(connectors),
            )
            found = judge(connector, facts, [each.key for each in item.differences])
            judged[connector.name] = _with(item, [*_unready(findings[connector.name], found), *found])
    told = {finding for each in findings.values() for finding in each}
    if shared := _unready(
        [finding for finding in together if finding not in told], []
    ):  # such as too few slots for all
        first = changing[0][0].name
        judged[first] = _with(judged[first], [*shared, *judged[first].consequences])
    return [judged.get(item.connector, item) for item in items]


def _unready(findings: Sequence[preflight.Finding], told: Sequence[Consequence]) -> list[Consequence]:
    """Return as consequences what the preflight finds, without what is told already: it has the same way out."""
    ways_out = {each.way_out for each in told}
    return [
        Consequence("not-ready", Weight.BLOCKS, f"{finding.thing}: {finding.value}", finding.way_out)
        for finding in findings
        if finding.way_out not in ways_out
    ]


def _with(item: Item, found: Sequence[Consequence]) -> Item:
    return replace(item, consequences=tuple(found))


def _others(settings: Settings, client: ConnectClient, names: set[str], *, prune: bool) -> list[Item]:
    """Return what Connect has and no file names."""
    found = []
    for name, live in client.connectors().items():
        if name in names:
            continue
        doing = "UNASSIGNED" if live.status is None else summary(live.status)
        if not name.startswith(settings.connect.managed):
            found.append(Item(name, Step.UNMANAGED, doing, doing))
        elif not prune:
            found.append(Item(name, Step.ORPHAN, doing, doing))
        else:
            facts = None
            if live.config.get("connector.class") == POSTGRES_CONNECTOR:
                try:
                    facts = captured.ask(settings, described(live))
                except DownriverError:
                    facts = None  # its database may be gone, which is why it is pruned
            found.append(Item(name, Step.DELETE, doing, "", (), tuple(left_behind(name, live.config, facts))))
    return found
