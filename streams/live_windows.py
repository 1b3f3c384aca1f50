"""Events become partial sums of usage and estimated spend by key and window. Pure.

The sums of a log are a function of its records alone: they do not depend on how it was cut into
batches, nor on where somebody stopped and another went on. Whole columns are priced and summed at
once; what could pass 64 bits on the way is counted again in Python's integers.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas.estimates import ESTIMATED_METERS, Estimator, Tariff
from schemas.prices import SELECTORS
from schemas.spend import MEASURES, MonthKey, PartialSums, WindowKey, month_start_ms
from schemas.units import MS_PER_HOUR

MS_PER_MINUTE = 60_000
_COUNTED = ESTIMATED_METERS[:-1]
"""The columns that are summed; `requests` has none, each event is one."""
_NAMES = (*SELECTORS, "api_key", "outcome")
_INT64_MAX = 2**63 - 1


class _Group(NamedTuple):
    """Events of one minute that are alike in everything but their quantities."""

    tenant: str
    project: str
    api_key: str
    minute_ms: int
    tariff: Tariff


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

    def are_copies(self, event_ids: Sequence[bytes], offsets: Sequence[int]) -> list[bool]:
        """Of each, whether it was seen lately; remembers all. Offsets must rise."""
        seen = self._last_seen
        found = []
        for event_id, offset in zip(event_ids, offsets, strict=True):
            found.append(offset - seen.pop(event_id, offset - _FAR) <= self._lookback)
            seen[event_id] = offset
        while seen and next(iter(seen.values())) < offset - self._lookback:
            seen.popitem(last=False)
        return found


_FAR = 2**63


def fold(usage: pa.Table, start: int, recent: RecentIds, estimator: Estimator) -> PartialSums:
    """Sum what lies at `start` or behind it; what lies before is only remembered.

    Args:
        usage: Rows of `usage_events` of one partition, each offset behind those folded before.
        start: Where the sums of the partition end so far.
        recent: Of this partition; is told of every event.
        estimator: The price book in force.
    """
    sums = PartialSums()
    if len(usage) == 0:
        return sums
    usage = usage.sort_by("kafka_offset").combine_chunks()
    offsets, event_ids = (usage.column(name).to_pylist() for name in ("kafka_offset", "event_id"))
    copies = recent.are_copies(event_ids, offsets)
    counts = [offset >= start and not copy for offset, copy in zip(offsets, copies, strict=True)]
    sums.finished = [one for one, counted in zip(event_ids, counts, strict=True) if counted]
    if sums.finished:
        _add(sums, usage.filter(pa.array(counts)), estimator)
    return sums


def measures(quantities: Sequence[int], amount_e9: int, *, unpriced: bool) -> list[int]:
    """One event's worth of `MEASURES`."""
    return [quantities[-1], *quantities[:-1], amount_e9, int(unpriced)]


def _add(sums: PartialSums, usage: pa.Table, estimator: Estimator) -> None:
    times = usage.column("event_time").combine_chunks().cast(pa.int64())
    names = [usage.column(name).combine_chunks() for name in _NAMES]
    minutes = pc.divide(times, MS_PER_MINUTE).dictionary_encode()
    codes, firsts = _alike([*names, minutes])
    groups = _groups([_words(column.take(firsts)) for column in (*names, minutes)], estimator)
    quantities = [usage.column(name).combine_chunks() for name in _COUNTED]
    quantities.append(pa.repeat(pa.scalar(1, pa.int64()), len(usage)))
    tariffs = [group.tariff for group in groups]
    amounts_e9 = _amounts_e9(quantities, codes, tariffs)
    unpriced = _unpriced(quantities, codes, tariffs)
    columns = [quantities[-1], *quantities[:-1], amounts_e9, unpriced]
    for group, used in zip(groups, _summed(columns, codes, len(groups)), strict=True):
        _grow(sums, group, used)


def _words(column: pa.DictionaryArray) -> list[Any]:
    """`to_pylist`, which would make each word anew for each row."""
    words = column.dictionary.to_pylist()
    return [words[place] for place in column.indices.to_pylist()]


def _alike(columns: Sequence[pa.DictionaryArray]) -> tuple[pa.Array, pa.Array]:
    """Number the distinct rows of some columns in the order in which they first occur.

    Returns:
        Of each row its number; and of each number the first row that has it.
    """
    codes = pa.repeat(pa.scalar(0, pa.int64()), len(columns[0]))
    for column in columns:
        # Codes are below the number of rows, places below that of a dictionary's words.
        wide = pc.multiply(codes, len(column.dictionary))
        codes = pc.add(wide, column.indices.cast(pa.int64())).dictionary_encode().indices
        codes = codes.cast(pa.int64())
    rows = pa.table({"code": codes, "row": pa.array(range(len(codes)), pa.int64())})
    firsts = rows.group_by("code").aggregate([("row", "min")]).sort_by("code")
    return codes, firsts.column("row_min").combine_chunks()


