"""Replays published hours into a scratch database, or rebuilds the whole ledger, and compares.

What is loaded is decoded and rolled up by the code that ingest and hour close run; what comes out
is held to the headers in the billing store, which no ledger can change.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.store.decisions import decisions_after
from infra.store.runs import RecordedRun, runs_between
from infra.store.sources import registered_keys
from schemas.errors import IngestError
from schemas.periods import Period
from schemas.topics import CONTROL, DEAD_LETTERS
from schemas.units import MS_PER_S
from streams.clickhouse_sink import ClickHouseSink
from streams.columns import warm_up
from streams.completeness_decisions import read_decisions
from streams.completeness_ledger import Ledger
from streams.record_batch import RecordBatch
from streams.replay_comparing import Databases, HourComparison, compare, read_vector, roll_up
from streams.replay_loading import LoadCounters, load
from streams.replay_reading import ReplaySource, Until
from streams.replay_sql import SOURCE_TIMES
from streams.rollup_sql import Offsets
from streams.settings import StreamSettings

Progress = Callable[[str, int, int], None]
"""Hears a step's name, and how many of how many records or hours are through."""
WHOLE_TOPICS = frozenset({CONTROL.name, DEAD_LETTERS.name})
"""Small, and kept for ever: always replayed from their beginning."""
ALL_TIME = Period(datetime(1970, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC), "all time")


@dataclass(frozen=True, slots=True)
class ReplayTarget:
    """Where a replay works: the server, its scratch database, and the published one, if any."""

    url: str
    scratch: str
    published: str | None


@dataclass(slots=True)
class Replayed:
    """What a replay found; `older_too` if it had to read records that seemed too old to matter."""

    hours: list[HourComparison] = field(default_factory=list)
    loaded: LoadCounters = field(default_factory=LoadCounters)
    older_too: bool = False

    @property
    def identical(self) -> bool:
        """Whether every run is the same, to the last row."""
        return all(hour.identical for hour in self.hours)

    def first_difference(self) -> HourComparison | None:
        """The earliest hour that differs."""
        return next((hour for hour in self.hours if not hour.identical), None)


