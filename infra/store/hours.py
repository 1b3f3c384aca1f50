"""What was decided about each hour: `held` with its reason, or `published`.

A period is ready for billing if and only if each of its hours is `published`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Literal

from sqlalchemy import Engine, select
from sqlalchemy.dialects import postgresql, sqlite

from infra.store.tables import hours
from infra.store.times import hour_to_ms, ms_to_hour
from schemas.periods import HOUR, Period

HourState = Literal["held", "published"]
NEVER_DECIDED = "never decided"


@dataclass(frozen=True, slots=True)
class HourDecision:
    """One hour as hour close left it; `reason` says why it is held, empty once published."""

    hour: datetime
    state: HourState
    reason: str
    checked_at_ms: int


def record_hour(store: Engine, hour: datetime, state: HourState, reason: str, now_ms: int) -> None:
    """Write what was decided about an hour; see `record_hours`."""
    record_hours(store, [HourDecision(hour, state, reason, now_ms)])


def record_hours(store: Engine, decisions: Iterable[HourDecision]) -> None:
    """Write what was decided about hours, all or none of them.

    The decision checked last stays: a slow runner does not undo what a later one found.

    Raises:
        ContractError: If one is not a whole UTC hour.
        sqlalchemy.exc.IntegrityError: If a state is neither `held` nor `published`.
    """
    rows = [
        {
            "hour_ms": hour_to_ms(decision.hour),
            "state": decision.state,
            "reason": decision.reason,
            "checked_at_ms": decision.checked_at_ms,
        }
        for decision in decisions
    ]
    if not rows:
        return
    dialect = sqlite if store.dialect.name == "sqlite" else postgresql
    new = dialect.insert(hours)
    upsert = new.on_conflict_do_update(
        index_elements=[hours.c.hour_ms],
        set_={name: new.excluded[name] for name in ("state", "reason", "checked_at_ms")},
        where=new.excluded.checked_at_ms >= hours.c.checked_at_ms,
    )
    # In one order, so that two runners at once cannot wait for each other's rows.
    rows.sort(key=lambda row: row["hour_ms"])
    with store.begin() as connection:
        connection.execute(upsert, rows)


def hours_between(store: Engine, start: datetime, end: datetime) -> list[HourDecision]:
    """The decided hours of `[start, end)`, in order.

    Raises:
        ContractError: If a bound is not a whole UTC hour.
    """
    wanted = (
        select(hours)
        .where(hours.c.hour_ms >= hour_to_ms(start), hours.c.hour_ms < hour_to_ms(end))
        .order_by(hours.c.hour_ms)
    )
    with store.connect() as connection:
        return [
            HourDecision(ms_to_hour(row.hour_ms), row.state, row.reason, row.checked_at_ms)
            for row in connection.execute(wanted)
        ]


def period_problems(store: Engine, period: Period) -> list[str]:
    """Why the period is not ready for billing; empty if and only if every hour is published.

    Neighbouring hours with the same problem share a line, such as
    `2026-10-03T04:00Z to 2026-10-03T06:00Z (2 hours) held: hole in source …`.
    """
    decided = {
        decision.hour: decision for decision in hours_between(store, period.start, period.end)
    }
    return list(_folded((hour, _problem(decided.get(hour))) for hour in period.hours()))


def _problem(decision: HourDecision | None) -> str:
    """What keeps an hour from being billed; empty for a published one."""
    if decision is None:
        return NEVER_DECIDED
    return "" if decision.state == "published" else f"{decision.state}: {decision.reason}"


def _folded(problems: Iterable[tuple[datetime, str]]) -> Iterator[str]:
    for problem, group in groupby(problems, key=lambda pair: pair[1]):
        same = [hour for hour, _ in group]
        if not problem:
            continue
        first, end = same[0], same[-1] + HOUR
        if len(same) == 1:
            yield f"{first:%Y-%m-%dT%H:%MZ} {problem}"
        else:
            span = f"{first:%Y-%m-%dT%H:%MZ} to {end:%Y-%m-%dT%H:%MZ} ({len(same)} hours)"
            yield f"{span} {problem}"
