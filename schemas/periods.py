"""Hours and billing periods: half-open, UTC, in whole hours."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from schemas.errors import ContractError
from schemas.units import MS_PER_S

HOUR = timedelta(hours=1)
_MONTH = re.compile(r"(19[7-9][0-9]|2[0-9]{3})-(0[1-9]|1[0-2])")
_HOUR = re.compile(r"(19[7-9][0-9]|2[0-9]{3})-[0-9]{2}-[0-9]{2}T[0-9]{2}")
_DECEMBER = 12


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """A billing period `[start, end)` of whole UTC hours, named like `2026-10`."""

    start: datetime
    end: datetime
    name: str

    def __contains__(self, instant: object) -> bool:
        return isinstance(instant, datetime) and self.start <= instant < self.end

    def hours(self) -> Iterator[datetime]:
        """Every hour's start, in order."""
        hour = self.start
        while hour < self.end:
            yield hour
            hour += HOUR


def parse_period(name: str) -> Period:
    """The calendar month that `2026-10` names.

    Raises:
        ContractError: If the name is not a month from 1970 to 2999.
    """
    match = _MONTH.fullmatch(name)
    if match is None:
        raise ContractError(f"a period is a month such as 2026-10, not {name!r}")
    year, month = int(match[1]), int(match[2])
    start = datetime(year, month, 1, tzinfo=UTC)
    following = (year + 1, 1) if month == _DECEMBER else (year, month + 1)
    return Period(start, datetime(*following, 1, tzinfo=UTC), name)


def parse_hour(name: str) -> Period:
    """The one UTC hour that `2026-10-01T00` names, as a period.

    Raises:
        ContractError: If the name is no such hour.
    """
    if _HOUR.fullmatch(name):
        try:
            start = datetime.fromisoformat(f"{name}:00:00+00:00")
        except ValueError as error:
            raise ContractError(f"no such hour: {name!r} ({error})") from error
        return Period(start, start + HOUR, name)
    raise ContractError(f"an hour looks like 2026-10-01T00, not {name!r}")


def period_of(instant: datetime) -> Period:
    """The calendar month, UTC, in which an instant falls."""
    return parse_period(f"{instant.astimezone(UTC):%Y-%m}")


def hour_text(hour_ms: int) -> str:
    """How people read the start of an hour: `2026-10-01T00:00Z`; from Unix milliseconds."""
    return f"{datetime.fromtimestamp(hour_ms // MS_PER_S, UTC):%Y-%m-%dT%H:%MZ}"


def hour_of(instant: datetime) -> datetime:
    """The start of the UTC hour in which an instant falls."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
