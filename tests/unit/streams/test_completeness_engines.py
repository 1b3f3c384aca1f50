"""The identity by ordinals: parts + in flight at the end - at the start = attributed."""

from dataclasses import replace
from typing import Any

import pytest

from streams.completeness_engines import IntervalFacts, PartsSum, TimeLine, check_engine

FIRST = IntervalFacts(
    sequence=10,
    engine="e",
    replica="r-1",
    start_unix_ns=0,
    end_unix_ns=1_000,
    owned_ns=1_000,
    attributed_ns=700,
    stall_ns=100,
    idle_ns=150,
    overhead_ns=50,
    startup_ns=0,
    open_step_start_ns=0,
    open_step_end_ns=0,
    unaccounted_ns=0,
    in_flight_start_ns=0,
    in_flight_end_ns=200,
    ordinal_start=0,
    ordinal_end=2,
    oldest_open_ms=1,
)
SECOND = replace(
    FIRST,
    sequence=20,
    start_unix_ns=1_000,
    end_unix_ns=2_000,
    in_flight_start_ns=200,
    in_flight_end_ns=0,
    ordinal_start=2,
    ordinal_end=3,
)
PARTS = {10: PartsSum(2, 2, 500), 20: PartsSum(1, 1, 900)}


def texts(
    *intervals: IntervalFacts, parts: dict[int, PartsSum] = PARTS, excused: tuple[int, ...] = ()
) -> list[str]:
    return [one.text for one in check_engine(intervals, parts, excused)]


def test_conserved_intervals_have_no_problem() -> None:
    assert texts(FIRST, SECOND) == []


def test_one_nanosecond_is_an_alarm() -> None:
    (text,) = texts(FIRST, SECOND, parts=PARTS | {20: PartsSum(1, 1, 899)})
    assert "interval at sequence 20 (ordinals 2 to 3)" in text
    assert "is not the attributed 700 ns (difference 1)" in text


def test_missing_part_is_counted() -> None:
    (text,) = texts(FIRST, SECOND, parts=PARTS | {10: PartsSum(1, 1, 300)})
    assert "1 of its 2 parts are missing" in text


def test_interval_without_any_part_found_is_a_problem() -> None:
    (text,) = texts(FIRST, SECOND, parts={10: PARTS[10]})
    assert "1 of its 1 parts are missing" in text


def test_ordinal_that_stands_twice_is_a_problem() -> None:
    (text,) = texts(FIRST, SECOND, parts=PARTS | {10: PartsSum(3, 2, 500)})
    assert "3 parts carry only 2 ordinals" in text


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("ordinal_start", 1, "ordinal 2 then 1"),
        ("in_flight_start_ns", 199, "in-flight ns 200 then 199"),
        ("start_unix_ns", 1_001, "time ns 1000 then 1001"),
    ],
)
def test_intervals_that_do_not_join_are_a_problem(field: str, value: int, named: str) -> None:
    changes: dict[str, Any] = {field: value}
    found = texts(FIRST, replace(SECOND, **changes))
    assert named in found[0]


def test_first_interval_of_an_engine_starts_at_nothing() -> None:
    assert "ordinal 0 then 2, in-flight ns 0 then 200" in texts(SECOND)[0]


def test_engine_goes_on_where_an_earlier_source_left_it() -> None:
    assert check_engine([SECOND], PARTS, (), before=FIRST) == []


def test_dead_letter_excuses_the_part_that_it_held() -> None:
    parts = PARTS | {10: PartsSum(1, 1, 300)}
    assert texts(FIRST, SECOND, parts=parts, excused=(5,)) == []
    assert texts(FIRST, SECOND, parts=parts, excused=(25,)) != []


def test_dead_letter_excuses_no_surplus() -> None:
    parts = PARTS | {10: PartsSum(1, 1, 501)}
    assert "difference -1" in texts(FIRST, SECOND, parts=parts, excused=(5,))[0]


def test_lost_interval_excuses_that_its_neighbours_do_not_join() -> None:
    third = replace(
        SECOND,
        sequence=30,
        start_unix_ns=2_000,
        end_unix_ns=3_000,
        in_flight_start_ns=0,
        ordinal_start=3,
        ordinal_end=3,
        attributed_ns=0,
    )
    parts = {10: PARTS[10]}
    assert texts(FIRST, third, parts=parts, excused=(20,)) == []
    assert "does not join" in texts(FIRST, third, parts=parts)[0]


def test_time_line_adds_up_to_what_was_owned() -> None:
    line = TimeLine("r-1")
    line.add(FIRST)
    line.add(replace(SECOND, open_step_end_ns=50, idle_ns=100))
    assert (line.intervals, line.owned_ns, line.difference_ns()) == (2, 2_000, 0)
    line.add(replace(SECOND, stall_ns=99))
    assert line.difference_ns() == 1
