"""A served model is billed in the month in which it is served; a trace alone in any."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from billing.price_book_file import EXAMPLE_PRICE_BOOK
from inference.simulate.run import SAMPLE_TRACE
from rentroll.demo import DemoInputs, Prepared, prepare
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


class Unwatched:
    """Progress that nobody sees."""

    def show(self, what: str, done: int, total: int) -> None: ...

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        yield


def prepared_at(text: str) -> Prepared:
    times = demo_times(at(text), None, with_model=True)
    inputs = DemoInputs(SAMPLE_TRACE, EXAMPLE_PRICE_BOOK, None, times, with_model=True)
    return prepare(inputs, Unwatched())


def admitted_at(prepared: Prepared) -> list[str]:
    found = [ns for one in prepared.plan.replicas for ns, _ in one.arrivals]
    return [f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M}" for ns in sorted(found)]


def test_a_trace_ends_now_beside_a_served_model() -> None:
    times = admitted_at(prepared_at("2026-11-24T12:00"))
    assert times[0] > "2026-11-24T11:00"
    assert times[-1] <= "2026-11-24T12:00"


def test_a_trace_that_would_begin_in_the_month_before_begins_with_the_month_instead() -> None:
    times = admitted_at(prepared_at("2026-11-01T00:00"))
    assert "2026-11-01T00:00" <= times[0] < "2026-11-01T01:00"
