"""Corrects live spend by what hour close has published, and ends the holds that it has outlived.

A correction is one more partial sum, beside those of the log's partitions: published minus summed.
An hour is corrected once everything that its run was made from is in the sums: what the run has and
the sums have not is then missing from the log's sums for good (retention, a book that came late),
and what the sums have twice is a copy from further away than copies are looked for. What arrives
for an hour after its run belongs to the run that closes it again; until that one is published the
hour may show a little less.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from infra.clickhouse.client import Client
from infra.store.engine import take_turns
from infra.store.live_spend import CORRECTED, add_to_months, add_to_windows, offsets_of
from infra.store.runs import RecordedRun, runs_between
from infra.store.tables import admission_holds, live_corrections, live_windows
from infra.store.times import hour_to_ms, ms_to_hour
from schemas.estimates import ESTIMATED_METERS, Estimator
from schemas.periods import HOUR
from schemas.prices import SELECTORS
from schemas.spend import MEASURES, MonthKey, WindowKey, month_start_ms
from schemas.topics import USAGE
from schemas.units import MS_PER_HOUR
from streams.live_windows import measures

log = logging.getLogger("rentroll.live")

_DIMENSIONS = (*SELECTORS, "api_key", "outcome")
_KEYS = len(_DIMENSIONS)
_COUNTED = (*ESTIMATED_METERS[:-1], "requests")
Published = dict[tuple[str, str, str], list[int]]
"""By tenant, project and API key, each of `MEASURES`."""


@dataclass(frozen=True, slots=True)
class Corrector:
    """What a correction needs."""

    store: Engine
    client: Client
    kept_days: int

    def correct(self, estimator: Estimator, now_ms: int) -> int:
        """Correct every hour that has a run it was not corrected by; how many those were."""
        now = ms_to_hour(now_ms - now_ms % MS_PER_HOUR)
        runs = runs_between(self.store, now - timedelta(days=self.kept_days), now + HOUR)
        in_force = {one.header.hour: one for one in runs}
        with self.store.connect() as connection:
            done = dict(
                connection.execute(
                    select(live_corrections.c.hour_ms, live_corrections.c.run_id)
                ).all()
            )
            summed = offsets_of(connection, USAGE.name)
        corrected = 0
        for hour, run in sorted(in_force.items()):
            known = done.get(hour_to_ms(hour)) == run.header.run_id
            if known or not _is_summed(run, summed):
                continue
            self._correct_hour(run, published_sums(self.client, run, estimator))
            corrected += 1
        return corrected

    def _correct_hour(self, run: RecordedRun, published: Published) -> None:
        hour_ms = hour_to_ms(run.header.hour)
        with self.store.begin() as connection:
            take_turns(connection, "live_corrections")
            before_e9 = _corrections_by_tenant(connection, hour_ms)
            connection.execute(
                delete(live_windows).where(
                    live_windows.c.grain == "hour",
                    live_windows.c.start_ms == hour_ms,
                    live_windows.c.kafka_partition == CORRECTED,
                )
            )
            windows = _differences(published, _summed(connection, hour_ms), hour_ms)
            add_to_windows(connection, CORRECTED, windows)
            add_to_months(connection, CORRECTED, _month_changes(windows, before_e9, hour_ms))
            # Every request of the hour has its event by now, or is proven to have none.
            connection.execute(delete(admission_holds).where(admission_holds.c.hour_ms == hour_ms))
            dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
            new = dialect.insert(live_corrections).values(hour_ms=hour_ms, run_id=run.header.run_id)
            connection.execute(
                new.on_conflict_do_update(
                    index_elements=["hour_ms"], set_={"run_id": new.excluded.run_id}
                )
            )
        log.info("corrected an hour", extra={"hour": str(run.header.hour), "keys": len(windows)})


def published_sums(client: Client, run: RecordedRun, estimator: Estimator) -> Published:
    """What a run says that each API key used, estimated by the same book as live events."""
    columns = ", ".join((*_DIMENSIONS, *_COUNTED))
    rows = client.query(
        f"SELECT {columns} FROM usage_hourly_runs FINAL"  # noqa: S608 - our own names
        " WHERE hour = {hour:DateTime('UTC')} AND run_id = {run_id:String}",
        parameters={"hour": run.header.hour, "run_id": run.header.run_id},
    ).result_rows
    hour_ms = hour_to_ms(run.header.hour)
    found: Published = {}
    for row in rows:
        tenant, project, model, adapter, tier, gpu_type, region, api_key, outcome = row[:_KEYS]
        dimensions = (tenant, project, model, adapter, tier, gpu_type, region)
        quantities = row[_KEYS:]
        amount_e9, unpriced = estimator.estimate(dimensions, hour_ms, outcome, quantities)
        used = measures(quantities, amount_e9, unpriced=False)
        used[-1] = quantities[-1] if unpriced else 0
        known = found.setdefault((tenant, project, api_key), [0] * len(MEASURES))
        known[:] = map(int.__add__, known, used)
    return found


def _is_summed(run: RecordedRun, summed: Mapping[int, int]) -> bool:
    """Whether everything that the run was made from is in the sums."""
    ends: dict[str, int] = json.loads(run.header.offsets)
    topic = f"{USAGE.name}/"
    return all(
        summed.get(int(place.removeprefix(topic)), 0) >= end
        for place, end in ends.items()
        if place.startswith(topic)
    )


def _summed(connection: Connection, hour_ms: int) -> Published:
    columns = (live_windows.c.tenant, live_windows.c.project, live_windows.c.api_key)
    rows = connection.execute(
        select(*columns, *(func.sum(live_windows.c[name]) for name in MEASURES))
        .where(live_windows.c.grain == "hour", live_windows.c.start_ms == hour_ms)
        .group_by(*columns)
    )
    return {tuple(row[:3]): [int(one) for one in row[3:]] for row in rows}


def _differences(
    published: Published, summed: Published, hour_ms: int
) -> dict[WindowKey, list[int]]:
    nothing = [0] * len(MEASURES)
    found = {}
    for key in published.keys() | summed.keys():
        missing = list(map(int.__sub__, published.get(key, nothing), summed.get(key, nothing)))
        if any(missing):
            tenant, project, api_key = key
            found[WindowKey(tenant, "hour", hour_ms, project, api_key)] = missing
    return found


def _corrections_by_tenant(connection: Connection, hour_ms: int) -> dict[str, int]:
    rows = connection.execute(
        select(live_windows.c.tenant, func.sum(live_windows.c.amount_e9))
        .where(
            live_windows.c.grain == "hour",
            live_windows.c.start_ms == hour_ms,
            live_windows.c.kafka_partition == CORRECTED,
        )
        .group_by(live_windows.c.tenant)
    )
    return {tenant: int(amount_e9) for tenant, amount_e9 in rows}


def _month_changes(
    windows: Mapping[WindowKey, list[int]], before_e9: Mapping[str, int], hour_ms: int
) -> dict[MonthKey, int]:
    """How each tenant's month changes: this correction minus the one that it replaces."""
    amount = MEASURES.index("amount_e9")
    month_ms = month_start_ms(hour_ms)
    changes = {MonthKey(tenant, month_ms): -before for tenant, before in before_e9.items()}
    for key, values in windows.items():
        month = MonthKey(key.tenant, month_ms)
        changes[month] = changes.get(month, 0) + values[amount]
    return {month: change for month, change in changes.items() if change}
