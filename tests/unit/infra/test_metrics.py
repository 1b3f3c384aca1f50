"""Metrics as Prometheus reads them, and the server that tells them."""

import re

from infra.metrics import Family, Histogram, Metric, Sample, by_label, exposition, one

WAITED = Metric("waited_seconds", "histogram", "How long.")
LINE = re.compile(
    r'(# (HELP|TYPE) rentroll_\w+ .+|rentroll_\w+(\{(\w+="(\\.|[^"\\\n])*",?)+\})? -?[\d.e+-]+)'
)


def test_text_has_help_type_and_escaped_labels() -> None:
    metric = Metric("rows_total", "counter", "Rows\nthat went in.")
    text = exposition([by_label(metric, "name", [('a"b\\c\nd', 3)]), one(metric, 0.5)])
    assert text.splitlines() == [
        "# HELP rentroll_rows_total Rows\\nthat went in.",
        "# TYPE rentroll_rows_total counter",
        'rentroll_rows_total{name="a\\"b\\\\c\\nd"} 3',
        "# HELP rentroll_rows_total Rows\\nthat went in.",
        "# TYPE rentroll_rows_total counter",
        "rentroll_rows_total 0.5",
    ]
    assert all(LINE.fullmatch(line) for line in text.splitlines())


def test_buckets_of_a_histogram_add_up_and_bounds_are_inclusive() -> None:
    histogram = Histogram((0.1, 1.0))
    for taken_ns in (50_000_000, 100_000_000, 400_000_000, 9_000_000_000):
        histogram.observe_ns(taken_ns)
    lines = exposition([Family(WAITED, histogram.samples())]).splitlines()[2:]
    assert lines == [
        'rentroll_waited_seconds_bucket{le="0.1"} 2',
        'rentroll_waited_seconds_bucket{le="1.0"} 3',
        'rentroll_waited_seconds_bucket{le="+Inf"} 4',
        "rentroll_waited_seconds_sum 9.55",
        "rentroll_waited_seconds_count 4",
    ]


def test_a_family_without_samples_only_declares_itself() -> None:
    assert exposition([Family(WAITED, ())]).count("\n") == 2
    assert Sample(1) == Sample(1, (), "")
