"""Runs many schedules, side by side on all cores, and counts what they found."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.simulation.life import Build
from tests.simulation.schedule import Verdict, run_schedule

CHUNK = 50
_NEVER = 0


@dataclass(slots=True)
class Tally:
    """What came of many schedules."""

    schedules: int = 0
    steps: int = 0
    alarmed: int = 0
    by_fault: Counter[str] = field(default_factory=Counter)
    found_by_fault: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    """With the command that shows it again; only the first of each schedule."""

    def count(self, name: str, verdict: Verdict) -> None:
        self.schedules += 1
        self.steps += verdict.steps
        self.alarmed += verdict.alarmed
        for fault in set(verdict.faults) or {"none"}:
            self.by_fault[fault] += 1
            self.found_by_fault[fault] += bool(verdict.findings)
        if verdict.findings:
            self.findings.append(f"{name}: {verdict.findings[0]}")

    def add(self, other: "Tally") -> None:
        self.schedules += other.schedules
        self.steps += other.steps
        self.alarmed += other.alarmed
        self.by_fault += other.by_fault
        self.found_by_fault += other.found_by_fault
        self.findings += other.findings


def run_random(first: int, count: int) -> Tally:
    """Schedules with faults of their own seed."""
    tally = Tally()
    for seed in range(first, first + count):
        tally.count(f"--seed {seed} --schedules 1", run_schedule(seed))
    return tally


def sweep(seed: int, every: int = 1, build: Build | None = None) -> Tally:
    """One schedule again and again, with a kill -9 of its worker before each of its steps."""
    build = build or Build()
    tally = Tally()
    whole = run_schedule(seed, build, _NEVER)
    for step in range(1, whole.steps + 1, every):
        verdict = run_schedule(seed, build, step)
        verdict.faults = ["kill -9 before each step, one after the other"]
        tally.count(f"--seed {seed} --kill-at {step}", verdict)
    return tally


def run_many(first: int, schedules: int, processes: int) -> Iterator[Tally]:
    """Half of them swept, half of them random; a tally of each portion as it comes.

    Args:
        first: The first seed.
        schedules: How many at least.
        processes: Side by side.
    """
    context = multiprocessing.get_context("fork")
    with context.Pool(processes) as pool:
        swept = 0
        for tally in pool.imap_unordered(sweep, range(first, first + schedules)):
            swept += tally.schedules
            yield tally
            if swept >= schedules // 2:
                break
        pool.terminate()
    portions = range(first, first + schedules - schedules // 2, CHUNK)
    with context.Pool(processes) as pool:
        yield from pool.imap_unordered(_portion, portions)


def _portion(first: int) -> Tally:
    return run_random(first, CHUNK)
