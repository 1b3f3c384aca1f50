"""Events become partial sums of usage and estimated spend by key and window. Pure.

The sums of a log are a function of its records alone: they do not depend on how it was cut into
batches, nor on where somebody stopped and another went on.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa

from schemas.estimates import ESTIMATED_METERS, Estimator
from schemas.prices import SELECTORS
from schemas.spend import MEASURES, MonthKey, PartialSums, WindowKey, month_start_ms
from schemas.units import MS_PER_HOUR

MS_PER_MINUTE = 60_000
_COUNTED = ESTIMATED_METERS[:-1]
"""The columns that are summed; `requests` has none, each event is one."""


class LiveEvent(NamedTuple):
    """What live spend needs of one finished request; `quantities` are of `ESTIMATED_METERS`."""

    event_id: bytes
    offset: int
    time_ms: int
    dimensions: tuple[str, str, str, str, str, str, str]
    api_key: str
    outcome: str
    quantities: tuple[int, ...]


class RecentIds:
    """Which events the last stretch of one partition held, by their ids.

    A record is a copy if its event was seen within the `lookback` offsets before it. Copies lie in
    one partition, for the event's id is the record's key, and close together, for they come of a
    producer that was not sure. What is remembered follows from the log alone: whoever reads the
    `lookback` records before an offset knows what everybody knew there.
    """

    def __init__(self, lookback: int) -> None:
        self._lookback = lookback
        self._last_seen: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last_seen)

    def is_copy(self, event_id: bytes, offset: int) -> bool:
        """Whether it was seen lately; remembers it either way. Offsets must rise."""
        seen = self._last_seen
        while seen and next(iter(seen.values())) < offset - self._lookback:
            seen.popitem(last=False)
        known = event_id in seen
        seen[event_id] = offset
        seen.move_to_end(event_id)
        return known


def live_events(usage: pa.Table) -> Iterator[LiveEvent]:
    """The rows of `usage_events` in the order of their offsets."""
    if len(usage) == 0:
        return
    usage = usage.sort_by("kafka_offset")

    def values(name: str) -> list[Any]:
        found: list[Any] = usage.column(name).to_pylist()
        return found

    times = usage.column("event_time").cast(pa.int64()).to_pylist()
    dimensions = zip(*(values(name) for name in SELECTORS), strict=True)
    ones = [1] * len(times)
    quantities = zip(*(values(name) for name in _COUNTED), ones, strict=True)
    yield from map(
        LiveEvent,
        values("event_id"),
        values("kafka_offset"),
        times,
        dimensions,
        values("api_key"),
        values("outcome"),
        quantities,
    )


def fold(
    events: Sequence[LiveEvent] | Iterator[LiveEvent],
    start: int,
    recent: RecentIds,
    estimator: Estimator,
) -> PartialSums:
    """Sum what lies at `start` or behind it; what lies before is only remembered.

    Args:
        events: Of one partition, in the order of their offsets.
        start: Where the sums of the partition end so far.
        recent: Of this partition; is told of every event.
        estimator: The price book in force.
    """
    sums = PartialSums()
    for event in events:
        is_copy = recent.is_copy(event.event_id, event.offset)
        if event.offset >= start and not is_copy:
            _add(sums, event, estimator)
    return sums


def measures(quantities: Sequence[int], amount_e9: int, *, unpriced: bool) -> list[int]:
    """One event's worth of `MEASURES`."""
    return [quantities[-1], *quantities[:-1], amount_e9, int(unpriced)]


def _add(sums: PartialSums, event: LiveEvent, estimator: Estimator) -> None:
    amount_e9, unpriced = _estimate(event, estimator)
    tenant, project = event.dimensions[:2]
    used = measures(event.quantities, amount_e9, unpriced=unpriced)
    time_ms = event.time_ms
    minute = WindowKey(tenant, "minute", time_ms - time_ms % MS_PER_MINUTE, project, event.api_key)
    hour_ms = time_ms - time_ms % MS_PER_HOUR
    for key in (minute, WindowKey(tenant, "hour", hour_ms, project, event.api_key)):
        known = sums.windows.get(key)
        if known is None:
            sums.windows[key] = list(used)
        else:
            for place in _MEASURE_PLACES:
                known[place] += used[place]
    month = MonthKey(tenant, _month_of_hour(hour_ms))
    sums.months[month] = sums.months.get(month, 0) + amount_e9
    sums.finished.append(str(UUID(bytes=event.event_id)))


def _estimate(event: LiveEvent, estimator: Estimator) -> tuple[int, bool]:
    estimate = estimator.estimate(event.dimensions, event.time_ms, event.outcome, event.quantities)
    return estimate.amount_e9, estimate.unpriced


_MEASURE_PLACES = range(len(MEASURES))
_MONTHS: dict[int, int] = {}
_MONTHS_MAX = 10_000


def _month_of_hour(hour_ms: int) -> int:
    """`month_start_ms`, looked up: it is asked for with every event."""
    if hour_ms not in _MONTHS:
        if len(_MONTHS) >= _MONTHS_MAX:
            _MONTHS.clear()
        _MONTHS[hour_ms] = month_start_ms(hour_ms)
    return _MONTHS[hour_ms]
