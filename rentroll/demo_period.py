"""Which month a demo bills, and where in time its trace goes: pure."""

from dataclasses import dataclass
from datetime import timedelta

from schemas.clock import Clock, FixedClock, utc
from schemas.periods import HOUR, Period, parse_period, period_of

ROOM = timedelta(minutes=30)
"""A served model is done by then, its installation included; its traffic is to be in one month."""


@dataclass(frozen=True, slots=True)
class DemoTimes:
    """The month to bill, and when the trace ends; None: it begins with the month.

    `why_no_model` says why a served model cannot be billed with the trace; empty if it can.
    """

    period: Period
    ends: Clock | None = None
    why_no_model: str = ""


def demo_times(clock: Clock, named: str | None, *, with_model: bool) -> DemoTimes:
    """Choose the month.

    A model is served now, so with one it is this month, and the trace ends now. It closes early:
    every source is closed when the demo closes it. Without one it is the month that was named, else
    the last one that is over.

    Raises:
        ContractError: If the name is no month.
    """
    now = utc(clock.now_ns())
    this_month = period_of(now)
    alone = parse_period(named) if named else period_of(this_month.start - HOUR)
    if not with_model:
        return DemoTimes(alone)
    if named and alone != this_month:
        why = f"a served model is billed in {this_month.name}, when it is served, not in {named}"
        return DemoTimes(alone, why_no_model=why)
    if now + ROOM >= this_month.end:
        why = f"{this_month.name} ends in a few minutes, and its traffic would lie in two months"
        return DemoTimes(alone, why_no_model=why)
    return DemoTimes(this_month, None if named else FixedClock(clock.now_ns()))
