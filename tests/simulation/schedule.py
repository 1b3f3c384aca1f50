"""One schedule: traffic, workers, faults at drawn steps, calm; then what the ledger must hold."""

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from schemas.topics import dead_letter_key
from streams.columns import warm_up
from streams.settings import StreamSettings
from tests.simulation.life import Build, Life
from tests.simulation.universe import Stuck, Universe
from tests.simulation.world import (
    TABLES,
    TOPIC,
    Coordinator,
    Ledger,
    Log,
    Place,
    Weather,
    hash_of,
    seeded,
)

FAULTS = (
    "kill",
    "kill",
    "kill",
    "freeze",
    "long freeze",
    "SIGTERM",
    "another worker",
    "rebalance",
    "rebalance",
    "ledger away",
    "broker away",
    "retention",
    "partition added",
    "commits forgotten",
)
_SETTINGS = tuple(
    StreamSettings(
        ingest_rows=rows,
        ingest_quiet_ms=200,
        ingest_wait_ms=600,
        ingest_grace_s=grace_s,
        ingest_retry_last_ms=800,
    )
    for rows in (3, 8)
    for grace_s in (1, 2)
)
_CALM_S = 400.0
_TROUBLED_STEPS = 450
_QUIET = Build()
warm_up()


@dataclass(slots=True)
class Verdict:
    """What came of one schedule."""

    steps: int = 0
    faults: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    alarmed: int = 0


