"""Plans corrections of a period: rates it in one shot and records what differs from the charges."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, select

from billing.correcting import correct
from billing.correction_credits import credit
from billing.drafting import DraftInputs, drafts_of
from billing.planned_invoices import ISSUED_STATES, Draft
from billing.price_books import load_book
from billing.published_runs import run_ids_in_force, runs_in_force
from billing.settings import BillingSettings
from infra.clickhouse.client import Client
from infra.store.engine import take_turns
from infra.store.tables import corrections, invoices
from schemas.billing import Invoice
from schemas.clock import Clock
from schemas.corrections import Correction
from schemas.errors import InvoiceHeldError
from schemas.periods import Period
from schemas.prices import PriceBook
from schemas.units import NS_PER_MS


@dataclass(frozen=True, slots=True)
class Corrected:
    """What a run recorded now, and why tenants could not be corrected."""

    corrections: tuple[Correction, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CorrectionRun:
    """Corrects issued invoices of complete periods; two runs at once record each once."""

    ledger: Client
    store: Engine
    clock: Clock
    settings: BillingSettings

    def correct(
        self,
        period: Period,
        tenants: Collection[str] | None = None,
        *,
        book: PriceBook | None = None,
        known: Sequence[PriceBook] = (),
    ) -> Corrected:
        """Record what issued invoices of a period are to be corrected by; again changes nothing.

        Args:
            period: Every hour of it is published.
            tenants: Only these; else all that have an issued invoice.
            book: Reprices the period by this book. Else each tenant keeps the book that its
                invoice, or its last correction, was rated with.
            known: Books that need not be loaded.

        Raises:
            ConservationError: If the ledger's rows are not those of the runs in force, its own
                rating differs, or the recorded corrections are not whole.
        """
        made: list[Correction] = []
        problems: list[str] = []
        books = {one.sha256(): one for one in known}
        for sha256, group in self._by_book(period, tenants, book).items():
            prices = book or books.get(sha256) or load_book(self.store, sha256)
            inputs = DraftInputs(runs_in_force(self.store, period), prices, period)
            for draft in self._drafts(inputs, group):
                try:
                    one = self._record(draft, inputs, is_repricing=book is not None)
                except InvoiceHeldError as error:
                    problems.append(str(error))
                    continue
                made += [one] if one else []
        made.sort(key=lambda one: (one.tenant, one.revision))
        return Corrected(tuple(made), tuple(problems))

    def _drafts(self, inputs: DraftInputs, group: Collection[str]) -> Iterator[Draft]:
        drafts = drafts_of(
            self.ledger,
            inputs,
            dict.fromkeys(group, ""),
            block_rows=self.settings.usage_block_rows,
        )
        return (draft for draft in drafts if draft.invoice.tenant in group)

    def _by_book(
        self, period: Period, tenants: Collection[str] | None, book: PriceBook | None
    ) -> Mapping[str, set[str]]:
        """Tenants with an issued invoice, by the hash of the book that rates them."""
        groups: dict[str, set[str]] = defaultdict(set)
        if tenants is not None and not tenants:
            return groups
        query = select(invoices.c.tenant, invoices.c.currency).where(
            invoices.c.period == period.name,
            invoices.c.revision == 1,
            invoices.c.state.in_(ISSUED_STATES),
        )
        with self.store.connect() as connection:
            for row in connection.execute(query).all():
                if tenants is not None and row.tenant not in tenants:
                    continue
                if book is not None:
                    groups[book.sha256()].add(row.tenant)
                    continue
                invoice, earlier = _charged(connection, row.tenant, period.name, row.currency)
                groups[_book_in_force(invoice, earlier)].add(row.tenant)
        return groups

    def _record(
        self, draft: Draft, inputs: DraftInputs, *, is_repricing: bool
    ) -> Correction | None:
        """Record a tenant's next correction, and what it gives back; None if nothing differs.

        Raises:
            InvoiceHeldError: If some usage has no price, the period changed while it was rated, or
                a credit needs an invoice that is not issued yet.
        """
        final = draft.invoice
        who = f"correction of {final.tenant} {final.period}"
        if draft.unpriced:
            raise InvoiceHeldError(f"{who}: {draft.hold_reason}")
        now_ms = self.clock.now_ns() // NS_PER_MS
        with self.store.begin() as connection:
            take_turns(connection, f"invoice/{final.tenant}")
            if run_ids_in_force(connection, inputs.period) != inputs.headers.keys():
                raise InvoiceHeldError(f"{who}: an hour was published again meanwhile; run again")
            invoice, earlier = _charged(connection, final.tenant, final.period, final.currency)
            if not is_repricing and final.price_book_sha256 != _book_in_force(invoice, earlier):
                raise InvoiceHeldError(f"{who}: it was repriced meanwhile; run again")
            one = correct(invoice, earlier, final)
            if one is None:
                return None
            connection.execute(insert(corrections).values(_row(one, now_ms)))
            if one.total_minor < 0:
                credit(connection, invoice, one)
        return one


def _charged(
    connection: Connection, tenant: str, period: str, currency: str
) -> tuple[Invoice, list[Correction]]:
    """An issued invoice and its corrections by revision.

    Raises:
        InvoiceHeldError: If there is no issued invoice in this currency.
    """
    body = connection.execute(
        select(invoices.c.body).where(
            invoices.c.tenant == tenant,
            invoices.c.period == period,
            invoices.c.currency == currency,
            invoices.c.revision == 1,
            invoices.c.state.in_(ISSUED_STATES),
        )
    ).scalar_one_or_none()
    if body is None:
        raise InvoiceHeldError(
            f"correction of {tenant} {period}: no issued invoice in {currency} to correct"
        )
    rows = connection.execute(
        select(corrections.c.body)
        .where(
            corrections.c.tenant == tenant,
            corrections.c.period == period,
            corrections.c.currency == currency,
        )
        .order_by(corrections.c.revision)
    ).scalars()
    return (
        Invoice.model_validate_json(body),
        [Correction.model_validate_json(one) for one in rows],
    )


def _book_in_force(invoice: Invoice, earlier: Sequence[Correction]) -> str:
    return earlier[-1].price_book_sha256 if earlier else invoice.price_book_sha256


def _row(one: Correction, now_ms: int) -> dict[str, object]:
    return {
        "id": one.id,
        "tenant": one.tenant,
        "period": one.period,
        "revision": one.revision,
        "currency": one.currency,
        "invoice_id": one.invoice_id,
        "total_minor": one.total_minor,
        "body": one.canonical_json(),
        "planned_at_ms": now_ms,
    }
