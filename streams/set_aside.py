"""What the ledger holds of a period by hour: what is rolled up, and why the rest is not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from infra.store.hours import NEVER_DECIDED, hours_between
from infra.store.runs import RecordedRun
from infra.store.sources import registered_keys
from schemas.periods import Period
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.close import hour_range
from streams.close_sql import CONTENTS
from streams.replay import in_force
from streams.rollup_sql import HourRange
from streams.run_inputs import RunInputs, inputs_of_runs
from streams.set_aside_sql import (
    MEASURES,
    REASONS,
    REGISTERED,
    events_of,
    in_ledger,
    rolled_up,
    set_aside,
)
from streams.settings import StreamSettings

Sums = tuple[int, ...]
"""One number for each of `MEASURES`."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class SetAsidePart:
    """A part of an hour that is in the ledger and not rolled up; `events` are its first ids."""

    hour_ms: int
    reason: str
    sums: Sums
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LedgerShares:
    """By hour in ms since the epoch what the ledger holds and what is rolled up; and the rest."""

    held: Mapping[int, Sums]
    rolled_up: Mapping[int, Sums]
    set_aside: Sequence[SetAsidePart]


def ledger_shares(
    client: Client,
    store: Engine,
    period: Period,
    *,
    events_max: int,
    settings: StreamSettings,
    progress: Progress = lambda *_: None,
) -> LedgerShares:
    """Count a period in the ledger and in its roll-ups, and find what of it was set aside, and why.

    Args:
        client: The ledger.
        store: The billing store: hours, runs, sources, decisions.
        period: Whole hours.
        events_max: So many ids are named for each reason in each hour.
        settings: Bounds of reading.
        progress: Told after each group of hours.
    """
    span = hour_range(period)
    held, rolled = (_by_hour(client, sql) for sql in (in_ledger(span), rolled_up(span)))
    runs = {hour: run for hour, run in in_force(store, period).items() if hour in held}
    aside = [
        _whole_hour(client, hour, sums, reason, events_max)
        for hour, sums, reason in _without_run(store, period, held, runs)
    ]
    registered = (REGISTERED, [(source,) for source in sorted(registered_keys(store))])
    done = 0
    for inputs in inputs_of_runs(client, store, runs, settings):
        aside += _of_runs(client, inputs, registered, events_max)
        done += len(inputs.runs)
        progress("sharing out", done, len(runs))
    return LedgerShares(held, rolled, sorted(aside, key=lambda one: (one.hour_ms, one.reason)))


def _by_hour(client: Client, sql: str) -> dict[int, Sums]:
    return {hour: tuple(map(int, sums)) for hour, *sums in client.query(sql).result_rows}


def _without_run(
    store: Engine, period: Period, held: Mapping[int, Sums], runs: Mapping[int, RecordedRun]
) -> list[tuple[int, Sums, str]]:
    decided = {
        int(one.hour.timestamp()) * MS_PER_S: one
        for one in hours_between(store, period.start, period.end)
    }
    found = []
    for hour, sums in held.items():
        if hour in runs:
            continue
        decision = decided.get(hour)
        if decision is None:
            reason = f"hour {NEVER_DECIDED}: close it"
        elif decision.state == "held":
            reason = f"hour held: {decision.reason}"
        else:
            reason = REASONS["unsigned"]
        found.append((hour, sums, reason))
    return found


def _whole_hour(
    client: Client, hour: int, sums: Sums, reason: str, events_max: int
) -> SetAsidePart:
    rows = client.query(
        events_of(HourRange(hour, hour + MS_PER_HOUR)), {"most": events_max}
    ).result_rows
    return SetAsidePart(hour, reason, sums, tuple(event_id for (event_id,) in rows))


def _of_runs(
    client: Client,
    inputs: RunInputs,
    registered: tuple[str, list[tuple[str]]],
    events_max: int,
) -> list[SetAsidePart]:
    contents = (CONTENTS, [(one,) for one in sorted(inputs.books.taken_out)])
    rows = client.query(
        set_aside(inputs.ledger.offsets, inputs.span),
        {"most": events_max},
        external_data=external(
            **inputs.books.billable_tables(), registered=registered, contents=contents
        ),
    ).result_rows
    return [
        SetAsidePart(hour, REASONS[reason], tuple(map(int, sums)), tuple(events))
        for hour, reason, *sums, events in rows
        if hour in inputs.runs
    ]


__all__ = ["MEASURES", "LedgerShares", "SetAsidePart", "ledger_shares"]