class Alarms(logging.Handler):
    """Keeps the ranges that the sink said were lost to retention."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.ranges: list[tuple[Place, int, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        place: Any = getattr(record, "place", None)
        if place is not None and hasattr(record, "log_start"):
            self.ranges.append((place, vars(record)["first"], vars(record)["log_start"]))


class Schedule:
    """A world with one seed."""

    def __init__(self, seed: int, build: Build = _QUIET, crash_at: int | None = None) -> None:
        """Draw everything.

        Args:
            seed: Of traffic, latencies, faults and the sink's own jitter.
            build: Of what workers are made.
            crash_at: The only fault: kill -9 of a worker before this step; 0 is no fault at all.
        """
        luck = seeded(seed)
        self.luck: random.Random = luck
        self.universe = Universe(luck)  # type: ignore[abstract]  # nobody opens a socket here
        self.weather = Weather()
        self.broker = Coordinator(self.universe, self.weather)
        self.strict = luck.random() < 0.9
        self.ledger = Ledger(self.universe, self.weather, 1_000 if self.strict else 1)
        self.verdict = Verdict()
        self._build = build
        self._settings = luck.choice(_SETTINGS)
        self._lives: list[Life] = []
        self._alarms = Alarms()
        self._produced = 0
        self._excused: set[Place] = set()
        for partition in range(luck.randint(1, 2)):
            self.broker.logs[TOPIC, partition] = Log()
        self._produce(12)
        if crash_at is None:
            self._plan()
        elif crash_at:
            self._at(crash_at, lambda: self._on_someone(Life.die))
        for _ in range(2):
            self._at(luck.randint(20, 200), lambda: self._produce(6))

    def run(self) -> Verdict:
        with _heard_only_by(self._alarms), self.universe:
            try:
                self._run()
            except Stuck:
                self.verdict.findings.append(f"stuck: {self._where()}")
            self._judge(self._alarms.ranges)
        return self.verdict

    def _run(self) -> None:
        for _ in range(self.luck.randint(1, 2)):
            self._start_life()
        self.universe.run_until(lambda: not self.universe.at_step, _CALM_S)
        self.weather.trouble, self.weather.late_commits = 0.0, False
        self.weather.broker_away = self.weather.ledger_away = False
        if not self._working():
            self._start_life()
        self.universe.run_until(self._settled, _CALM_S)
        self.verdict.steps = self.universe.steps

    def _working(self) -> list[Life]:
        return [one for one in self._lives if one.alive and not one._leaving]

    def _settled(self) -> bool:
        if self._failed():
            return True
        return all(self._is_settled(place, log) for place, log in self.broker.logs.items())

    def _is_settled(self, place: Place, log: Log) -> bool:
        committed = self.broker.committed.get(place)
        if committed is None:
            expired = log.start == log.end
            passed = any(one == place and end == log.end for one, _, end in self._alarms.ranges)
            return expired and (passed or not log.end)
        if place in self.broker.moved_back and committed[0] < log.end:
            # By a commit that came after the last one: the next owner will write it all again.
            return any(one.sink.positions().get(place) == log.end for one in self._working())
        return committed == (log.end, "")

    def _failed(self) -> list[Life]:
        return [one for one in self._lives if one.sink.failure is not None]

    # Traffic.

    def _produce(self, count: int) -> None:
        luck = self.luck
        for _ in range(count):
            log = self.broker.logs[luck.choice(list(self.broker.logs))]
            if luck.random() < 0.1:
                log.end += 1  # a marker: an offset without a record
            self._produced += 1
            draw = luck.random()
            kind = b"u" if draw < 0.6 else b"f" if draw < 0.8 else b"x" if draw < 0.93 else b"c"
            if draw > 0.99:
                log.records[log.end] = None
            elif draw < 0.08 and log.records:
                log.records[log.end] = luck.choice(list(log.records.values()))  # sent twice
            else:
                log.records[log.end] = b"%s:%d" % (kind, self._produced)
            log.end += 1

    # Faults.

    def _plan(self) -> None:
        luck = self.luck
        self.weather.trouble = luck.choice((0.0, 0.0, 0.1, 0.4))
        self.weather.late_commits = luck.random() < 0.1
        doing: dict[str, Callable[[], None]] = {
            "kill": lambda: self._on_someone(Life.die),
            "freeze": lambda: self._on_someone(lambda one: one.freeze(luck.random())),
            "long freeze": lambda: self._on_someone(lambda one: one.freeze(1 + luck.random() * 4)),
            "SIGTERM": lambda: self._on_someone(Life.terminate),
            "another worker": self._start_life,
            "rebalance": self.broker.rebalance,
            "ledger away": self._ledger_away,
            "broker away": self._broker_away,
            "retention": self._retention,
            "partition added": self._add_partition,
            "commits forgotten": self._forget_commits,
        }
        for _ in range(luck.randint(0, 5)):
            fault = luck.choice(FAULTS)
            self.verdict.faults.append(fault)
            self._at(luck.randint(1, _TROUBLED_STEPS), doing[fault])

    def _at(self, step: int, what: Callable[[], None]) -> None:
        self.universe.at_step.setdefault(step, []).append(what)

    def _start_life(self) -> None:
        number = len(self._lives) + 1
        self._lives.append(
            Life(number, self.universe, self.broker, self.ledger, self._settings, self._build)
        )

    def _on_someone(self, what: Callable[[Life], None]) -> None:
        alive = self._working()
        if not alive:
            self._start_life()
            return
        what(self.luck.choice(alive))
        if not self._working() and self.luck.random() < 0.7:
            self._start_life()

    def _ledger_away(self) -> None:
        self.weather.ledger_away = True
        self._outside(self.luck.random() * 5, "ledger_away")

    def _broker_away(self) -> None:
        self.weather.broker_away = True
        self._outside(self.luck.random() * 5, "broker_away")

    def _outside(self, delay_s: float, what: str) -> None:
        self.universe.call_later(delay_s, setattr, self.weather, what, False)

    def _retention(self) -> None:
        place = self.luck.choice(list(self.broker.logs))
        log = self.broker.logs[place]
        log.start = self.luck.randint(log.start, log.end)
        self._excused.add(place)

    def _add_partition(self) -> None:
        self.broker.add_partition()
        self._produce(4)

    def _forget_commits(self) -> None:
        """The broker forgets groups that were gone for days."""
        for life in self._working():
            life.die()
        for place in self.broker.committed:
            self._excused.add(place)
        self.broker.committed.clear()

    # The verdict.

    def _judge(self, alarmed: list[tuple[Place, int, int]]) -> None:
        findings = self.verdict.findings
        findings += [f"failed: {one.sink.failure!r}" for one in self._failed()]
        findings += self.universe.complaints
        known: set[tuple[str, bytes]] = set()
        for place, log in self.broker.logs.items():
            passed = [(first, end) for where, first, end in alarmed if where == place]
            for offset, value in log.records.items():
                known |= self._look_for(place, offset, value, passed)
        findings += [f"doubled: row that nobody sent: {row}" for row in self.ledger.final - known]
        self.verdict.alarmed = sum(end - first for _, first, end in alarmed)

    def _look_for(
        self, place: Place, offset: int, value: bytes | None, passed: list[tuple[int, int]]
    ) -> set[tuple[str, bytes]]:
        """The row that must be there, if any."""
        findings, where = self.verdict.findings, f"{place[0]}/{place[1]}/{offset}"
        was_alarmed = any(first <= offset < end for first, end in passed)
        kind = (value or b"")[:1]
        if kind not in TABLES or kind == b"c":
            letters = self.broker.dead_letters.get(dead_letter_key(*place, offset), set())
            if not letters and not was_alarmed:
                findings.append(f"lost: no dead letter of {where}")
            if len(letters) > 1 and not self._is_excused(place):
                findings.append(f"doubled: {len(letters)} different dead letters of {where}")
            return set()
        row = (TABLES[kind].name, hash_of(value or b""))
        if row not in self.ledger.final and not was_alarmed:
            findings.append(f"lost: {where}")
        stored = self.ledger.stored[row[0], place[1], offset]
        if stored > 1 and not self._is_excused(place):
            findings.append(f"doubled: {where} is stored {stored} times")
        return {row}

    def _is_excused(self, place: Place) -> bool:
        """Whether copies may lie in the ledger until they collapse: tokens were not enough."""
        return not self.strict or place in self._excused | self.broker.moved_back

    def _where(self) -> str:
        logs = {place: (log.start, log.end) for place, log in self.broker.logs.items()}
        return f"logs {logs}, committed {self.broker.committed}, after {self.universe.time():.1f} s"


@contextmanager
def _heard_only_by(listener: logging.Handler) -> Iterator[None]:
    """Retries and gaps are what a schedule is about: its lines go to the listener alone."""
    ours, loops = logging.getLogger("rentroll.ingest"), logging.getLogger("asyncio")
    before = ours.level, ours.propagate, loops.disabled
    ours.addHandler(listener)
    ours.setLevel(logging.WARNING)
    ours.propagate, loops.disabled = False, True
    try:
        yield
    finally:
        ours.removeHandler(listener)
        level, ours.propagate, loops.disabled = before
        ours.setLevel(level)


def run_schedule(seed: int, build: Build = _QUIET, crash_at: int | None = None) -> Verdict:
    """Run one and say what is wrong."""
    return Schedule(seed, build, crash_at).run()
