"""Which events of a tenant a published run was made of: their content hashes, hour by hour."""

from collections.abc import Sequence

from sqlalchemy import Engine

from infra.clickhouse.client import Client, external
from schemas.periods import Period
from streams.rollup_sql import tenant_hashes
from streams.run_inputs import inputs_of_runs, named_runs
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
    named = named_runs(store, period, runs)
    for inputs in inputs_of_runs(client, store, named, settings):
        rows = client.query(
            tenant_hashes(inputs.ledger.offsets, inputs.span),
            parameters={"tenant": tenant},
            external_data=external(**inputs.books.billable_tables()),
        ).result_rows
        found.update({hour: tuple(hashes) for hour, hashes in rows if hour in inputs.runs})
    return found
