"""The Faust defaults that decision 0001 names, held against the installed version.

When one of these fails after an upgrade, Faust changed: read docs/decisions/0001 and judge anew what the engine still
has to replace. They are tests of Faust, not of Downriver: they assert the behaviour that we must not rely on. What takes
a broker to show is in tests/integration/test_faust_on_kafka.py.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.cli.worker import worker as worker_command
from faust.streams import Stream
from faust.tables.recovery import Recovery
from faust.transport import conductor
from faust.transport.consumer import Consumer
from faust.types import TP
from intervaltree import IntervalTree

from downriver.settings import Settings, with_local_addresses
from processors.engine.app import build

TP0 = TP("t", 0)


def offsets(committed: int | None, acked: list[int]) -> Any:
    """The few attributes of a consumer that `_new_offset` reads."""
    return SimpleNamespace(
        _acked=defaultdict(list, {TP0: list(acked)}),
        _acked_index=defaultdict(set, {TP0: set(acked)}),
        _gap=defaultdict(IntervalTree),
        _committed_offset=defaultdict(lambda: None, {TP0: committed}),
    )


@pytest.mark.parametrize(
    ("committed", "acked", "committable"),
    [
        (2585, [2586, 2587, 2588, 2589], 2590),  # 2585 itself is in flight, and lost if the worker dies now
        (None, [1, 2, 3], 4),  # 0 is in flight
        (0, [5, 6, 7], 8),  # 0 to 4 are in flight
    ],
)
def test_faust_commits_past_messages_in_flight(committed: int | None, acked: list[int], committable: int) -> None:
    assert Consumer._new_offset(offsets(committed, acked), TP0) == committable


def test_take_acknowledges_the_whole_batch_in_a_finally() -> None:
    source = inspect.getsource(Stream.take)
    assert "finally:" in source
    assert "await self.ack(event)" in source[source.index("finally:") :]


def test_a_decode_error_is_acknowledged_before_anybody_hears_of_it() -> None:
    source = inspect.getsource(conductor)
    handler = source[source.index("except ValueDecodeError") :]
    assert handler.index("message.ack(") < handler.index("on_value_decode_error")


def test_the_flow_is_resumed_before_the_client_is_set_to_the_committed_offsets() -> None:
    """Records fetched in between are taken, and fetched again or dropped; see decision 0001."""
    restart = inspect.getsource(Recovery._restart_recovery.fun)
    assert restart.index("consumer.resume_flow)()") < restart.index("self.on_recovery_completed)(")
    assert "consumer.perform_seek()" in inspect.getsource(Recovery.on_recovery_completed)


def test_the_defaults_that_leave_partitions_without_an_owner_for_a_minute() -> None:
    conf = faust.App("stock", broker="kafka://127.0.0.1:1", store="memory://").conf
    named = ("broker_session_timeout", "broker_rebalance_timeout", "broker_commit_interval", "stream_wait_empty")
    assert [getattr(conf, name) for name in named] == [60.0, 60.0, 2.8, True]


def test_the_defaults_that_show_table_data_to_everybody() -> None:
    conf = faust.App("stock", broker="kafka://127.0.0.1:1", store="memory://").conf
    assert (conf.web_enabled, conf.web_tables_enabled, conf.web_bind, conf.web_port) == (True, True, "0.0.0.0", 6066)  # noqa: S104


def test_the_command_line_turns_the_web_server_on_again() -> None:
    [option] = (
        [param for param in worker_command.params if param.name == "with_web"]
        if hasattr(worker_command, "params")
        else [
            option for option in worker_command.builtin_options + worker_command.options if "--with-web" in str(option)
        ]
    )
    assert option is not None


@pytest.fixture
def ours() -> faust.App:
    return build("cache", with_local_addresses(Settings()))


def test_our_app_replaces_each_of_them(ours: faust.App) -> None:
    conf = ours.conf
    assert conf.broker_session_timeout == 6.0
    assert conf.broker_heartbeat_interval == 2.0
    assert conf.broker_rebalance_timeout == 10.0
    assert conf.broker_commit_interval <= 1.0
    assert conf.stream_wait_empty is False
    assert (conf.web_enabled, conf.web_tables_enabled, conf.web_bind) == (False, False, "127.0.0.1")
    assert (conf.topic_allow_declare, conf.topic_disable_leader) == (False, True)
    assert ours.transport.Consumer._new_offset is not Consumer._new_offset
