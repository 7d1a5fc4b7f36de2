"""What a benchmark makes of a worker's page: which moments count, and which records."""

from __future__ import annotations

import pytest

from bench.worker import Page, Sample, measured

METRICS = """# HELP downriver_records_total Records dealt with, by topic.
# TYPE downriver_records_total counter
downriver_records_total{sink="cache",topic="b_catalog.public.products"} 1200.0
downriver_records_created{sink="cache",topic="b_catalog.public.products"} 1.79e+09
downriver_visible_offset{partition="0",sink="cache",topic="b_catalog.public.products"} 700.0
downriver_visible_offset{partition="1",sink="cache",topic="b_catalog.public.products"} 500.0
downriver_buffered_bytes{sink="cache"} 1.048576e+06
downriver_assigned_partitions{sink="cache"} 8.0
downriver_dead_letters_total{sink="cache",topic="b_catalog.public.products"} 2.0
"""


def samples(*looks: tuple[int, int, int]) -> list[Sample]:
    """Return a sample a second of (buffered, records, visible)."""
    return [
        Sample(float(at), Page(records=records, visible=visible, buffered=buffered), 100.0 + at)
        for at, (buffered, records, visible) in enumerate(looks)
    ]


def test_a_page_is_summed_over_topics_and_partitions() -> None:
    assert Page.parse(METRICS) == Page(records=1200, visible=1200, buffered=1 << 20, assigned=8, dead_letters=2)


def test_a_page_before_the_first_record_is_empty() -> None:
    assert Page.parse("# HELP downriver_records_total Records\n") == Page()


def test_two_workers_add_up() -> None:
    assert Page.parse(METRICS).plus(Page(records=1, assigned=2)) == Page(1201, 1200, 1 << 20, 10, 2)


def test_the_clock_starts_at_the_first_delivered_records_which_then_do_not_count() -> None:
    run = measured(samples((0, 0, 0), (9, 0, 0), (9, 100, 0), (9, 500, 100), (0, 1000, 500), (0, 1000, 1000)), 1000)
    assert (run.records, run.seconds, run.shown_s) == (900, 1.5, 2.5)
    assert [sample.rss_mib for sample in run.samples] == [101.0, 102.0, 103.0, 104.0, 105.0]


def test_a_run_in_one_bite_is_measured_from_the_first_fetch() -> None:
    run = measured(samples((0, 0, 0), (9, 0, 0), (9, 0, 0), (0, 1000, 1000)), 1000)
    assert (run.records, run.seconds) == (1000, 2.0)


def test_samples_that_end_too_early_are_refused() -> None:
    with pytest.raises(ValueError, match="True is not in list"):
        measured(samples((9, 0, 0), (9, 10, 10)), 1000)
