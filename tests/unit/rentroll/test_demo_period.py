"""A served model is billed in the month in which it is served; a trace alone in any."""

from datetime import UTC, datetime

import pytest

from rentroll.demo_period import demo_times
from schemas.clock import FixedClock


def at(text: str) -> FixedClock:
    return FixedClock(int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**9)


NOON = at("2026-11-24T12:00")


def test_with_a_model_this_month_is_billed_and_the_trace_ends_now() -> None:
    times = demo_times(NOON, None, with_model=True)
    assert times.period.name == "2026-11"
    assert times.ends is not None
    assert times.ends.now_ns() == NOON.now_ns()
    assert times.why_no_model == ""


def test_without_a_model_the_last_whole_month_is_billed() -> None:
    times = demo_times(NOON, None, with_model=False)
    assert (times.period.name, times.ends, times.why_no_model) == ("2026-10", None, "")


def test_a_month_by_name_takes_the_trace_from_its_beginning() -> None:
    times = demo_times(NOON, "2026-11", with_model=True)
    assert (times.period.name, times.ends, times.why_no_model) == ("2026-11", None, "")


@pytest.mark.parametrize(
    ("clock", "named", "billed", "words"),
    [
        (NOON, "2026-09", "2026-09", "billed in 2026-11"),
        (at("2026-11-30T23:40"), None, "2026-10", "2026-11 ends in a few minutes"),
    ],
)
def test_a_model_that_cannot_share_the_month_is_left_out_and_it_says_why(
    clock: FixedClock, named: str | None, billed: str, words: str
) -> None:
    times = demo_times(clock, named, with_model=True)
    assert times.period.name == billed
    assert words in times.why_no_model
