"""Reads running spend: what a tenant used in this minute, this hour and this calendar month."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine

from infra.store.live_spend import read_windows
from schemas.spend import MEASURES, month_start_ms
from schemas.units import MS_PER_HOUR
from streams.live_windows import MS_PER_MINUTE

Span = Literal["minute", "hour", "month"]
SPANS: tuple[Span, ...] = ("minute", "hour", "month")


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What one key, project or tenant used in a span; names that were added up are empty."""

    span: Span
    project: str
    api_key: str
    measures: dict[str, int]


def read_spend(store: Engine, tenant: str, now_ms: int, *, by: str = "key") -> list[SpendLine]:
    """Usage and estimated spend up to now, never for invoices.

    Args:
        store: The billing store.
        tenant: Whose.
        now_ms: Which minute, hour and month are the running ones, in ms since the epoch.
        by: `key`, `project` or `tenant`: what is added up.
    """
    lines = []
    for span in SPANS:
        start_ms = _start_ms(span, now_ms)
        grain: Literal["minute", "hour"] = "minute" if span == "minute" else "hour"
        found: dict[tuple[str, str], dict[str, int]] = {}
        for (project, api_key), used in read_windows(
            store, tenant, grain, start_ms, now_ms + 1
        ).items():
            name = (project if by != "tenant" else "", api_key if by == "key" else "")
            total = found.setdefault(name, dict.fromkeys(MEASURES, 0))
            for measure, value in used.items():
                total[measure] += value
        lines += [SpendLine(span, *name, used) for name, used in sorted(found.items())]
    return lines


def _start_ms(span: Span, now_ms: int) -> int:
    if span == "month":
        return month_start_ms(now_ms)
    return now_ms - now_ms % (MS_PER_MINUTE if span == "minute" else MS_PER_HOUR)
