"""Laws of live spend: sums depend on the log alone, not on batches, restarts or copies."""

from typing import Any, NamedTuple

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from schemas.estimates import ESTIMATED_METERS, Estimator
from schemas.prices import SELECTORS
from schemas.spend import MEASURES, PartialSums, WindowKey
from streams.live_windows import RecentIds, fold, measures
from tests.support.spend_examples import SPEND_BOOK

LOOKBACK = 8
HOUR_MS = 3_600_000
START_MS = 1_790_812_800_000
ESTIMATOR = Estimator(SPEND_BOOK)
_tokens = st.integers(0, 10_000) | st.integers(0, 2**32)
_gpu_ns = st.integers(0, 10**12) | st.integers(0, 2**62)


class LiveEvent(NamedTuple):
    """What live spend reads of one row; `quantities` are of `ESTIMATED_METERS`."""

    event_id: bytes
    offset: int
    time_ms: int
    dimensions: tuple[str, str, str, str, str, str, str]
    api_key: str
    outcome: str
    quantities: tuple[int, ...]


def rows(events: list[LiveEvent]) -> pa.Table:
    """As the decoder makes them: words are in dictionaries."""
    words = [[*one.dimensions, one.api_key, one.outcome] for one in events]
    numbers = [one.quantities[:-1] for one in events]
    columns: dict[str, pa.Array] = {
        "event_id": pa.array([one.event_id for one in events], pa.binary(16)),
        "kafka_offset": pa.array([one.offset for one in events], pa.uint64()),
        "event_time": pa.array([one.time_ms for one in events], pa.timestamp("ms", "UTC")),
    }
    for place, name in enumerate((*SELECTORS, "api_key", "outcome")):
        plain = pa.array([word[place] for word in words], pa.string())
        columns[name] = plain.dictionary_encode()
    for place, name in enumerate(ESTIMATED_METERS[:-1]):
        columns[name] = pa.array([number[place] for number in numbers], pa.int64())
    return pa.table(columns)


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
            tokens = [draw(_tokens) for _ in ESTIMATED_METERS[:-2]]
            quantities = (*tokens, draw(_gpu_ns))
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
            assert fold(rows(again), start, recent, ESTIMATOR) == PartialSums()
        part = [one for one in events if start <= one.offset < end]
        total.add(fold(rows(part), start, recent, ESTIMATOR))
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
        recent.are_copies([event.event_id], [event.offset])
        assert len(recent) <= LOOKBACK + 1


@given(logs())
def test_whole_columns_come_to_what_each_event_is_estimated_at(events: list[LiveEvent]) -> None:
    """Also where a column's sum passes 64 bits: Python's integers count it then."""
    expected: dict[WindowKey, list[int]] = {}
    seen: dict[bytes, int] = {}
    for event in events:
        is_copy = event.offset - seen.get(event.event_id, -1_000) <= LOOKBACK
        seen[event.event_id] = event.offset
        if is_copy:
            continue
        cost = ESTIMATOR.estimate(event.dimensions, event.time_ms, event.outcome, event.quantities)
        used = measures(event.quantities, cost.amount_e9, unpriced=cost.unpriced)
        start_ms = event.time_ms - event.time_ms % HOUR_MS
        key = WindowKey(event.dimensions[0], "hour", start_ms, "p", "key")
        known = expected.get(key, [0] * len(MEASURES))
        expected[key] = list(map(int.__add__, known, used))
    sums = summed(events, [], restarts=False)
    assert {key: one for key, one in sums.windows.items() if key.grain == "hour"} == expected
