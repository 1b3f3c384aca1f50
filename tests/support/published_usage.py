"""Publishes hours as hour close would: rows and runs in the ledger, headers in the store."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Engine

from infra.clickhouse.client import Client, connect
from infra.clickhouse.migrate import migrate
from infra.store.hours import HourDecision, record_hours
from infra.store.runs import RunHeader, record_run
from schemas.billing import HourlyUsage
from schemas.ids import content_hash, digest_of_hashes
from schemas.periods import Period
from schemas.tables import ROLLUP_KEY, ROLLUP_MEASURES


@contextmanager
def ledger(url: str, name: str) -> Iterator[Client]:
    """A client on an empty ledger of its own; dropped at the end."""
    migrate(url, name)
    client = connect(url, name)
    try:
        yield client
    finally:
        client.command(f"DROP DATABASE {name} SYNC")
        client.close()


def empty_ledger(client: Client) -> None:
    """Take out what a test before has published."""
    for table in ("usage_hourly_runs", "run_tenants", "rollup_runs"):
        client.command(f"TRUNCATE TABLE {table} SYNC")


def publish_run(
    client: Client, store: Engine, hour: datetime, rows: Iterable[HourlyUsage], *, offset: int = 1
) -> str:
    """Publish a run of one hour; the id is derived from its content, and returned."""
    used = list(rows)
    content = repr((hour, offset, used))
    run_id = hashlib.sha256(content.encode()).hexdigest()
    header = RunHeader(
        run_id=run_id,
        hour=hour,
        digest=hashlib.sha256(run_id.encode()).hexdigest(),
        offsets=json.dumps({"usage.v1/0": offset}),
        rules_version="test",
        decisions_position=0,
        events=sum(row.requests for row in used),
        rows=len(used),
        published_at_ms=0,
    )
    position = record_run(store, header)
    if used:
        client.insert(
            "usage_hourly_runs",
            [_row(row, run_id) for row in used],
            column_names=[*ROLLUP_KEY, *ROLLUP_MEASURES],
        )
        client.insert(
            "run_tenants",
            list(_tenants(used, hour, run_id)),
            column_names=["hour", "run_id", "tenant", "requests", "events", "digest"],
        )
    client.insert(
        "rollup_runs",
        [[hour, run_id, position, header.digest, header.offsets, header.events, header.rows, hour]],
        column_names=[
            "hour", "run_id", "position", "digest", "offsets", "events", "rows", "published_at",
        ],
    )  # fmt: skip
    return run_id


def publish_period(
    client: Client, store: Engine, period: Period, rows: Iterable[HourlyUsage]
) -> None:
    """Publish every hour of a period, those without usage too."""
    by_hour: dict[datetime, list[HourlyUsage]] = {}
    for row in rows:
        by_hour.setdefault(row.hour, []).append(row)
    for hour, used in by_hour.items():
        publish_run(client, store, hour, used)
    record_hours(store, [HourDecision(hour, "published", "", 1) for hour in period.hours()])


def _tenants(used: list[HourlyUsage], hour: datetime, run_id: str) -> Iterator[list[object]]:
    """What each tenant had: its requests, and a digest over hashes of its rows as its events."""
    for tenant in sorted({row.tenant for row in used}):
        mine = [row for row in used if row.tenant == tenant]
        requests = sum(row.requests for row in mine)
        contents = (repr((row.hour, _row(row, "")[2:])).encode() for row in mine)
        digest = digest_of_hashes(content_hash(content) for content in contents)
        yield [hour, run_id, tenant, requests, requests, digest]


def _row(row: HourlyUsage, run_id: str) -> list[object]:
    dimensions = [getattr(row, name) for name in ROLLUP_KEY if name not in ("hour", "run_id")]
    measures = [
        row.requests if name == "requests" else row.quantities.get(name, 0)
        for name in ROLLUP_MEASURES
    ]
    return [row.hour, run_id, *dimensions, *measures]
