"""A shop whose outbox travelled as a table of the accounts lane: what commands say, in which order, and that nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from connectors.apply import apply
from connectors.connect import Refused
from connectors.connector import HEARTBEAT_TABLE, Connector
from connectors.consequences import Weight
from connectors.files import load, renamed
from connectors.plan import Step, make
from downriver.exits import BadInput
from downriver.settings import Settings
from shop.migrate import migrate
from shop.names import CaptureNames
from tests.integration.test_outbox import WAIT_S, events, insert, until_id
from tests.support.lane import OwnLane, own_lane, until

pytestmark = pytest.mark.stack
NO_PASSWORD = SecretStr("")


@pytest.fixture
def lane(settings: Settings) -> Iterator[OwnLane]:
    with own_lane(settings, "events") as made:
        yield made


@pytest.fixture
def accounts(lane: OwnLane) -> Iterator[Connector]:
    """The connector of the accounts lane, for the same shop; not created yet."""
    source = lane.settings.source
    (made,) = [renamed(each, source, source) for each in load() if each.name == "downriver_accounts"]
    yield replace(made, config=dict(made.config) | {"database.user": lane.role})
    with lane.client() as client:
        if client.config(made.name) is None:
            return
        client.stop(made.name)

        def reset() -> bool:
            try:
                client.reset_offsets(made.name)
            except Refused:  # its task has not ended yet
                return False
            return True

        until(reset, f"{made.name} stops")
        client.delete(made.name)


def test_an_older_shop_is_told_the_way_and_loses_nothing_on_it(lane: OwnLane, accounts: Connector) -> None:
    source = lane.settings.source
    names = CaptureNames(role=source, publication_prefix=source)
    migrate(lane.settings, NO_PASSWORD, "0002", down=True, names=names)
    tables = [*(each for each in accounts.tables if each != HEARTBEAT_TABLE), "public.outbox", HEARTBEAT_TABLE]
    older = replace(accounts, config=dict(accounts.config) | {"table.include.list": ",".join(tables)})
    (made,) = apply(lane.settings, [older], WAIT_S)
    assert (made.state, made.error) == ("RUNNING", "")
    carried = insert(lane, "older", "1")
    both = [accounts, lane.connector]
    with pytest.raises(BadInput, match="downriver shop migrate") as unready:
        apply(lane.settings, both, WAIT_S, allow=["dropped-table"])
    assert f"carries public.outbox, which {accounts.name} does not capture: it moves to {lane.name}" in str(
        unready.value
    )
    migrate(lane.settings, NO_PASSWORD, names=names)
    between = insert(lane, "older", "1")
    with pytest.raises(BadInput, match="--allow dropped-table"):
        apply(lane.settings, both, WAIT_S)
    with lane.client() as client:
        first, second = make(lane.settings, client, both).items
    assert (first.step, second.step) == (Step.UPDATE, Step.CREATE)
    (told,) = [each for each in first.consequences if each.weight in {Weight.ALLOW, Weight.BLOCKS}]
    assert told.text.startswith(f"public.outbox: captured by {lane.name} from now on")
    done = apply(lane.settings, both, WAIT_S, allow=["dropped-table"])
    assert [(each.state, each.error) for each in done] == [("RUNNING", "")] * 2
    last = insert(lane, "older", "1")
    assert [event.id for event in events(lane, "older", until_id(last))] == [carried, between, last]
    with lane.client() as client:
        assert not make(lane.settings, client, both).changes
