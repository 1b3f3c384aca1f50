"""Equations between two stages of a period: what each counted, and why they may differ.

Pure. Tolerance is zero: for each key (an hour, a tenant) left is right plus what has a reason.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Sums = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What one side of an equation has more, why, and where to look; `names` are a few of many."""

    key: str
    reason: str
    sums: Sums
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Equation:
    """`left` is `right` plus parts, measure by measure; `faults` say where it does not hold."""

    name: str
    measures: tuple[str, ...]
    left: Sums
    right: Sums
    parts: tuple[Part, ...]
    faults: tuple[str, ...]

    def explained(self) -> Sums:
        """The parts together."""
        return total((one.sums for one in self.parts), len(self.measures))


def equate(
    name: str,
    measures: tuple[str, ...],
    left: Mapping[str, Sums],
    right: Mapping[str, Sums],
    parts: Iterable[Part],
) -> Equation:
    """Hold two stages to each other, key by key, so that differences cannot cancel out.

    Args:
        name: What is equal to what.
        measures: What the sums are of, in their order.
        left: By key what the earlier stage counted.
        right: By key what the later stage counted.
        parts: What the later one lacks, with its reason.
    """
    listed = tuple(parts)
    faults = []
    for key in sorted(left.keys() | right.keys() | {one.key for one in listed}):
        mine = [one.sums for one in listed if one.key == key]
        before = left.get(key, (0,) * len(measures))
        after = total([right.get(key, (0,) * len(measures)), *mine], len(measures))
        faults += [
            f"{key}, {measure}: {was:,} on the left, {now:,} on the right"
            for measure, was, now in zip(measures, before, after, strict=True)
            if was != now
        ]
    return Equation(
        name,
        measures,
        total(left.values(), len(measures)),
        total(right.values(), len(measures)),
        listed,
        tuple(faults),
    )


def total(sums: Iterable[Sums], count: int) -> Sums:
    """Sums added up, measure by measure."""
    return tuple(map(sum, zip((0,) * count, *sums, strict=True)))
