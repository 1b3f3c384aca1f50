"""Closes hours again whose usage a decision touches; hours that were never decided are left."""

from collections.abc import Collection, Iterator

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.store.hours import hours_between
from schemas.clock import Clock
from schemas.periods import HOUR, Period
from schemas.units import MS_PER_HOUR
from streams.close import HourVerdict, Progress, close_hours, silent
from streams.rollup import hour_at
from streams.settings import StreamSettings


def reclose(
    client: Client,
    store: Engine,
    hours: Collection[int],
    *,
    clock: Clock,
    settings: StreamSettings | None = None,
    progress: Progress = silent,
) -> list[HourVerdict]:
    """Look again at those of some hours (ms since the epoch) that were decided before.

    Raises:
        ConservationError: As `streams.close.close_hours`.
    """
    verdicts: list[HourVerdict] = []
    for first, end in _stretches(_decided(store, hours)):
        period = Period(hour_at(first), hour_at(end), f"{hour_at(first):%Y-%m-%dT%H}")
        closing = close_hours(
            client, store, period, clock=clock, settings=settings, progress=progress
        )
        verdicts += closing.hours
    return verdicts


def _decided(store: Engine, hours: Collection[int]) -> list[int]:
    if not hours:
        return []
    found = hours_between(store, hour_at(min(hours)), hour_at(max(hours)) + HOUR)
    decided = {int(one.hour.timestamp()) * 1_000 for one in found}
    return sorted(decided & set(hours))


def _stretches(hours: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring hours as `[first, end)`."""
    first = end = 0
    for hour in hours:
        if first and hour == end:
            end += MS_PER_HOUR
            continue
        if first:
            yield first, end
        first, end = hour, hour + MS_PER_HOUR
    if first:
        yield first, end