class Replay:
    """One scratch database, and what is loaded into it and compared."""

    def __init__(
        self,
        target: ReplayTarget,
        store: Engine,
        settings: StreamSettings,
        progress: Progress = lambda *_: None,
    ) -> None:
        warm_up()
        self.replayed = Replayed()
        self._target = target
        self._store = store
        self._settings = settings
        self._progress = progress
        self._sink = ClickHouseSink(target.url, target.scratch)

    def prepare(self) -> None:
        """Make the scratch database, empty; what had its name is dropped.

        Raises:
            IngestError: If it is the published one.
        """
        if self._target.scratch == self._target.published:
            raise IngestError(f"{self._target.scratch} is the ledger itself: name another database")
        with connect(self._target.url, "default") as client:
            client.command(f"DROP DATABASE IF EXISTS {self._target.scratch} SYNC")
        migrate(self._target.url, self._target.scratch)

    def drop(self) -> None:
        """Drop the scratch database."""
        with connect(self._target.url, "default") as client:
            client.command(f"DROP DATABASE IF EXISTS {self._target.scratch} SYNC")

    def load(self, batches: Iterable[RecordBatch], total: int) -> None:
        """Load records; `total` is about how many there are."""
        load(
            batches,
            self._sink,
            self._settings.replay_threads,
            self.replayed.loaded,
            lambda counters: self._progress("loading", counters.records, total),
        )

    def hours(self, source: ReplaySource, period: Period) -> Replayed:
        """Replay the runs in force of a period and compare them with what is published.

        Raises:
            IngestError: If nothing is published there, or the source does not reach so far.
        """
        runs = in_force(self._store, period)
        if not runs:
            raise IngestError(f"no hour of {period.name} has a published run to compare with")
        return self.runs(source, runs)

    def runs(self, source: ReplaySource, runs: Mapping[int, RecordedRun]) -> Replayed:
        """Replay some runs, one of an hour (in ms since the epoch), in force or not.

        Raises:
            IngestError: If the source does not reach so far.
        """
        until = furthest(run.header.offsets for run in runs.values())
        source.demand(until)
        small = {place: end for place, end in until.items() if place[0] in WHOLE_TOPICS}
        large = {place: end for place, end in until.items() if place[0] not in WHOLE_TOPICS}
        total = sum(until.values())
        self.load(source.batches(small, None, older=False), total)
        with connect(self._target.url, self._target.scratch) as client:
            since_ms = self._since(client, min(runs))
            self.load(source.batches(large, since_ms, older=False), total)
            self.replayed.hours = list(self._compared(client, runs.values()))
            if not self.replayed.identical:
                self.replayed.older_too = True
                self.load(source.batches(large, since_ms, older=True), total)
                client.command("TRUNCATE TABLE usage_hourly_runs")
                self.replayed.hours = list(self._compared(client, runs.values()))
        return self.replayed

    def recorded(self, runs: Iterable[RecordedRun]) -> list[HourComparison]:
        """Roll up and compare any runs, several of one hour too."""
        with connect(self._target.url, self._target.scratch) as client:
            return list(self._compared(client, runs))

    def _since(self, client: Client, first_hour_ms: int) -> int:
        """Before when the broker had taken nothing that matters to these hours.

        The sources that matter were open then; what they sent is not older than their opening,
        but for requests admitted earlier. It is a guess that nothing rests on: who finds a
        difference reads the older records too.
        """
        times = {row[0]: row[1:] for row in client.query(SOURCE_TIMES).result_rows}
        oldest_ms = first_hour_ms
        for source in registered_keys(self._store):
            opened_ms, closed_ms = times.get(source, (first_hour_ms, 0))
            if not closed_ms or closed_ms >= first_hour_ms:
                oldest_ms = min(oldest_ms, opened_ms)
        earlier_s = self._settings.close_lookback_s + self._settings.replay_skew_s
        return oldest_ms - earlier_s * MS_PER_S

    def _compared(self, client: Client, runs: Iterable[RecordedRun]) -> Iterator[HourComparison]:
        databases = Databases(client, self._target.published, self._target.scratch)
        wanted = list(runs)
        done = 0
        found: list[HourComparison] = []
        for group in _groups(wanted, self._settings.close_batch_hours):
            header = next(iter(group.values())).header
            offsets = read_vector(header.offsets)
            decisions = read_decisions(
                (one.position, one.kind, one.subject)
                for one in decisions_after(self._store, 0)
                if one.position <= header.decisions_position
            )
            ledger = Ledger(client, offsets, self._settings)
            sums = roll_up(ledger, self._store, decisions, group)
            found += compare(databases, offsets, group, sums)
            done += len(group)
            self._progress("comparing", done, len(wanted))
        return iter(sorted(found, key=lambda hour: (hour.hour_ms, hour.position)))


def in_force(store: Engine, period: Period) -> dict[int, RecordedRun]:
    """Of each hour of a period, in ms since the epoch, the run with the highest position."""
    runs = runs_between(store, period.start, period.end)
    return {int(one.header.hour.timestamp()) * MS_PER_S: one for one in runs}


def furthest(vectors: Iterable[str]) -> Until:
    """The highest offset of each partition over several vectors."""
    until: dict[tuple[str, int], int] = {}
    for vector in set(vectors):
        offsets: Offsets = read_vector(vector)
        for place, end in offsets.until.items():
            until[place] = max(end, until.get(place, 0))
    return until


def _groups(runs: Iterable[RecordedRun], hours_max: int) -> Iterator[Mapping[int, RecordedRun]]:
    """Runs that were made under the same vector, decisions and rules, by their hour."""
    found: dict[tuple[str, int, str], dict[int, RecordedRun]] = {}
    for run in runs:
        header = run.header
        key = (header.offsets, header.decisions_position, header.rules_version)
        hour_ms = int(header.hour.timestamp()) * MS_PER_S
        found.setdefault(key, {})[hour_ms] = run
    for group in found.values():
        hours = iter(sorted(group.items()))
        while chunk := dict(islice(hours, hours_max)):
            yield chunk
