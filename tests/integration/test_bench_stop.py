"""A benchmark that is stopped in the middle leaves nothing on any server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench import topic
from bench.names import REDIS_DATABASE, Stopped, environment, left, of_run, own_names, stoppable
from bench.records import Load
from bench.worker import wait_assigned, watch, workers
from downriver.exits import BadInput, Exit
from downriver.settings import Settings

pytestmark = [pytest.mark.stack, pytest.mark.timeout(200)]
CHECKOUT = Path(__file__).resolve().parents[2]


def test_what_a_worker_made_under_the_names_is_found_and_removed(settings: Settings) -> None:
    with own_names(settings) as own:
        load = Load(own.source, 2_000, 2_000)
        run = of_run(own, "r")
        assert environment(run)["DOWNRIVER_SOURCE"] == own.source
        topic.fill(run, load)
        with workers("search", run) as running:
            watch(running, load.records)
        found = left(own)
        for wanted in (load.topic, f"{load.topic}-value", f"{own.source}_r-products-v1", f"{own.source}_r-search"):
            assert wanted in found, found
    assert left(own) == []


@pytest.mark.parametrize(
    ("sign", "said"), [(signal.SIGINT, "cache: Downriver"), (signal.SIGTERM, "filling a topic")], ids=["Ctrl-C", "TERM"]
)
def test_a_stop_in_the_middle_leaves_nothing(settings: Settings, sign: signal.Signals, said: str) -> None:
    command = [sys.executable, "-m", "bench", "--records", "60000", "--part", "cache", "--no-document"]
    process = subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if said in line:
                break
        else:
            pytest.fail(f"the benchmark ended with {process.wait()} before it said {said!r}")
        workers_of = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sign)
        rest = process.stderr.read()
        assert process.wait(100) == Exit.INTERRUPTED, rest
    finally:
        process.kill()
        process.wait()
    psutil.wait_procs(workers_of, timeout=10)
    assert [each for each in workers_of if each.is_running()] == []
    assert re.search(r"left something behind|error", rest) is None, rest
    with own_names(settings) as own:  # refused if keys were left
        anybody = own.model_copy(update={"source": "bench"})
        assert [name for name in left(anybody) if re.match(r"bench[0-9a-f]{8}", name)] == []


def test_a_stop_that_a_library_turns_into_its_own_error_is_a_stop() -> None:
    def interrupted_library() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except Stopped:
            msg = "expected configuration property name as type unicode string"
            raise TypeError(msg) from None

    with pytest.raises(Stopped), stoppable():
        interrupted_library()
    with pytest.raises(TypeError, match="its own"), stoppable():
        raise TypeError("its own")


def test_a_cache_in_use_is_refused(settings: Settings) -> None:
    with own_names(settings) as own:
        import redis

        with redis.Redis.from_url(own.redis.url) as cache:
            cache.set("somebody", "is here")
        with pytest.raises(BadInput, match=rf"/{REDIS_DATABASE} holds 1 keys"), own_names(settings):
            pytest.fail("it was not refused")


def test_records_held_back_appear_to_workers_that_share_them(settings: Settings) -> None:
    with own_names(settings) as own:
        load = Load(own.source, 4_000, 4_000)
        run = of_run(own, "h")
        with topic.held(run, load) as release, workers("cache", run, 2) as running:
            wait_assigned(running)
            assert [worker.page().records for worker in running] == [0, 0]
            release()
            watch(running, load.records)
            pages = [worker.page() for worker in running]
        assert sum(page.records for page in pages) == load.records
        assert all(page.records for page in pages)
