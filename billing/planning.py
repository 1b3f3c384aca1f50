"""Plans a period: refuses unless it is complete, rates every tenant, writes one invoice each."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Engine

from billing.carried_corrections import tenants_with_corrections
from billing.correction_run import CorrectionRun
from billing.drafting import DraftInputs, drafts_of
from billing.planned_invoices import (
    USAGE_IS_GONE,
    Draft,
    PlannedInvoice,
    tenants_with_a_row,
    write_draft,
)
from billing.published_runs import runs_in_force
from billing.settings import BillingSettings
from infra.clickhouse.client import Client
from infra.store.hours import period_problems
from schemas.clock import Clock
from schemas.corrections import Correction
from schemas.errors import InvoiceHeldError, PeriodNotReadyError
from schemas.periods import Period
from schemas.prices import PriceBook
from schemas.units import NS_PER_MS

PROBLEMS_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class PlanResult:
    """What planning a period came to, in the order of tenants; empty where there is no usage."""

    period: str
    currency: str
    price_book_sha256: str
    invoices: tuple[PlannedInvoice, ...]
    corrections: tuple[Correction, ...] = ()
    """Made now, of invoices that were issued before their usage was complete."""


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
    gets an invoice too: what becomes of it is decided where it is issued. Where usage has changed
    since an invoice was issued, its correction is planned, by the prices of that invoice.

    Raises:
        PeriodNotReadyError: Unless every hour of the period is published, with what proofs are
            made of; the message lists them.
        ConservationError: If the ledger's rows are not those of the published runs, or its own
            rating of them differs.
        InvoiceHeldError: If tenants' invoices were begun from other usage or prices and are not
            issued yet; all others are planned by then.
    """
    refuse_unready_period(store, period)
    planned: list[PlannedInvoice] = []
    conflicts: list[str] = []
    late: set[str] = set()
    for draft in _drafts(ledger, store, period, book, block_rows=settings.usage_block_rows):
        now_ms = clock.now_ns() // NS_PER_MS
        try:
            planned.append(write_draft(store, draft, settings=settings, now_ms=now_ms))
        except InvoiceHeldError as error:
            conflicts.append(str(error))
            continue
        if planned[-1].change == "late":
            late.add(draft.invoice.tenant)
    done = CorrectionRun(ledger, store, clock, settings).correct(period, late, known=(book,))
    if conflicts or done.problems:
        raise InvoiceHeldError("; ".join((*conflicts, *done.problems)))
    return PlanResult(period.name, book.currency, book.sha256(), tuple(planned), done.corrections)


def refuse_unready_period(store: Engine, period: Period) -> None:
    """Raise `PeriodNotReadyError` unless every hour of the period is published."""
    problems = period_problems(store, period)
    if problems:
        shown = "; ".join(problems[:PROBLEMS_SHOWN_MAX])
        more = len(problems) - PROBLEMS_SHOWN_MAX
        raise PeriodNotReadyError(
            f"{period.name} is not ready: {shown}{f'; and {more} more' if more > 0 else ''}"
        )


def _drafts(
    ledger: Client, store: Engine, period: Period, book: PriceBook, *, block_rows: int
) -> Iterator[Draft]:
    """One draft per tenant with usage, with an invoice, or with a correction to carry."""
    without_usage = dict.fromkeys(tenants_with_a_row(store, period, book.currency), USAGE_IS_GONE)
    for tenant in tenants_with_corrections(store, period, book.currency):
        without_usage[tenant] = ""
    inputs = DraftInputs(runs_in_force(store, period), book, period)
    yield from drafts_of(ledger, inputs, without_usage, block_rows=block_rows)
