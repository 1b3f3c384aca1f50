"""Looks at hours without deciding anything: what is proven, what is missing, how to fill it."""

from dataclasses import dataclass, field

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from infra.decision_kinds import DECLARE_LOSS
from infra.store.decisions import Decision, decisions_after
from schemas.clock import Clock
from schemas.periods import Period
from schemas.units import MS_PER_HOUR, MS_PER_S, NS_PER_MS, SEQUENCE_MAX
from streams.close_hours import read_books
from streams.completeness import HourFindings, Patience, SourceState, reasons_to_hold
from streams.completeness_decisions import Decisions, read_decisions
from streams.completeness_ledger import Ledger, batch_table, read_offsets
from streams.completeness_reading import read_sources
from streams.completeness_sql import unregistered
from streams.retention import refuse_dropped
from streams.rollup_sql import HourRange
from streams.settings import StreamSettings

_STRANGERS_MAX = 100
"""Sources that nobody registered and that are named; anybody who can write may make up more."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """A source that nobody registered, by what it says itself; its requests are not billed."""

    source: str
    host: str
    requests: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Sequences of a source that are nowhere. `last` is None where the end itself is missing."""

    source: str
    host: str
    replicas: tuple[str, ...]
    first: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at some hours found; `waiting` are the reasons that hold each hour."""

    sources: list[SourceState]
    waiting: dict[int, list[str]]
    strangers: list[Stranger]
    declared: list[Decision]
    holes: list[Hole] = field(default_factory=list)


def look_at(
    client: Client,
    store: Engine,
    period: Period,
    *,
    clock: Clock,
    settings: StreamSettings | None = None,
) -> Look:
    """Prove every source that matters to `period`; nothing is decided or published.

    Raises:
        ContractError: If a decision in the store cannot be read, or the hours' events were dropped.
    """
    refuse_dropped(store, period)
    ledger = Ledger(client, read_offsets(client), settings or StreamSettings())
    hours = HourRange(
        int(period.start.timestamp()) * MS_PER_S, int(period.end.timestamp()) * MS_PER_S
    )
    log = decisions_after(store, 0)
    decisions = read_decisions((one.position, one.kind, one.subject) for one in log)
    now_ms = clock.now_ns() // NS_PER_MS
    sources, any_source = read_sources(ledger, store, decisions, hours, now_ms=now_ms)
    patience = Patience(
        now_ms=now_ms,
        grace_ms=ledger.settings.close_grace_s * MS_PER_S,
        max_reasons=ledger.settings.close_max_reasons,
        any_source=any_source,
    )
    return Look(
        sources=sources,
        waiting=_waiting(ledger, sources, decisions, hours, patience),
        strangers=_strangers(ledger, store, hours),
        declared=[one for one in log if one.kind == DECLARE_LOSS],
        holes=[hole for state in sources for hole in _holes(state, hours)],
    )


def _waiting(
    ledger: Ledger,
    sources: list[SourceState],
    decisions: Decisions,
    hours: HourRange,
    patience: Patience,
) -> dict[int, list[str]]:
    books = read_books(ledger, sources, decisions, hours)
    found = {
        hour: reasons_to_hold(
            sources,
            HourFindings(hour, books.orphans.get(hour, ()), crowded=hour in books.crowded),
            patience,
        )
        for hour in range(hours.first_ms, hours.end_ms, MS_PER_HOUR)
    }
    return {hour: reasons for hour, reasons in found.items() if reasons}


def _strangers(ledger: Ledger, store: Engine, hours: HourRange) -> list[Stranger]:
    from infra.store.sources import registered_keys

    rows = ledger.client.query(
        unregistered(ledger.offsets, hours, _STRANGERS_MAX),
        external_data=external(batch=batch_table(list(registered_keys(store)))),
    ).result_rows
    return [Stranger(source, host, requests) for source, requests, host in rows]


def _holes(state: SourceState, hours: HourRange) -> list[Hole]:
    replicas = tuple(state.replicas())
    found = [
        Hole(state.source, state.host, replicas, first, last)
        for first, last in state.findings.holes
    ]
    if state.final_sequence is None and (state.watermark_ms() or 0) < hours.end_ms:
        found.append(Hole(state.source, state.host, replicas, first_unproven(state), None))
    return found


def first_unproven(state: SourceState) -> int:
    """The sequence behind the last one that a signed range proves or a decision excuses."""
    settled = [*state.findings.spans, *state.findings.unproven, *state.findings.holes]
    return min(max((last for _, last in settled), default=0) + 1, SEQUENCE_MAX)
