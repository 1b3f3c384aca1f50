"""Which events of a tenant a published run was made of: their content hashes, hour by hour."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from infra.store.decisions import decisions_after
from infra.store.runs import RunHeader, runs_between
from schemas.errors import ContractError
from schemas.periods import Period
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.close_hours import read_books
from streams.completeness_decisions import read_decisions
from streams.completeness_ledger import Ledger
from streams.completeness_reading import read_sources
from streams.replay_comparing import read_vector
from streams.rollup_sql import HourRange, tenant_hashes
from streams.settings import StreamSettings


def proven_hashes(
    client: Client,
    store: Engine,
    period: Period,
    *,
    tenant: str,
    runs: Sequence[str],
    settings: StreamSettings,
) -> dict[int, tuple[str, ...]]:
    """Content hashes of a tenant's events in some published runs of a period.

    They are read as closing read them: below each run's own offsets, signed by registered
    sources, under the decisions that counted for the run.

    Args:
        client: The ledger.
        store: The billing store.
        period: Whole hours that the runs lie in.
        tenant: Whose events.
        runs: Ids of published runs, one of each hour that is asked for.
        settings: Bounds of reading.

    Returns:
        Sorted hashes as hex, by the hour's start in ms since the epoch.

    Raises:
        ContractError: If the store does not know one of the runs.
    """
    found: dict[int, tuple[str, ...]] = {}
    for (offsets, position), hours in _by_inputs(store, period, runs).items():
        ledger = Ledger(client, read_vector(offsets), settings)
        span = HourRange(min(hours), max(hours) + MS_PER_HOUR)
        decisions = read_decisions(
            (one.position, one.kind, one.subject)
            for one in decisions_after(store, 0)
            if one.position <= position
        )
        published_ms = max(header.published_at_ms for header in hours.values())
        sources, _ = read_sources(ledger, store, decisions, span, now_ms=published_ms)
        books = read_books(ledger, sources, decisions, span)
        rows = client.query(
            tenant_hashes(ledger.offsets, span),
            parameters={"tenant": tenant},
            external_data=external(**books.billable_tables()),
        ).result_rows
        found.update({hour: tuple(hashes) for hour, hashes in rows if hour in hours})
    return found


def _by_inputs(
    store: Engine, period: Period, runs: Sequence[str]
) -> Mapping[tuple[str, int], dict[int, RunHeader]]:
    """By hour the runs that were read below the same offsets, under the same decisions."""
    known = {one.header.run_id: one.header for one in runs_between(store, period.start, period.end)}
    together: dict[tuple[str, int], dict[int, RunHeader]] = defaultdict(dict)
    for run in runs:
        if run not in known:
            raise ContractError(f"run {run[:12]} is not among the store's of {period.name}")
        header = known[run]
        hour_ms = int(header.hour.timestamp()) * MS_PER_S
        together[header.offsets, header.decisions_position][hour_ms] = header
    return together
