"""Laws of live spend: sums depend on the log alone, not on batches, restarts or copies."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.estimates import ESTIMATED_METERS, Estimator
from schemas.spend import MEASURES, PartialSums
from streams.live_windows import LiveEvent, RecentIds, fold
from tests.support.spend_examples import SPEND_BOOK

LOOKBACK = 8
HOUR_MS = 3_600_000
START_MS = 1_790_812_800_000
ESTIMATOR = Estimator(SPEND_BOOK)
_tokens = st.integers(0, 10_000)


@st.composite
def logs(draw: st.DrawFn) -> list[LiveEvent]:
    """Offsets with holes; ids from a small set, so that copies lie near and far."""
    offsets = sorted(draw(st.sets(st.integers(0, 200), max_size=60)))
    made: dict[int, tuple[Any, ...]] = {}
    events = []
    for offset in offsets:
        number = draw(st.integers(0, 20))
        if number not in made:
            tenant = draw(st.sampled_from(["acme", "globex"]))
            dimensions = (tenant, "p", "llama", "", "standard", "h100", "eu")
            time_ms = START_MS + draw(st.integers(0, 3 * HOUR_MS))
            quantities = tuple(draw(_tokens) for _ in ESTIMATED_METERS[:-1])
            outcome = draw(st.sampled_from(["stop", "refused"]))
            made[number] = (time_ms, dimensions, "key", outcome, (*quantities, 1))
        events.append(LiveEvent(number.to_bytes(16, "big"), offset, *made[number]))
    return events


def summed(events: list[LiveEvent], cuts: list[int], *, restarts: bool) -> PartialSums:
    """Sum a log cut at some offsets; with a restart, memory is made anew from the log."""
    total, start, recent = PartialSums(), 0, RecentIds(LOOKBACK)
    for end in sorted({*cuts, 201}):
        if restarts:
            recent = RecentIds(LOOKBACK)
            again = [one for one in events if start - LOOKBACK <= one.offset < start]
            assert fold(again, start, recent, ESTIMATOR) == PartialSums()
        part = [one for one in events if start <= one.offset < end]
        total.add(fold(part, start, recent, ESTIMATOR))
        start = end
    return total


@given(logs(), st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_sums_do_not_depend_on_batches_and_restarts(
    events: list[LiveEvent], cuts: list[int], restarts: bool
) -> None:
    assert summed(events, cuts, restarts=restarts) == summed(events, [], restarts=False)


@given(logs())
def test_event_counts_once_unless_its_copy_lies_further_away_than_is_looked_back(
    events: list[LiveEvent],
) -> None:
    seen: dict[bytes, int] = {}
    expected = 0
    for event in events:
        expected += event.offset - seen.get(event.event_id, -1_000) > LOOKBACK
        seen[event.event_id] = event.offset
    sums = summed(events, [], restarts=False)
    assert len(sums.finished) == expected
    requests = MEASURES.index("requests")
    for grain in ("minute", "hour"):
        counted = [values for key, values in sums.windows.items() if key.grain == grain]
        assert sum(values[requests] for values in counted) == expected


@given(logs())
def test_minutes_hours_and_months_hold_the_same_amount(events: list[LiveEvent]) -> None:
    sums = summed(events, [], restarts=False)
    amount = MEASURES.index("amount_e9")
    for tenant in ("acme", "globex"):
        by_grain = [
            sum(
                values[amount]
                for key, values in sums.windows.items()
                if (key.tenant, key.grain) == (tenant, grain)
            )
            for grain in ("minute", "hour")
        ]
        month = sum(one for key, one in sums.months.items() if key.tenant == tenant)
        assert by_grain == [month, month]


@given(logs())
def test_memory_of_copies_is_bounded_by_the_lookback(events: list[LiveEvent]) -> None:
    recent = RecentIds(LOOKBACK)
    for event in events:
        recent.is_copy(event.event_id, event.offset)
        assert len(recent) <= LOOKBACK + 1
