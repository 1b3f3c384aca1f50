"""Traces are mapped on a month, or made to end now, without losing their order or digits."""

from inference.simulate.timeline import ending_at, onto_month
from schemas.periods import parse_period
from schemas.units import NS_PER_HOUR, NS_PER_S

OCTOBER = parse_period("2026-10")
START_NS = int(OCTOBER.start.timestamp()) * NS_PER_S
END_NS = int(OCTOBER.end.timestamp()) * NS_PER_S
FIRST_NS = 1_700_158_546_680_590_000


def test_first_row_falls_in_the_first_hour_with_its_minutes_and_digits() -> None:
    timeline = onto_month(FIRST_NS, FIRST_NS + NS_PER_HOUR, OCTOBER)
    assert timeline(FIRST_NS) == START_NS + FIRST_NS % NS_PER_HOUR
    assert timeline(FIRST_NS + 123) - timeline(FIRST_NS) == 123
    assert timeline.divisor == 1


def test_trace_that_spans_more_than_the_month_is_compressed_just_enough() -> None:
    last_ns = FIRST_NS + 100 * 24 * NS_PER_HOUR
    timeline = onto_month(FIRST_NS, last_ns, OCTOBER)
    assert timeline.divisor == 4
    assert START_NS <= timeline(FIRST_NS) < timeline(last_ns) < END_NS
    assert timeline(FIRST_NS) + (last_ns - FIRST_NS) // 3 >= END_NS


def test_trace_that_just_fits_is_not_compressed() -> None:
    room_ns = END_NS - (START_NS + FIRST_NS % NS_PER_HOUR)
    assert onto_month(FIRST_NS, FIRST_NS + room_ns - 1, OCTOBER).divisor == 1
    assert onto_month(FIRST_NS, FIRST_NS + room_ns, OCTOBER).divisor == 2


def test_last_finish_lands_on_now_to_the_millisecond() -> None:
    now_ns = 1_790_000_000_123_000_000
    timeline = ending_at(FIRST_NS + 1, now_ns)
    assert 0 <= now_ns - timeline(FIRST_NS + 1) < 1_000_000
    assert timeline.shift_ns % 1_000_000 == 0
