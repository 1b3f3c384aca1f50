"""Checks the identity by ordinals of engine intervals, to the nanosecond: pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streams.completeness_ranges import Problem


@dataclass(frozen=True, slots=True)
class IntervalFacts:
    """What one proven `engine.interval` says; times in ns since the epoch, GPU time in ns."""

    sequence: int
    engine: str
    replica: str
    start_unix_ns: int
    end_unix_ns: int
    owned_ns: int
    attributed_ns: int
    stall_ns: int
    idle_ns: int
    overhead_ns: int
    startup_ns: int
    open_step_start_ns: int
    open_step_end_ns: int
    unaccounted_ns: int
    in_flight_start_ns: int
    in_flight_end_ns: int
    ordinal_start: int
    ordinal_end: int
    oldest_open_ms: int


@dataclass(frozen=True, slots=True)
class PartsSum:
    """Parts found in one interval's ordinals: how many, how many distinct, their GPU time."""

    parts: int = 0
    ordinals: int = 0
    gpu_ns: int = 0


@dataclass(slots=True)
class TimeLine:
    """Where one engine's owned GPU time went, summed over its proven intervals, in ns."""

    replica: str
    intervals: int = 0
    owned_ns: int = 0
    attributed_ns: int = 0
    stall_ns: int = 0
    idle_ns: int = 0
    overhead_ns: int = 0
    startup_ns: int = 0
    unaccounted_ns: int = 0
    open_step_ns: int = 0

    def add(self, one: IntervalFacts) -> None:
        """Add one interval."""
        self.intervals += 1
        self.owned_ns += one.owned_ns
        self.attributed_ns += one.attributed_ns
        self.stall_ns += one.stall_ns
        self.idle_ns += one.idle_ns
        self.overhead_ns += one.overhead_ns
        self.startup_ns += one.startup_ns
        self.unaccounted_ns += one.unaccounted_ns
        self.open_step_ns += one.open_step_end_ns - one.open_step_start_ns

    def difference_ns(self) -> int:
        """Owned minus everything it went into; anything but 0 is an alarm."""
        return self.owned_ns - (
            self.attributed_ns
            + self.stall_ns
            + self.idle_ns
            + self.overhead_ns
            + self.startup_ns
            + self.unaccounted_ns
            + self.open_step_ns
        )


NO_PARTS = PartsSum()


def check_engine(
    intervals: Sequence[IntervalFacts],
    parts: Mapping[int, PartsSum],
    excused: Sequence[int],
    before: IntervalFacts | None = None,
) -> list[Problem]:
    """Problems in one engine's intervals, in the order of their sequence.

    Args:
        intervals: Proven intervals of one engine on one source, ascending by sequence.
        parts: Sums over its parts by the sequence of the interval that covers their ordinal.
        excused: Sequences whose content the ledger cannot have (dead letters, declared losses).
            They excuse *missing* parts and intervals next to them, never surplus ones. 0 stands
            for one on an earlier source since `before`, more than any sequence for a later one.
        before: The engine's last interval on an earlier source, if there is one.
    """
    problems: list[Problem] = []
    previous = before
    for index, one in enumerate(intervals):
        following = intervals[index + 1].sequence if index + 1 < len(intervals) else None
        since = intervals[index - 1].sequence if index else -1
        text = _unjoined(previous, one)
        if text and not _any_between(excused, since, one.sequence):
            problems.append(Problem(one.sequence, text))
        text = _unequal(one, parts.get(one.sequence, NO_PARTS), since, following, excused)
        if text:
            problems.append(Problem(one.sequence, text))
        previous = one
    return problems


def _unjoined(previous: IntervalFacts | None, one: IntervalFacts) -> str:
    """Why two consecutive intervals do not join, or an engine's first does not start at 0."""
    left = (
        (previous.ordinal_end, previous.in_flight_end_ns, previous.end_unix_ns)
        if previous
        else (0, 0, one.start_unix_ns)
    )
    right = (one.ordinal_start, one.in_flight_start_ns, one.start_unix_ns)
    names = ("ordinal", "in-flight ns", "time ns")
    broken = [
        f"{name} {ended} then {started}"
        for name, ended, started in zip(names, left, right, strict=True)
        if ended != started
    ]
    if not broken:
        return ""
    text = f"{_named(one)}: it does not join the interval before it: {', '.join(broken)}"
    overlap_ns = left[2] - right[2]
    return (
        f"{text}; they overlap by {overlap_ns} ns: did the host's clock go back?"
        if (overlap_ns > 0)
        else text
    )


def _unequal(
    one: IntervalFacts,
    found: PartsSum,
    since: int,
    following: int | None,
    excused: Sequence[int],
) -> str:
    """Why the parts do not add up to what the engine attributed."""
    expected = one.ordinal_end - one.ordinal_start
    if found.parts != found.ordinals:
        return f"{_named(one)}: {found.parts} parts carry only {found.ordinals} ordinals"
    accounted_ns = found.gpu_ns + one.in_flight_end_ns - one.in_flight_start_ns
    difference_ns = one.attributed_ns - accounted_ns
    if found.ordinals == expected and difference_ns == 0:
        return ""
    missing = expected - found.ordinals
    if missing > 0 and difference_ns >= 0 and _any_between(excused, since, following):
        return ""
    return (
        f"{_named(one)}: {missing} of its {expected} parts are missing, and parts {found.gpu_ns}"
        f" + in flight {one.in_flight_end_ns} - {one.in_flight_start_ns} = {accounted_ns} ns is"
        f" not the attributed {one.attributed_ns} ns (difference {difference_ns})"
    )


def _any_between(sequences: Sequence[int], after: int, before: int | None) -> bool:
    return any(after < one and (before is None or one < before) for one in sequences)


def _named(one: IntervalFacts) -> str:
    return (
        f"replica {one.replica}, engine {one.engine}, interval at sequence {one.sequence}"
        f" (ordinals {one.ordinal_start} to {one.ordinal_end})"
    )
