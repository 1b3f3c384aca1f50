"""Running usage and estimated spend: its windows, what they count, and partial sums of them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from schemas.estimates import ESTIMATED_METERS
from schemas.units import MS_PER_S

Grain = Literal["minute", "hour"]
"""How long a window is; a month is the sum of its hours."""
MEASURES = ("requests", *ESTIMATED_METERS[:-1], "amount_e9", "unpriced_requests")


class WindowKey(NamedTuple):
    """One window of one API key."""

    tenant: str
    grain: Grain
    start_ms: int
    project: str
    api_key: str


class MonthKey(NamedTuple):
    """One calendar month of one tenant."""

    tenant: str
    month_ms: int


@dataclass(slots=True)
class PartialSums:
    """What a stretch of one partition adds; `finished` are the ids of the events counted.

    Values of `windows` are in the order of `MEASURES`.
    """

    windows: dict[WindowKey, list[int]] = field(default_factory=dict)
    months: dict[MonthKey, int] = field(default_factory=dict)
    finished: list[bytes] = field(default_factory=list)

    def add(self, other: "PartialSums") -> None:
        """Take over what comes after in the same partition."""
        for key, values in other.windows.items():
            mine = self.windows.setdefault(key, [0] * len(MEASURES))
            mine[:] = map(int.__add__, mine, values)
        for month, amount_e9 in other.months.items():
            self.months[month] = self.months.get(month, 0) + amount_e9
        self.finished += other.finished


def month_start_ms(time_ms: int) -> int:
    """The start of the calendar month, UTC, of an instant."""
    month = datetime.fromtimestamp(time_ms // MS_PER_S, UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    return int(month.timestamp()) * MS_PER_S
