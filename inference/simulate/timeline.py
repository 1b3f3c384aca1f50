"""Maps the times of a trace: onto a billing month, or so that it ends at a given instant."""

from dataclasses import dataclass

from schemas.periods import Period
from schemas.units import NS_PER_HOUR, NS_PER_MS, NS_PER_S


@dataclass(frozen=True, slots=True)
class Timeline:
    """`t -> first + (t - origin) // divisor`, with `first = origin + shift`."""

    origin_ns: int = 0
    shift_ns: int = 0
    divisor: int = 1

    def __call__(self, unix_ns: int) -> int:
        return self.origin_ns + self.shift_ns + (unix_ns - self.origin_ns) // self.divisor

    def described(self) -> dict[str, int]:
        """What the report says about it."""
        return {"shift_ms": self.shift_ns // NS_PER_MS, "compressed_by": self.divisor}


AS_RECORDED = Timeline()


def onto_month(first_ns: int, last_ns: int, month: Period) -> Timeline:
    """Shift by whole hours, so that the first row falls in the month's first hour.

    Minutes, seconds and the order stay. A trace that spans more than what is left of the month
    is compressed by the smallest whole factor that fits.

    Args:
        first_ns: Time of the first row.
        last_ns: Time of the last row.
        month: The billing month.
    """
    start_ns = int(month.start.timestamp()) * NS_PER_S
    end_ns = int(month.end.timestamp()) * NS_PER_S
    shift_ns = start_ns - first_ns // NS_PER_HOUR * NS_PER_HOUR
    room_ns = end_ns - (first_ns + shift_ns)
    return Timeline(first_ns, shift_ns, (last_ns - first_ns) // room_ns + 1)


def ending_at(finish_ns: int, now_ns: int) -> Timeline:
    """Shift by whole milliseconds, so that what finishes at `finish_ns` finishes at `now_ns`."""
    finish_ms = -(-finish_ns // NS_PER_MS)
    shift_ms = now_ns // NS_PER_MS - finish_ms
    return Timeline(0, shift_ms * NS_PER_MS, 1)
