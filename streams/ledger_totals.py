"""What the ledger holds of given sources, and what its published hours hold of a period."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from infra.clickhouse.client import Client
from schemas.periods import Period
from schemas.usage import TOKEN_METERS

_SUMS = ", ".join(f"sum({meter})" for meter in (*TOKEN_METERS, "gpu_ns"))


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """Requests, tokens by meter and GPU time; `doubled` counts events under an id used before."""

    events: int
    doubled: int
    tokens: dict[str, int]
    gpu_ns: int


def ledger_totals(client: Client, sources: Collection[str]) -> LedgerTotals:
    """Finished requests of `sources` as a reader of the ledger sees them, copies collapsed."""
    row = client.query(
        f"SELECT count(), count() - uniqExact(event_id), {_SUMS}"  # noqa: S608 - our own names
        " FROM usage_events FINAL WHERE has({sources:Array(UUID)}, source)",
        parameters={"sources": sorted(sources)},
    ).result_rows[0]
    return LedgerTotals(int(row[0]), int(row[1]), _tokens(row[2:]), int(row[-1]))


def rolled_up_totals(
    client: Client, period: Period, tenants: Collection[str] | None = None
) -> LedgerTotals:
    """Finished requests in the published hours of `period`; of some tenants if they are named."""
    theirs = "" if tenants is None else " AND has({tenants:Array(String)}, tenant)"
    row = client.query(
        f"SELECT sum(requests), 0, {_SUMS} FROM usage_hourly"  # noqa: S608 - our own names
        f" WHERE hour >= {{start:DateTime('UTC')}} AND hour < {{end:DateTime('UTC')}}{theirs}",
        parameters={"start": period.start, "end": period.end, "tenants": sorted(tenants or ())},
    ).result_rows[0]
    return LedgerTotals(int(row[0]), 0, _tokens(row[2:]), int(row[-1]))


@dataclass(frozen=True, slots=True)
class RequestInLedger:
    """One finished request: what it is billed for, and what its client received."""

    tenant: str
    outcome: str
    tokens: dict[str, int]
    delivered_tokens: int


def requests_in_ledger(client: Client, source: str) -> dict[str, RequestInLedger]:
    """Every finished request of one source, by id; for a source that sent a few thousand."""
    rows = client.query(
        "SELECT toString(event_id), tenant, outcome, delivered_tokens,"  # noqa: S608
        f" {', '.join(TOKEN_METERS)} FROM usage_events FINAL WHERE source = {{source:UUID}}",
        parameters={"source": source},
    ).result_rows
    return {
        event_id: RequestInLedger(tenant, outcome, _tokens(used), delivered)
        for event_id, tenant, outcome, delivered, *used in rows
    }


def attributed_by_engines(client: Client, source: str) -> int:
    """GPU-ns that the engines of a source attributed to requests, by their signed intervals."""
    row = client.query(
        "SELECT sum(attributed_ns) FROM engine_intervals FINAL WHERE source = {source:UUID}",
        parameters={"source": source},
    ).result_rows[0]
    return int(row[0])


def dead_letters_of(client: Client, limit: int) -> list[str]:
    """Refused records as `topic/partition/offset: reason, detail`, at most `limit`."""
    rows = client.query(
        "SELECT topic, kafka_partition, kafka_offset, reason, detail FROM dead_letters FINAL"
        " ORDER BY topic, kafka_partition, kafka_offset LIMIT {limit:UInt32}",
        parameters={"limit": limit},
    ).result_rows
    return [f"{row[0]}/{row[1]}/{row[2]}: {row[3]}, {row[4]}" for row in rows]


def _tokens(sums: Sequence[int]) -> dict[str, int]:
    return dict(zip(TOKEN_METERS, map(int, sums), strict=False))
