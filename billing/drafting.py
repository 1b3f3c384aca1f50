"""Drafts: what each tenant's invoice of a period is by the usage in force, rated twice."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby

from billing.invoicing import make_invoice
from billing.planned_invoices import Draft
from billing.published_runs import proof_of, refuse_other_rows
from billing.rating import rate
from billing.sql_rating import SecondRating, rate_in_ledger
from billing.usage_reader import read_proven_hours, read_usage, rows_per_run, unproven_tenants
from billing.wording import unpriced_text
from infra.clickhouse.client import Client
from infra.store.runs import RunHeader
from schemas.billing import HourlyUsage
from schemas.errors import PeriodNotReadyError
from schemas.periods import Period
from schemas.prices import PriceBook
from schemas.proofs import events_root

PROBLEMS_SHOWN_MAX = 10
UNPROVEN_HOURS_SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class DraftInputs:
    """What drafts are made from beside the usage itself."""

    headers: Mapping[str, RunHeader]
    book: PriceBook
    period: Period


def drafts_of(
    ledger: Client, inputs: DraftInputs, without_usage: Mapping[str, str], *, block_rows: int
) -> Iterator[Draft]:
    """One draft per tenant with usage, then one at nothing for each of the others named.

    Args:
        ledger: A client on the ledger's database.
        inputs: The runs in force, the prices and the period.
        without_usage: Tenants to draft even if they have no usage, and why that is held, if so.
        block_rows: At most this many rows are in memory at a time.

    Raises:
        PeriodNotReadyError: If what proofs are made of does not hold the usage.
        ConservationError: If the ledger's rows are not those of the runs in force, or its own
            rating of them differs.
    """
    period = inputs.period
    refuse_other_rows(inputs.headers, rows_per_run(ledger, period))
    refuse_unproven_hours(ledger, period)
    second = rate_in_ledger(ledger, inputs.book, period)
    proven = read_proven_hours(ledger, period)
    with_usage: set[str] = set()
    with closing(read_usage(ledger, period, block_rows=block_rows)) as usage:
        for tenant, rows in groupby(usage, key=lambda row: row.tenant):
            with_usage.add(tenant)
            root = events_root(tenant, proven.get(tenant, ()))
            yield _draft(tenant, rows, inputs, second, root)
    second.refuse_others(with_usage)
    for tenant in sorted(without_usage.keys() - with_usage):
        draft = _draft(tenant, (), inputs, second, events_root(tenant, ()))
        yield Draft(draft.invoice, without_usage[tenant])


def refuse_unproven_hours(ledger: Client, period: Period) -> None:
    """Raise `PeriodNotReadyError` unless what proofs are made of holds every tenant's usage.

    A ledger from before proofs, or one that lost them, would give invoices the root of nothing.
    """
    unproven = unproven_tenants(
        ledger,
        period,
        tenants_max=PROBLEMS_SHOWN_MAX + 1,
        hours_max=UNPROVEN_HOURS_SHOWN_MAX,
    )
    if not unproven:
        return
    shown = [
        f"{one.tenant} {', '.join(f'{hour:%Y-%m-%dT%H:%MZ}' for hour in one.first)}"
        + (f" and {one.hours - len(one.first)} more hours" if one.hours > len(one.first) else "")
        for one in unproven[:PROBLEMS_SHOWN_MAX]
    ]
    if len(unproven) > PROBLEMS_SHOWN_MAX:
        shown.append("and more tenants")
    raise PeriodNotReadyError(
        f"{period.name} is not ready: run_tenants, which proofs are made of, does not hold the"
        f" usage of {'; '.join(shown)}. `rentroll close --period {period.name}` writes what is"
        " missing"
    )


def _draft(
    tenant: str, rows: Iterable[HourlyUsage], inputs: DraftInputs, second: SecondRating, root: str
) -> Draft:
    book, period = inputs.book, inputs.period
    run_ids: set[str] = set()
    rating = rate(_noting_runs(rows, run_ids), book, period)
    second.check(rating, tenant)
    proof = proof_of(inputs.headers, run_ids, root)
    invoice = make_invoice(rating, book, period, tenant=tenant, proof=proof)
    reason = unpriced_text(rating.unpriced, book.name) if rating.unpriced else ""
    return Draft(invoice, reason, rating.unpriced)


def _noting_runs(rows: Iterable[HourlyUsage], run_ids: set[str]) -> Iterator[HourlyUsage]:
    for row in rows:
        run_ids.add(row.run_id)
        yield row
