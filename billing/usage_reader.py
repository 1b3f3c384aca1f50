"""Reads published hourly usage from ClickHouse in blocks; all that billing asks of the ledger."""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from infra.clickhouse.client import Client
from schemas.billing import DailyUsage, HourlyUsage, Invoice
from schemas.errors import ConservationError
from schemas.periods import Period, hour_text
from schemas.proofs import ProvenHour, events_root
from schemas.usage import OUTCOMES, TOKEN_METERS, Outcome

_MEASURES = ("requests", *TOKEN_METERS, "gpu_ns")
_DIMENSIONS = (
    "tenant",
    "project",
    "api_key",
    "model",
    "adapter",
    "service_tier",
    "gpu_type",
    "region",
    "outcome",
)
_IN_PERIOD = "hour >= {start:DateTime('UTC')} AND hour < {end:DateTime('UTC')}"
_IN_FORCE = (
    "(hour, run_id) IN (SELECT hour, argMax(run_id, position) FROM rollup_runs FINAL GROUP BY hour)"
)


@dataclass(frozen=True, slots=True)
class UnprovenTenant:
    """Hours of a tenant that are rolled up and of which the leaves of proofs say otherwise."""

    tenant: str
    hours: int
    first: tuple[datetime, ...]


def read_usage(
    ledger: Client, period: Period, *, tenant: str | None = None, block_rows: int
) -> Generator[HourlyUsage, None, None]:
    """Hourly usage of a period, in the order of tenants; of one tenant if it is named.

    Rows stream in blocks, so that memory does not grow with the period. An iterator that is not
    read to its end must be closed.

    Args:
        ledger: A client on the ledger's database.
        period: Its hours are read.
        tenant: Reads only this tenant's rows.
        block_rows: At most this many rows are in memory at a time.

    Raises:
        ConservationError: If a row has an outcome that no price book can know.
    """
    # The run id is fixed-width, which comes back as bytes; the ledger's own text cast gives text.
    columns = ", ".join(("hour", "toString(run_id)", *_DIMENSIONS, *_MEASURES))
    mine = "" if tenant is None else " AND tenant = {tenant:String}"
    stream = ledger.query_row_block_stream(
        f"SELECT {columns} FROM usage_hourly WHERE {_IN_PERIOD}{mine}"  # noqa: S608
        " ORDER BY tenant, hour, project, api_key, model, adapter, service_tier, gpu_type, region,"
        " outcome",
        parameters=_bounds(period) | {"tenant": tenant or ""},
        settings={"max_block_size": block_rows},
    )
    with stream:
        for block in stream:
            for row in block:
                yield _usage_of(row)


def rows_per_run(ledger: Client, period: Period) -> dict[str, int]:
    """How many rows the ledger holds of each run in force, to compare with the runs' headers."""
    found = ledger.query(
        "SELECT toString(run_id) AS run, count() FROM usage_hourly"  # noqa: S608
        f" WHERE {_IN_PERIOD} GROUP BY run",
        parameters=_bounds(period),
    )
    return {str(run_id): int(rows) for run_id, rows in found.result_rows}


def read_proven_hours(ledger: Client, period: Period) -> dict[str, list[ProvenHour]]:
    """By tenant its hours with usage, of the runs in force, in order of time."""
    found = ledger.query(
        "SELECT tenant, toUnixTimestamp(hour) * 1000, events, toString(digest)"  # noqa: S608
        f" FROM run_tenants FINAL WHERE {_IN_PERIOD} AND {_IN_FORCE}"
        " ORDER BY tenant, hour",
        parameters=_bounds(period),
    )
    hours: dict[str, list[ProvenHour]] = {}
    for tenant, *hour in found.result_rows:
        hours.setdefault(tenant, []).append(_proven(*hour))
    return hours


def unproven_tenants(
    ledger: Client, period: Period, *, tenants_max: int, hours_max: int
) -> list[UnprovenTenant]:
    """Tenants whose rolled-up hours and leaves of proofs differ, of the runs in force.

    An hour differs if only one of the two has it, or if they count other requests in it.

    Args:
        ledger: A client on the ledger's database.
        period: Its hours are compared.
        tenants_max: At most this many are listed, in order.
        hours_max: Of each at most this many hours, the first ones.
    """
    found = ledger.query(
        "SELECT tenant, count(), arraySlice(arraySort(groupArray(hour)), 1, {most:UInt32})"  # noqa: S608
        " FROM (SELECT tenant, hour FROM"
        " (SELECT tenant, hour, 1 AS side, toInt64(sum(requests)) AS counted FROM usage_hourly"
        f" WHERE {_IN_PERIOD} GROUP BY tenant, hour"
        " UNION ALL SELECT tenant, hour, -1, -toInt64(sum(requests)) FROM run_tenants FINAL"
        f" WHERE {_IN_PERIOD} AND {_IN_FORCE} GROUP BY tenant, hour)"
        " GROUP BY tenant, hour HAVING sum(side) != 0 OR sum(counted) != 0)"
        " GROUP BY tenant ORDER BY tenant LIMIT {tenants:UInt32}",
        parameters=_bounds(period) | {"most": hours_max, "tenants": tenants_max},
    )
    return [
        UnprovenTenant(tenant, int(hours), tuple(first))
        for tenant, hours, first in found.result_rows
    ]


