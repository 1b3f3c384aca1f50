"""Every reason for which an hour is held, one by one."""

from dataclasses import replace

import pytest

from streams.completeness import (
    HourFindings,
    Patience,
    SourceState,
    Watermark,
    crossing_watermarks,
    needed_sequence,
    reasons_to_hold,
)
from streams.completeness_ranges import Problem, RangeFindings

HOUR_MS = 3_600_000
HOUR = 500_000 * HOUR_MS
END = HOUR + HOUR_MS
PATIENCE = Patience(
    now_ms=END + 100 * HOUR_MS, grace_ms=24 * HOUR_MS, max_reasons=3, any_source=False
)


def closed(**changes: object) -> SourceState:
    state = SourceState("s", "host-1", HOUR, opened_ms=HOUR, final_sequence=9, closed_ms=END)
    state.findings = RangeFindings(last_seen=9)
    for name, value in changes.items():
        setattr(state, name, value)
    return state


FOUND_NOTHING = HourFindings(HOUR)


def reasons(*sources: SourceState, hour: HourFindings = FOUND_NOTHING) -> list[str]:
    return reasons_to_hold(sources, hour, PATIENCE)


def test_hour_of_a_closed_source_is_complete() -> None:
    assert reasons(closed()) == []


def test_open_source_without_a_watermark_holds() -> None:
    (reason,) = reasons(closed(final_sequence=None))
    assert reason.startswith("source s (host host-1): still open")
    assert "has no proven interval" in reason


@pytest.mark.parametrize(("oldest_open_ms", "held"), [(END - 1, True), (END, False)])
def test_open_source_holds_until_its_watermark_reaches_the_end(
    oldest_open_ms: int, held: bool
) -> None:
    state = closed(final_sequence=None, watermarks=[Watermark(5, oldest_open_ms)])
    assert bool(reasons(state)) is held


def test_source_opened_at_the_end_of_the_hour_does_not_matter_to_it() -> None:
    assert reasons(closed(), closed(opened_ms=END, final_sequence=None)) == []
    assert reasons(closed(), closed(opened_ms=END - 1, final_sequence=None)) != []


def test_problem_holds_every_hour_that_needs_its_sequence() -> None:
    state = closed(problems=[Problem(5, "sequence 5 is missing")])
    assert reasons(state) == ["source s (host host-1): sequence 5 is missing"]
    state.watermarks = [Watermark(4, END)]
    assert reasons(state) == []
    state.watermarks = [Watermark(5, END)]
    assert reasons(state) != []


def test_registered_source_of_which_nothing_came_holds_what_ends_after_it() -> None:
    silent = closed(opened_ms=None, final_sequence=None, registered_ms=END - 1)
    assert "nothing of it is here" in reasons(closed(), silent)[0]
    silent.registered_ms = END
    assert reasons(closed(), silent) == []


def test_without_a_source_an_hour_waits_for_its_grace_time() -> None:
    assert reasons() == []
    waiting = replace(PATIENCE, now_ms=END + 24 * HOUR_MS - 1)
    (reason,) = reasons_to_hold([], HourFindings(HOUR), waiting)
    assert "no source is known, and the hour ended less than 24 h ago" in reason
    known = replace(waiting, any_source=True)
    assert reasons_to_hold([], HourFindings(HOUR), known) == []


def test_orphans_are_named_and_too_many_contradictions_hold() -> None:
    crowded, orphan = reasons(closed(), hour=HourFindings(HOUR, ("id-2",), crowded=True))
    assert crowded.startswith("too many events are there with different contents")
    assert orphan == "parts of request id-2 are there without the request"


def test_reasons_beyond_the_bound_are_counted() -> None:
    problems = [Problem(n, f"problem {n}") for n in range(1, 7)]
    found = reasons(closed(problems=problems))
    assert len(found) == 4
    assert found[-1] == "and 3 more reasons"


def test_first_watermark_past_the_end_says_which_sequence_is_needed() -> None:
    marks = [Watermark(3, END - 1), Watermark(5, END), Watermark(7, END + HOUR_MS)]
    state = closed(watermarks=marks)
    assert needed_sequence(state, END) == 5
    assert needed_sequence(state, END + 2 * HOUR_MS) == 9
    assert needed_sequence(closed(final_sequence=None), END) is None


def test_only_watermarks_that_pass_a_whole_hour_and_the_highest_are_kept() -> None:
    marks = [
        Watermark(1, HOUR + 1),
        Watermark(2, HOUR + 2),
        Watermark(3, END),
        Watermark(4, HOUR + 3),
        Watermark(5, END + 1),
        Watermark(6, END + 2),
    ]
    assert crossing_watermarks(marks) == [marks[0], marks[2], marks[5]]
    assert crossing_watermarks([]) == []


def test_expected_sequences_end_with_the_final_one_or_the_last_seen() -> None:
    assert closed().expected() == 9
    assert closed(final_sequence=None).expected() == 9
    assert closed(watermarks=[Watermark(1, END)]).watermark_ms() == END
