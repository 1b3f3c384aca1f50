"""Which events of a tenant a published run was made of: their content hashes, hour by hour."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from infra.store.decisions import decisions_after
from infra.store.runs import RecordedRun, runs_between
from schemas.errors import ContractError
from schemas.periods import Period
from schemas.units import MS_PER_HOUR, MS_PER_S
from streams.close_hours import read_books
from streams.completeness_decisions import read_decisions
from streams.completeness_reading import Ledger, read_sources
from streams.rollup_sql import HourRange, Offsets, tenant_hashes
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
        ledger = Ledger(client, _offsets(offsets), settings)
        span = HourRange(min(hours), max(hours) + MS_PER_HOUR)
        decisions = read_decisions(
            (one.position, one.kind, one.subject)
            for one in decisions_after(store, 0)
            if one.position <= position
        )
        sources, _ = read_sources(ledger, store, decisions, span)
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
) -> Mapping[tuple[str, int], set[int]]:
    """Hours that were read below the same offsets, under the same decisions."""
    known: dict[str, RecordedRun] = {
        one.header.run_id: one for one in runs_between(store, period.start, period.end)
    }
    together: dict[tuple[str, int], set[int]] = defaultdict(set)
    for run in runs:
        if run not in known:
            raise ContractError(f"run {run[:12]} is not among the store's of {period.name}")
        header = known[run].header
        hour_ms = int(header.hour.timestamp()) * MS_PER_S
        together[header.offsets, header.decisions_position].add(hour_ms)
    return together


def _offsets(text: str) -> Offsets:
    until: dict[tuple[str, int], int] = {}
    for name, offset in json.loads(text).items():
        topic, partition = name.rsplit("/", 1)
        until[topic, int(partition)] = offset
    return Offsets(until)
