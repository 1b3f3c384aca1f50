"""Which runs are in force in a period, by the store; and whether the ledger holds just these."""

import json
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, Engine, select

from billing.invoicing import Proof
from infra.store.runs import RunHeader, runs_between
from infra.store.tables import rollup_runs
from infra.store.times import hour_to_ms
from schemas.billing import RunReference
from schemas.errors import ConservationError
from schemas.ids import format_ms
from schemas.periods import Period


def runs_in_force(store: Engine, period: Period) -> dict[str, RunHeader]:
    """The run with the highest position of every hour that has one, by run id."""
    last = {run.header.hour: run.header for run in runs_between(store, period.start, period.end)}
    return {header.run_id: header for header in last.values()}


def run_ids_in_force(connection: Connection, period: Period) -> frozenset[str]:
    """The ids alone, as the transaction sees them."""
    rows = connection.execute(
        select(rollup_runs.c.hour_ms, rollup_runs.c.run_id)
        .where(
            rollup_runs.c.hour_ms >= hour_to_ms(period.start),
            rollup_runs.c.hour_ms < hour_to_ms(period.end),
        )
        .order_by(rollup_runs.c.hour_ms, rollup_runs.c.position)
    )
    return frozenset({row.hour_ms: row.run_id for row in rows}.values())


def refuse_other_rows(headers: Mapping[str, RunHeader], rows: Mapping[str, int]) -> None:
    """The ledger must hold the rows of the runs in force, all of them, and no others.

    Raises:
        ConservationError: If a run has more or fewer rows than its header says.
    """
    for run_id in sorted(headers.keys() | rows.keys()):
        header = headers.get(run_id)
        promised, held = header.rows if header else 0, rows.get(run_id, 0)
        if promised != held:
            where = f"of hour {header.hour:%Y-%m-%dT%H:%MZ}" if header else "not in the store"
            raise ConservationError(
                f"run {run_id[:12]} ({where}) has {held} rows in the ledger, its header says"
                f" {promised}"
            )


def proof_of(
    headers: Mapping[str, RunHeader], run_ids: Iterable[str], events_root: str = ""
) -> Proof:
    """The runs that usage came from, and per Kafka partition the furthest offset they read.

    Raises:
        ConservationError: If usage came from a run that is not in force.
    """
    runs: list[RunReference] = []
    offsets: dict[str, int] = {}
    for run_id in sorted(run_ids):
        if run_id not in headers:
            raise ConservationError(f"usage of run {run_id[:12]}, which is not in force")
        header = headers[run_id]
        hour = format_ms(hour_to_ms(header.hour))
        runs.append(RunReference(hour=hour, run_id=run_id, digest=header.digest))
        for partition, offset in json.loads(header.offsets).items():
            offsets[partition] = max(offset, offsets.get(partition, offset))
    return Proof(tuple(runs), offsets, events_root)