def read_hours_of(ledger: Client, period: Period, invoice: Invoice) -> list[ProvenHour]:
    """An invoice's hours, from the runs that it names and not from later ones.

    Raises:
        ConservationError: If they do not lead to the invoice's events root.
    """
    found = ledger.query(
        "SELECT toUnixTimestamp(hour) * 1000, events, toString(digest)"  # noqa: S608
        f" FROM run_tenants FINAL WHERE {_IN_PERIOD} AND tenant = {{tenant:String}}"
        " AND has({runs:Array(String)}, toString(run_id)) ORDER BY hour",
        parameters=_bounds(period)
        | {"tenant": invoice.tenant, "runs": [run.run_id for run in invoice.runs]},
    )
    hours = [_proven(*hour) for hour in found.result_rows]
    root = events_root(invoice.tenant, hours)
    if root != invoice.events_root:
        raise ConservationError(
            f"the ledger's hours of {invoice.tenant} {invoice.period} lead to {root}, invoice"
            f" {invoice.id[:12]} has {invoice.events_root or 'no events root'}"
        )
    return hours


def _proven(hour_ms: int, events: int, digest: str) -> ProvenHour:
    return ProvenHour(hour=hour_text(hour_ms), events=events, digest=digest)


def read_days(ledger: Client, period: Period, invoice: Invoice) -> list[DailyUsage]:
    """An invoice's usage by UTC day, from the runs that it names and not from later ones.

    Raises:
        ConservationError: If the days do not add up to the invoice.
    """
    found = ledger.query(
        "SELECT toString(toDate(hour)) AS day, toString(run_id) AS run, sum(requests),"  # noqa: S608
        " sum(input_uncached_tokens + input_cache_read_tokens + input_cache_write_tokens),"
        " sum(output_text_tokens + output_reasoning_tokens), sum(gpu_ns)"
        " FROM usage_hourly_runs FINAL"
        f" WHERE {_IN_PERIOD} AND tenant = {{tenant:String}} GROUP BY day, run",
        parameters=_bounds(period) | {"tenant": invoice.tenant},
    )
    named = {run.run_id for run in invoice.runs}
    sums: dict[str, list[int]] = {}
    for day, run_id, *used in found.result_rows:
        if run_id in named:
            so_far = sums.setdefault(day, [0] * len(used))
            sums[day] = [one + more for one, more in zip(so_far, used, strict=True)]
    days = [
        DailyUsage(
            day=day,
            requests=requests,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            gpu_ns=gpu_ns,
        )
        for day, (requests, input_tokens, output_tokens, gpu_ns) in sorted(sums.items())
    ]
    requests, gpu_ns = sum(day.requests for day in days), sum(day.gpu_ns for day in days)
    if (requests, gpu_ns) != (invoice.requests, invoice.gpu_ns):
        raise ConservationError(
            f"the ledger's days of {invoice.tenant} {invoice.period} have {requests} requests and"
            f" {gpu_ns} GPU-ns, invoice {invoice.id[:12]} has {invoice.requests} and"
            f" {invoice.gpu_ns}: its runs are not all in the ledger"
        )
    return days


def _bounds(period: Period) -> dict[str, Any]:
    return {"start": period.start, "end": period.end}


def _usage_of(row: tuple[Any, ...]) -> HourlyUsage:
    hour, run_id, *rest = row
    dimensions = dict(zip(_DIMENSIONS, rest, strict=False))
    measures = dict(zip(_MEASURES, rest[len(_DIMENSIONS) :], strict=True))
    if dimensions["outcome"] not in OUTCOMES:
        raise ConservationError(
            f"run {run_id} has outcome {dimensions['outcome']!r}; outcomes are {get_args(Outcome)}"
        )
    return HourlyUsage(
        hour=hour,
        run_id=run_id,
        **dimensions,
        requests=measures["requests"],
        quantities=measures,
    )
