"""How far a partition is behind: in events, and in seconds since the first of them came. Pure."""

from collections import deque
from dataclasses import dataclass, field

Place = tuple[str, int]
FACTS_MAX = 512


@dataclass(slots=True)
class PartitionLag:
    """What is known of one partition's log: that it reached so far at such a time.

    A fact `(end, time)` says that the record before `end` was in the log at `time`. The seconds of
    lag are the age of the oldest fact that lies beyond what is written: exact to a look, and a
    lower bound for what came before the first look.
    """

    log_end: int = 0
    _facts: deque[tuple[int, float]] = field(default_factory=deque)

    def saw(self, log_end: int, at_s: float, written: int) -> None:
        """The log was seen to end there; a log that did not grow since is no new fact."""
        self.log_end = max(self.log_end, log_end)
        self._forget(written)
        reached = self._facts[-1][0] if self._facts else written
        if log_end > reached and len(self._facts) < FACTS_MAX:
            self._facts.append((log_end, at_s))

    def events(self, written: int) -> int:
        """Offsets of the log that are not written."""
        return max(self.log_end - written, 0)

    def seconds(self, written: int, now_s: float) -> float:
        """How long the oldest of them has been known to wait."""
        self._forget(written)
        return max(now_s - self._facts[0][1], 0.0) if self._facts else 0.0

    def _forget(self, written: int) -> None:
        while self._facts and self._facts[0][0] <= written:
            self._facts.popleft()


@dataclass(slots=True)
class Lags:
    """Every partition of one worker."""

    places: dict[Place, PartitionLag] = field(default_factory=dict)

    def saw(self, ends: dict[Place, int], written: dict[Place, int], at_s: float) -> None:
        """One look at all of them; partitions that are not among them are owned no longer."""
        self.places = {place: self.places.get(place, PartitionLag()) for place in ends}
        for place, end in ends.items():
            self.places[place].saw(end, at_s, written.get(place, end))

    def events(self, written: dict[Place, int]) -> dict[Place, int]:
        """Per partition; what is not opened yet counts from where it will begin."""
        return {
            place: lag.events(written[place])
            for place, lag in self.places.items()
            if place in written
        }

    def seconds(self, written: dict[Place, int], now_s: float) -> float:
        """Of the partition that is the furthest behind."""
        known = [
            lag.seconds(written[place], now_s)
            for place, lag in list(self.places.items())
            if place in written
        ]
        return max(known, default=0.0)