def _groups(alike: Sequence[Sequence[Any]], estimator: Estimator) -> list[_Group]:
    """Of columns of words, the last the number of a minute: one group for each row."""
    found = []
    for *dimensions, api_key, outcome, minute in zip(*alike, strict=True):
        minute_ms = minute * MS_PER_MINUTE
        tariff = estimator.tariff(tuple(dimensions), minute_ms, outcome)
        found.append(_Group(dimensions[0], dimensions[1], api_key, minute_ms, tariff))
    return found


def _amounts_e9(
    quantities: Sequence[pa.Array], codes: pa.Array, tariffs: Sequence[Tariff]
) -> pa.Array:
    """What each event costs, rounded up: `Tariff.amount_e9` of every row."""
    most = [pc.max(column).as_py() for column in quantities]
    dearest = [max(weights) for weights in zip(*(one.weights for one in tariffs), strict=True)]
    divisors = [one.divisor for one in tariffs]
    scaled_max = sum(map(int.__mul__, most, dearest)) + max(divisors)
    if scaled_max > _INT64_MAX or max(dearest) > _INT64_MAX:
        rows = zip(*(column.to_pylist() for column in quantities), strict=True)
        exact = [
            tariffs[code].amount_e9(row) for code, row in zip(codes.to_pylist(), rows, strict=True)
        ]
        return pa.array(exact, pa.int64())
    scaled = pa.repeat(pa.scalar(0, pa.int64()), len(codes))
    for place, column in enumerate(quantities):
        if dearest[place]:
            weights = pa.array([one.weights[place] for one in tariffs], pa.int64()).take(codes)
            scaled = pc.add(scaled, pc.multiply(column, weights))
    divisor = pa.array(divisors, pa.int64()).take(codes)
    return pc.divide(pc.add(scaled, pc.subtract(divisor, 1)), divisor)


def _unpriced(
    quantities: Sequence[pa.Array], codes: pa.Array, tariffs: Sequence[Tariff]
) -> pa.Array:
    """1 for each event that used something without a price."""
    found = pa.repeat(pa.scalar(False), len(codes))  # noqa: FBT003 - a value, no flag
    for place in sorted({place for one in tariffs for place in one.without_price}):
        lacks = pa.array([place in one.without_price for one in tariffs]).take(codes)
        found = pc.or_(found, pc.and_(lacks, pc.not_equal(quantities[place], 0)))
    return found.cast(pa.int64())


def _summed(columns: Sequence[pa.Array], codes: pa.Array, groups: int) -> list[list[int]]:
    """Each group's sum of each column."""
    if any(pc.max(column).as_py() * len(codes) > _INT64_MAX for column in columns):
        exact = [[0] * len(columns) for _ in range(groups)]
        for place, column in enumerate(columns):
            for code, value in zip(codes.to_pylist(), column.to_pylist(), strict=True):
                exact[code][place] += value
        return exact
    names = [str(place) for place in range(len(columns))]
    table = pa.table([codes, *columns], names=["code", *names])
    summed = table.group_by("code").aggregate([(name, "sum") for name in names]).sort_by("code")
    by_column = [summed.column(f"{name}_sum").to_pylist() for name in names]
    return [list(row) for row in zip(*by_column, strict=True)]


def _grow(sums: PartialSums, group: _Group, used: Sequence[int]) -> None:
    tenant, project, api_key, minute_ms, _ = group
    hour_ms = minute_ms - minute_ms % MS_PER_HOUR
    minute = WindowKey(tenant, "minute", minute_ms, project, api_key)
    for key in (minute, WindowKey(tenant, "hour", hour_ms, project, api_key)):
        known = sums.windows.get(key)
        if known is None:
            sums.windows[key] = list(used)
        else:
            known[:] = map(int.__add__, known, used)
    month = MonthKey(tenant, _month_of_hour(hour_ms))
    sums.months[month] = sums.months.get(month, 0) + used[_AMOUNT]


_AMOUNT = MEASURES.index("amount_e9")
_MONTHS: dict[int, int] = {}
_MONTHS_MAX = 10_000


def _month_of_hour(hour_ms: int) -> int:
    """`month_start_ms`, looked up: it is asked for with every event."""
    if hour_ms not in _MONTHS:
        if len(_MONTHS) >= _MONTHS_MAX:
            _MONTHS.clear()
        _MONTHS[hour_ms] = month_start_ms(hour_ms)
    return _MONTHS[hour_ms]
