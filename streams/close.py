"""Closes hours: decides each, publishes the roll-up of the complete ones, says why others wait."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.store.decisions import decisions_after
from infra.store.hours import HourDecision, HourState, record_hours
from infra.store.runs import RecordedRun, runs_between
from schemas.clock import Clock
from schemas.periods import Period
from schemas.units import MS_PER_HOUR, MS_PER_S, NS_PER_MS
from schemas.usage import TOKEN_METERS
from streams.close_hours import HourBooks, read_books
from streams.close_publishing import Publication, Publisher
from streams.completeness import HourFindings, Patience, SourceState, reasons_to_hold
from streams.completeness_decisions import Decisions, read_decisions
from streams.completeness_ledger import Ledger, read_offsets
from streams.completeness_reading import read_sources
from streams.hour_findings import SetAside, tell_findings
from streams.retention import refuse_dropped
from streams.rollup import NO_COUNT, NO_SUMS, HourSums, hour_at, refuse_unequal_ledger
from streams.rollup_sql import HourRange
from streams.settings import StreamSettings

Progress = Callable[[str, int, int], None]
"""Hears a step's name, and how many of how many hours are decided."""


def silent(_step: str, _decided: int, _hours: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class HourVerdict:
    """What closing decided about one hour, and the totals of its run.

    `excluded` counts requests in the ledger that no registered source signed, `quarantined` events
    that are there with different contents and await a decision, `dropped` signed requests that
    are quarantined or that a decision takes out: none of them is billed.
    `copies` counts rows beyond the first of each event that are still stored: the server drops
    them when it merges. `changed` says that a new run was
    published; of an hour that never had usage `run_id` is empty.
    """

    hour_ms: int
    state: HourState
    reason: str = ""
    sums: HourSums = NO_SUMS
    run_id: str = ""
    position: int = 0
    changed: bool = False
    excluded: int = 0
    quarantined: int = 0
    dropped: int = 0
    copies: int = 0

    @property
    def events(self) -> int:
        """Finished requests in the hour's run."""
        return self.sums.measure("requests")

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens in the hour's run, by meter."""
        return {name: self.sums.measure(name) for name in TOKEN_METERS}

    @property
    def gpu_ns(self) -> int:
        """GPU time in the hour's run, in ns."""
        return self.sums.measure("gpu_ns")


@dataclass(frozen=True, slots=True)
class Closing:
    """What one close found: every hour's verdict, and every source's state."""

    hours: list[HourVerdict]
    sources: list[SourceState]
    offsets: dict[str, int]
    decisions_position: int

    def held(self) -> list[HourVerdict]:
        """The hours that could not be published."""
        return [one for one in self.hours if one.state == "held"]

    def lost(self) -> int:
        """Sequences that are nowhere and that nobody declared lost."""
        return sum(source.findings.lost for source in self.sources)

    def lost_requests(self) -> int:
        """Requests that sources themselves declared lost (`usage.lost`); never billed."""
        return sum(source.lost_requests() for source in self.sources)

    def copies(self) -> int:
        """Rows in the ledger beyond the first of each event; they were collapsed."""
        return sum(one.copies for one in self.hours)

    def excluded(self) -> int:
        """Requests that no registered source signed."""
        return sum(one.excluded for one in self.hours)

    def quarantined(self) -> int:
        """Events that are there with different contents and await a decision."""
        return sum(one.quarantined for one in self.hours)


@dataclass(slots=True)
class _Close:
    """One close under way."""

    ledger: Ledger
    store: Engine
    decisions: Decisions
    patience: Patience
    sources: list[SourceState]
    books: HourBooks
    in_force: dict[int, RecordedRun]
    progress: Progress
    total: int
    verdicts: dict[int, HourVerdict] = field(default_factory=dict)

    def told(self, step: str) -> None:
        self.progress(step, len(self.verdicts), self.total)


def close_hours(
    client: Client,
    store: Engine,
    period: Period,
    *,
    clock: Clock,
    settings: StreamSettings | None = None,
    progress: Progress = silent,
) -> Closing:
    """Decide every hour of `period`, publish what is complete, and record each decision.

    Closing again is always allowed: an hour whose events did not change publishes nothing, late
    events re-close their own hour, a held hour is looked at again. A period of one hour closes
    one hour.

    Args:
        client: The ledger.
        store: The billing store, which keeps headers and decisions.
        period: Whole hours, in the past or the future.
        clock: Says when a run was published, and whether an empty hour is past its grace time.
        settings: Bounds and grace time; from the environment if not given.
        progress: Told after each step.

    Raises:
        ConservationError: If a count differs between two readings; nothing of that hour is shown.
        ContractError: If a decision in the store cannot be read, or the hours' events were dropped.
    """
    refuse_dropped(store, period)
    run = _prepare(
        client, store, period, clock=clock, settings=settings or StreamSettings(), progress=progress
    )
    _decide(run, hour_range(period))
    tell_findings(client, list(_set_aside(run)), run.patience.now_ms)
    return Closing(
        hours=[run.verdicts[hour] for hour in sorted(run.verdicts)],
        sources=run.sources,
        offsets=run.ledger.offsets.named(),
        decisions_position=run.decisions.position,
    )


def _prepare(
    client: Client,
    store: Engine,
    period: Period,
    *,
    clock: Clock,
    settings: StreamSettings,
    progress: Progress,
) -> _Close:
    """Fix the offset vector first; everything that is read later is read below it."""
    ledger = Ledger(client, read_offsets(client), settings)
    hours = hour_range(period)
    total = (hours.end_ms - hours.first_ms) // MS_PER_HOUR
    decisions = read_decisions(
        (one.position, one.kind, one.subject) for one in decisions_after(store, 0)
    )
    now_ms = clock.now_ns() // NS_PER_MS
    sources, any_source = read_sources(ledger, store, decisions, hours, now_ms=now_ms)
    progress("sources", 0, total)
    books = read_books(ledger, sources, decisions, hours)
    progress("counted", 0, total)
    return _Close(
        ledger=ledger,
        store=store,
        decisions=decisions,
        patience=Patience(
            now_ms=now_ms,
            grace_ms=settings.close_grace_s * MS_PER_S,
            max_reasons=settings.close_max_reasons,
            any_source=any_source,
        ),
        sources=sources,
        books=books,
        in_force=_in_force(store, period),
        progress=progress,
        total=total,
    )


def hour_range(period: Period) -> HourRange:
    """The same hours in milliseconds since the epoch."""
    first_s, end_s = int(period.start.timestamp()), int(period.end.timestamp())
    return HourRange(first_s * MS_PER_S, end_s * MS_PER_S)


def _in_force(store: Engine, period: Period) -> dict[int, RecordedRun]:
    runs = runs_between(store, period.start, period.end)
    return {int(one.header.hour.timestamp()) * MS_PER_S: one for one in runs}


def _decide(run: _Close, hours: HourRange) -> None:
    """First everything without a run to publish, in one statement; then the runs in batches."""
    complete: list[int] = []
    for hour in range(hours.first_ms, hours.end_ms, MS_PER_HOUR):
        findings = HourFindings(
            hour, run.books.orphans.get(hour, ()), crowded=hour in run.books.crowded
        )
        reasons = reasons_to_hold(run.sources, findings, run.patience)
        if reasons:
            run.verdicts[hour] = _verdict(run, hour, "held", reason="; ".join(reasons))
        elif run.books.count(hour).proven or hour in run.in_force:
            complete.append(hour)
        else:
            run.verdicts[hour] = _verdict(run, hour, "published")
    _record(run, list(run.verdicts))
    run.told("decided")
    publisher = Publisher(
        ledger=run.ledger,
        store=run.store,
        tables=run.books.billable_tables(),
        decisions_position=run.decisions.position,
        now_ms=run.patience.now_ms,
        told=run.told,
    )
    for batch in _batches(run, complete):
        _publish_batch(run, publisher, batch)


def _publish_batch(run: _Close, publisher: Publisher, batch: Sequence[int]) -> None:
    sums = run.books.sums(batch)
    proven = run.books.proven_by_sources
    for hour, one in sums.items():
        refuse_unequal_ledger(
            hour,
            one,
            run.books.count(hour),
            run.books.dropped.get(hour, NO_COUNT),
            proven[hour // MS_PER_HOUR],
        )
    in_force = {hour: run.in_force[hour] for hour in batch if hour in run.in_force}
    for hour, shown in publisher.publish(sums, in_force).items():
        run.verdicts[hour] = _verdict(run, hour, "published", sums=sums[hour], shown=shown)
    _record(run, batch)
    run.told("decided")


def _batches(run: _Close, hours: Sequence[int]) -> Iterator[list[int]]:
    """Hours to read and publish together, within the bounds of the settings."""
    settings = run.ledger.settings
    batch: list[int] = []
    events = 0
    for hour in hours:
        count = run.books.count(hour).proven
        full = len(batch) >= settings.close_batch_hours
        if batch and (full or events + count > settings.close_batch_events):
            yield batch
            batch, events = [], 0
        batch.append(hour)
        events += count
    if batch:
        yield batch


def _verdict(
    run: _Close,
    hour: int,
    state: HourState,
    *,
    reason: str = "",
    sums: HourSums | None = None,
    shown: Publication | None = None,
) -> HourVerdict:
    count = run.books.count(hour)
    return HourVerdict(
        hour_ms=hour,
        state=state,
        reason=reason,
        sums=sums or NO_SUMS,
        run_id=shown.run_id if shown else "",
        position=shown.position if shown else 0,
        changed=shown.changed if shown else False,
        excluded=count.rows - count.proven,
        quarantined=run.books.quarantined[hour],
        dropped=run.books.dropped.get(hour, NO_COUNT).proven,
        copies=count.stored - count.rows,
    )


def _set_aside(run: _Close) -> Iterator[SetAside]:
    """What each hour that holds anything does not bill."""
    for hour, one in run.verdicts.items():
        if run.books.count(hour).rows or one.quarantined:
            yield SetAside(hour, one.excluded, one.quarantined, one.dropped)


def _record(run: _Close, hours: Sequence[int]) -> None:
    verdicts: Mapping[int, HourVerdict] = run.verdicts
    record_hours(
        run.store,
        [
            HourDecision(
                hour_at(hour), verdicts[hour].state, verdicts[hour].reason, run.patience.now_ms
            )
            for hour in hours
        ],
    )
