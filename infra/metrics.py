"""Metrics as values, and as the text that Prometheus reads. Pure.

Names begin with `rentroll_` and end in their unit; a counter ends in `_total`. Help and kind of a
metric are said where it is declared, once.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[tuple[str, str], ...]
Number = int | float


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name without `rentroll_`, its kind, and what it says."""

    name: str
    kind: Kind
    help: str

    @property
    def full_name(self) -> str:
        """The name as Prometheus knows it."""
        return f"rentroll_{self.name}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One number; `suffix` is for the parts of a histogram."""

    value: Number
    labels: Labels = ()
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its numbers of this moment."""

    metric: Metric
    samples: Sequence[Sample]


@dataclass(slots=True)
class Histogram:
    """How often something took how long; `bounds_s` are upper bounds in seconds, rising.

    One thread at a time may observe.
    """

    bounds_s: tuple[float, ...]
    counts: list[int] = field(init=False)
    sum_ns: int = 0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds_s) + 1)

    def observe_ns(self, taken_ns: int) -> None:
        """Count one that took so long."""
        self.counts[bisect_left(self.bounds_s, taken_ns / 1e9)] += 1
        self.sum_ns += taken_ns

    def samples(self) -> list[Sample]:
        """As a histogram of Prometheus: each bucket counts all that took no longer."""
        found, total = [], 0
        for bound, count in zip((*map(str, self.bounds_s), "+Inf"), self.counts, strict=True):
            total += count
            found.append(Sample(total, (("le", bound),), "_bucket"))
        return [*found, Sample(self.sum_ns / 1e9, suffix="_sum"), Sample(total, suffix="_count")]


def one(metric: Metric, value: Number) -> Family:
    """A metric that has one number."""
    return Family(metric, (Sample(value),))


def by_label(metric: Metric, label: str, values: Iterable[tuple[str, Number]]) -> Family:
    """A metric that has a number for each value of one label."""
    return Family(metric, [Sample(value, ((label, name),)) for name, value in values])


def exposition(families: Iterable[Family]) -> str:
    """The text format, version 0.0.4."""
    return "".join(line + "\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    name = family.metric.full_name
    yield f"# HELP {name} {_escaped(family.metric.help, quotes=False)}"
    yield f"# TYPE {name} {family.metric.kind}"
    for sample in family.samples:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in sample.labels)
        yield f"{name}{sample.suffix}{'{' + told + '}' if told else ''} {sample.value}"


def _escaped(text: str, *, quotes: bool = True) -> str:
    plain = text.replace("\\", "\\\\").replace("\n", "\\n")
    return plain.replace('"', '\\"') if quotes else plain
