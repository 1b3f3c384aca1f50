"""Plans a period: refuses unless it is complete, rates every tenant, writes one invoice each."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Engine

from billing.invoicing import make_invoice
from billing.planned_invoices import (
    Draft,
    PlannedInvoice,
    tenants_with_a_row,
    write_draft,
)
from billing.published_runs import proof_of, refuse_other_rows, runs_in_force
from billing.rating import rate
from billing.settings import BillingSettings
from billing.sql_rating import SecondRating, rate_in_ledger
from billing.usage_reader import read_proven_hours, read_usage, rows_per_run, unproven_tenants
from billing.wording import unpriced_text
from infra.clickhouse.client import Client
from infra.store.hours import period_problems
from infra.store.runs import RunHeader
from schemas.billing import HourlyUsage
from schemas.clock import Clock
from schemas.errors import InvoiceHeldError, PeriodNotReadyError
from schemas.periods import Period
from schemas.prices import PriceBook
from schemas.proofs import events_root
from schemas.units import NS_PER_MS

PROBLEMS_SHOWN_MAX = 10
UNPROVEN_HOURS_SHOWN_MAX = 3
USAGE_IS_GONE = "none of the usage that it was planned from is in force any more"


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What planning a period came to, in the order of tenants; empty where there is no usage."""

    period: str
    currency: str
    price_book_sha256: str
    invoices: tuple[PlannedInvoice, ...]


def plan_period(
    ledger: Client,
    store: Engine,
    period: Period,
    book: PriceBook,
    *,
    clock: Clock,
    settings: BillingSettings,
) -> PlanResult:
    """Rate a complete period and write each tenant's invoice, `planned` or `held`.

    The same ledger, book and period again change nothing. A tenant whose total rounds to zero
    gets an invoice too: what becomes of it is decided where it is issued.

    Raises:
        PeriodNotReadyError: Unless every hour of the period is published, with what proofs are
            made of; the message lists them.
        ConservationError: If the ledger's rows are not those of the published runs, or its own
            rating of them differs.
        InvoiceHeldError: If tenants' invoices were begun from other usage or prices; all others
            are planned by then.
    """
    refuse_unready_period(store, period)
    planned: list[PlannedInvoice] = []
    conflicts: list[str] = []
    for draft in _drafts(ledger, store, period, book, block_rows=settings.usage_block_rows):
        now_ms = clock.now_ns() // NS_PER_MS
        try:
            planned.append(write_draft(store, draft, settings=settings, now_ms=now_ms))
        except InvoiceHeldError as error:
            conflicts.append(str(error))
    if conflicts:
        raise InvoiceHeldError("; ".join(conflicts))
    return PlanResult(period.name, book.currency, book.sha256(), tuple(planned))


def refuse_unready_period(store: Engine, period: Period) -> None:
    """Raise `PeriodNotReadyError` unless every hour of the period is published."""
    problems = period_problems(store, period)
    if problems:
        shown = "; ".join(problems[:PROBLEMS_SHOWN_MAX])
        more = len(problems) - PROBLEMS_SHOWN_MAX
        raise PeriodNotReadyError(
            f"{period.name} is not ready: {shown}{f'; and {more} more' if more > 0 else ''}"
        )


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


def _drafts(
    ledger: Client, store: Engine, period: Period, book: PriceBook, *, block_rows: int
) -> Iterator[Draft]:
    """One draft per tenant with usage; then one for each whose usage is no longer there."""
    headers = runs_in_force(store, period)
    refuse_other_rows(headers, rows_per_run(ledger, period))
    refuse_unproven_hours(ledger, period)
    second = rate_in_ledger(ledger, book, period)
    proven = read_proven_hours(ledger, period)
    with_usage: set[str] = set()
    with closing(read_usage(ledger, period, block_rows=block_rows)) as usage:
        for tenant, rows in groupby(usage, key=lambda row: row.tenant):
            with_usage.add(tenant)
            root = events_root(tenant, proven.get(tenant, ()))
            yield _draft(tenant, rows, _Inputs(headers, book, period, second, root))
    second.refuse_others(with_usage)
    for tenant in tenants_with_a_row(store, period, book.currency):
        if tenant not in with_usage:
            root = events_root(tenant, ())
            draft = _draft(tenant, (), _Inputs(headers, book, period, second, root))
            yield Draft(draft.invoice, USAGE_IS_GONE)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a tenant's invoice is made from beside its usage."""

    headers: Mapping[str, RunHeader]
    book: PriceBook
    period: Period
    second: SecondRating
    events_root: str


def _draft(tenant: str, rows: Iterable[HourlyUsage], inputs: _Inputs) -> Draft:
    book, period = inputs.book, inputs.period
    run_ids: set[str] = set()
    rating = rate(_noting_runs(rows, run_ids), book, period)
    inputs.second.check(rating, tenant)
    proof = proof_of(inputs.headers, run_ids, inputs.events_root)
    invoice = make_invoice(rating, book, period, tenant=tenant, proof=proof)
    reason = unpriced_text(rating.unpriced, book.name) if rating.unpriced else ""
    return Draft(invoice, reason, rating.unpriced)


def _noting_runs(rows: Iterable[HourlyUsage], run_ids: set[str]) -> Iterator[HourlyUsage]:
    for row in rows:
        run_ids.add(row.run_id)
        yield row
