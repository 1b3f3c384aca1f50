"""Synthetic fleets: tenants, models and load described in a YAML file, drawn from a seed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from inference.simulate.assign import (
    PERMILLE,
    ROSTER_FIELDS,
    Roster,
    cached_tokens,
    roster_of,
)
from inference.simulate.lined_yaml import Lined, read_yaml
from inference.simulate.plan import Arrival, Draw, Workload, draws
from inference.simulate.trace import TOKENS_PER_ROW_MAX
from schemas.ids import EVENT_TIME_FIRST_MS, EVENT_TIME_LAST_MS
from schemas.units import MS_PER_S, NS_PER_HOUR, NS_PER_MS
from schemas.usage import Outcome

HOURS_PER_DAY = 24
_HOURS_MAX = 24 * 366
_REQUESTS_PER_HOUR_MAX = 10_000_000
_DIURNAL_PERCENT_MAX = 10_000
_START = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:00:00Z")
_ENDS: tuple[Outcome, ...] = ("client_gone", "error", "abort", "refused", "length")


class Load(NamedTuple):
    """How much comes when: in hour `h` of the UTC day, `requests_per_hour * percent[h] / 100`."""

    start_ms: int
    hours: int
    requests_per_hour: int
    diurnal_percent: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet file. Token counts are given as evenly spaced quantiles, read linearly between."""

    roster: Roster
    load: Load
    context_tokens: tuple[int, ...]
    generated_tokens: tuple[int, ...]
    reasoning_permille: int
    ends_permille: tuple[int, ...]


def read_fleet(path: Path) -> Fleet:
    """Read a fleet file.

    Raises:
        FleetFileError: For the first thing that is wrong, with file and line.
    """
    root, raw = read_yaml(path)
    fields = root.fields((*ROSTER_FIELDS, "load", "requests", "outcomes_permille"))
    requests = fields["requests"].fields(
        ("context_tokens", "generated_tokens"), ("reasoning_permille",)
    )
    reasoning = requests.get("reasoning_permille")
    ends = fields["outcomes_permille"].fields((), _ENDS)
    ends_permille = tuple(ends[name].integer(0, PERMILLE) if name in ends else 0 for name in _ENDS)
    if sum(ends_permille) > PERMILLE:
        raise fields["outcomes_permille"].wrong(f"they sum to {sum(ends_permille)} > {PERMILLE}")
    return Fleet(
        roster=roster_of({name: fields[name] for name in ROSTER_FIELDS}, path.name, raw),
        load=_load(fields["load"]),
        context_tokens=_quantiles(requests["context_tokens"]),
        generated_tokens=_quantiles(requests["generated_tokens"]),
        reasoning_permille=reasoning.integer(0, PERMILLE) if reasoning else 0,
        ends_permille=ends_permille,
    )


def workload_of_fleet(fleet: Fleet, *, seed: int) -> Workload:
    """Draw every request of a fleet, by time."""
    roster = fleet.roster
    admitted = list(_hours(fleet.load))
    arrivals = [
        _arrival(fleet, row, hour_ns, draw)
        for (row, hour_ns), draw in zip(
            enumerate(admitted), draws(seed, len(admitted)), strict=True
        )
    ]
    arrivals.sort(key=lambda arrival: arrival.recorded_ns)
    return Workload(roster.name, roster.sha256, seed, roster, arrivals)


def _hours(load: Load) -> Iterator[int]:
    """The start of its hour, for every request."""
    for hour in range(load.hours):
        hour_ns = load.start_ms * NS_PER_MS + hour * NS_PER_HOUR
        of_day = hour_ns // NS_PER_HOUR % HOURS_PER_DAY
        for _ in range(load.requests_per_hour * load.diurnal_percent[of_day] // 100):
            yield hour_ns


def _arrival(fleet: Fleet, row: int, hour_ns: int, draw: Draw) -> Arrival:
    """One request; what a draw has no field for comes from its entropy's digits."""
    roster = fleet.roster
    keys = roster.owners[draw.tenant % len(roster.owners)]
    models = [model for model in roster.models for _ in range(model.weight)]
    more = int.from_bytes(draw.entropy, "big")
    more, within_hour = divmod(more, NS_PER_HOUR)
    more, end_draw = divmod(more, PERMILLE)
    context_draw, generated_draw = draw.owner >> 8, draw.tier >> 8
    context = _between(fleet.context_tokens, context_draw)
    generated = _between(fleet.generated_tokens, generated_draw)
    outcome = _end_of(fleet.ends_permille, end_draw)
    if outcome in {"client_gone", "error", "abort"}:
        generated = generated * (draw.model >> 16) // (1 << 16)
    return Arrival(
        label=f"fleet:{row}",
        recorded_ns=hour_ns + within_hour,
        entropy=draw.entropy,
        owner=keys[draw.owner % len(keys)],
        tier=roster.tiers[draw.tier % len(roster.tiers)],
        model=models[draw.model % len(models)],
        context_tokens=context,
        cached_tokens=cached_tokens(roster.cache, context, draw.cache_hit, draw.cache_share),
        stop_at=0 if outcome == "refused" else generated,
        outcome=outcome,
        reasoning_permille=fleet.reasoning_permille,
    )


def _between(quantiles: tuple[int, ...], draw: int) -> int:
    """A value of the distribution with these quantiles, by 24 uniform bits."""
    place = draw * (len(quantiles) - 1)
    index, rest = divmod(place, 1 << 24)
    low, high = quantiles[index], quantiles[index + 1]
    return low + (high - low) * rest // (1 << 24)


def _end_of(ends_permille: tuple[int, ...], draw: int) -> Outcome:
    for outcome, share in zip(_ENDS, ends_permille, strict=True):
        if draw < share:
            return outcome
        draw -= share
    return "stop"


def _load(node: Lined) -> Load:
    fields = node.fields(("start", "hours", "requests_per_hour"), ("diurnal_percent",))
    start = fields["start"]
    text = start.text()
    expected = f"{text!r} is not a whole UTC hour such as 2026-10-01T00:00:00Z"
    if not _START.fullmatch(text):
        raise start.wrong(expected)
    try:
        start_ms = int(datetime.fromisoformat(text).astimezone(UTC).timestamp()) * MS_PER_S
    except ValueError as error:
        raise start.wrong(expected) from error
    hours = fields["hours"].integer(1, _HOURS_MAX)
    if not EVENT_TIME_FIRST_MS <= start_ms < EVENT_TIME_LAST_MS - hours * 3_600 * MS_PER_S:
        raise start.wrong(f"{text!r} is outside the years 2015 to 2099")
    percent = (100,) * HOURS_PER_DAY
    if "diurnal_percent" in fields:
        diurnal = fields["diurnal_percent"]
        percent = tuple(one.integer(0, _DIURNAL_PERCENT_MAX) for one in diurnal.items())
        if len(percent) != HOURS_PER_DAY:
            raise diurnal.wrong(f"{HOURS_PER_DAY} figures are expected, not {len(percent)}")
    return Load(
        start_ms, hours, fields["requests_per_hour"].integer(0, _REQUESTS_PER_HOUR_MAX), percent
    )


def _quantiles(node: Lined) -> tuple[int, ...]:
    items = list(node.items())
    values = tuple(one.integer(0, TOKENS_PER_ROW_MAX) for one in items)
    if len(values) < 2:  # noqa: PLR2004
        raise node.wrong("at least two quantiles are expected: the least and the most")
    for before, one, value in zip(values, items[1:], values[1:], strict=False):
        if value < before:
            raise one.wrong(f"{value} is less than the quantile before it, {before}")
    return values
