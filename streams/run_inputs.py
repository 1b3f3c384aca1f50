"""Reads the ledger again as closing read it for published runs, below their own offsets."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.store.decisions import decisions_after
from infra.store.runs import RecordedRun, runs_between
from schemas.errors import ContractError
from schemas.periods import Period
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.close_hours import HourBooks, read_books
from streams.completeness_decisions import read_decisions
from streams.completeness_ledger import Ledger
from streams.completeness_reading import read_sources
from streams.replay_comparing import read_vector
from streams.rollup_sql import HourRange
from streams.settings import StreamSettings


@dataclass(frozen=True, slots=True)
class RunInputs:
    """Some runs of one offset vector and one decision position, and what was read for them.

    `runs` are by hour in ms since the epoch, `span` reaches from the first of them to the last.
    """

    ledger: Ledger
    books: HourBooks
    span: HourRange
    runs: Mapping[int, RecordedRun]


def named_runs(store: Engine, period: Period, runs: Sequence[str]) -> dict[int, RecordedRun]:
    """Published runs by their hour in ms since the epoch.

    Raises:
        ContractError: If the store does not know one of them.
    """
    known = {one.header.run_id: one for one in runs_between(store, period.start, period.end)}
    found = {}
    for run in runs:
        if run not in known:
            raise ContractError(f"run {run[:12]} is not among the store's of {period.name}")
        found[int(known[run].header.hour.timestamp()) * MS_PER_S] = known[run]
    return found


def inputs_of_runs(
    client: Client, store: Engine, runs: Mapping[int, RecordedRun], settings: StreamSettings
) -> Iterator[RunInputs]:
    """Read what published runs were made from, those together that were read together.

    Below each run's own offsets, signed by registered sources, under the decisions that counted;
    at most `close_batch_hours` at a time, as closing bounds it.
    """
    together: dict[tuple[str, int], dict[int, RecordedRun]] = defaultdict(dict)
    for hour_ms, run in sorted(runs.items()):
        together[run.header.offsets, run.header.decisions_position][hour_ms] = run
    for (offsets, position), hours in _batches(together, settings.close_batch_hours):
        ledger = Ledger(client, read_vector(offsets), settings)
        span = HourRange(min(hours), max(hours) + MS_PER_HOUR)
        decisions = read_decisions(
            (one.position, one.kind, one.subject)
            for one in decisions_after(store, 0)
            if one.position <= position
        )
        published_ms = max(run.header.published_at_ms for run in hours.values())
        sources, _ = read_sources(ledger, store, decisions, span, now_ms=published_ms)
        yield RunInputs(ledger, read_books(ledger, sources, decisions, span), span, hours)


def _batches(
    together: Mapping[tuple[str, int], Mapping[int, RecordedRun]], hours_max: int
) -> Iterator[tuple[tuple[str, int], dict[int, RecordedRun]]]:
    for inputs, hours in together.items():
        left = iter(hours.items())
        while batch := dict(islice(left, hours_max)):
            yield inputs, batch
