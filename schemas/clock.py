"""Time comes from outside: whoever needs it takes a `Clock`."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where a component learns what time it is."""

    def now_ns(self) -> int:
        """Unix time in nanoseconds, UTC."""
        ...


class SystemClock:
    """The wall clock of this host; constructed at the rim only."""

    def now_ns(self) -> int:
        return time.time_ns()


class FixedClock:
    """A clock that stands still until it is moved; for tests, replays and simulations."""

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def advance(self, delta_ns: int) -> None:
        """Move forward by `delta_ns` nanoseconds (zero or more)."""
        if delta_ns < 0:
            raise ValueError(f"a clock does not go back: delta_ns={delta_ns}")
        self._now_ns += delta_ns


def utc(now_ns: int) -> datetime:
    """Nanoseconds since the epoch as an aware UTC datetime; digits below a microsecond are cut."""
    seconds, rest_ns = divmod(now_ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // 1_000)
