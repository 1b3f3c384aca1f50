"""Issues one invoice: one live Stripe invoice per tenant, period, currency, revision, always.

`planned -> drafted -> lined -> verified -> finalized -> issued`, and the exit `held`. Each state
is left by an update that names it, so two runners can walk the same way without harm.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy import Engine, select, update

from billing.issuer_bodies import (
    check_invoice,
    chunks,
    customer_body,
    invoice_body,
    invoice_metadata,
    line_bodies,
    missing_lines,
    same_charge,
)
from billing.issuer_protocol import Found, Hook, Write, Writer, no_hook
from billing.journal import customer_job, last_call
from billing.stripe_gateway import StripeGateway
from billing.stripe_objects import Json, StripeInvoice, Written
from infra.store.tables import invoices, periods, tenants
from schemas.billing import Invoice
from schemas.clock import Clock
from schemas.errors import ConservationError, InvoiceHeldError, StripeRefusedError
from schemas.units import NS_PER_MS, NS_PER_S

OPEN_STATES = ("planned", "drafted", "lined", "verified", "finalized")
"""What a run still has to bring to `issued`."""
MAIL_TRACE_S = 29 * 86_400
"""Stripe lists events for 30 days; past this nobody can tell whether a mail went out."""
MAX_REASON = 1_000
CHECK_MAIL = "check by hand whether Stripe mailed this invoice: its events are over 29 days old"


@dataclass(frozen=True, slots=True)
class Job:
    """One invoice on its way: the frozen invoice, and what the store knows of its issuing."""

    invoice: Invoice
    state: str
    customer: str
    stripe_invoice: str
    adopted: bool
    net_days: int

    def subject(self) -> tuple[str, ...]:
        """What must exist once at Stripe."""
        one = self.invoice
        return (one.tenant, one.period, one.currency, str(one.revision))


class Issuer:
    """Walks invoices through their states; safe in several threads and processes at once."""

    def __init__(
        self, store: Engine, gateway: StripeGateway, clock: Clock, *, hook: Hook = no_hook
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._clock = clock
        self._hook = hook
        self._writer = Writer(store, clock, hook)
        self._customers: dict[str, list[str]] | None = None

    def issue(self, invoice_id: str) -> str:
        """Bring an invoice to `issued`, from wherever it stands; returns its state.

        Raises:
            InvoiceHeldError: It is `held` now, with the reason.
            StripeRetryError: Stripe is away; run again.
            StripeStopError: Stripe will accept nothing.
        """
        try:
            job = self._read(invoice_id)
            while job.state in OPEN_STATES:
                self._step_of(job.state)(job)
                self._hook(f"left:{job.state}")
                job = self._read(invoice_id)
        except (InvoiceHeldError, StripeRefusedError, ConservationError) as error:
            reason = str(error)[:MAX_REASON]
            self._hold(invoice_id, reason)
            raise InvoiceHeldError(reason) from error
        return job.state

    def _step_of(self, state: str) -> Callable[[Job], None]:
        return {
            "planned": self._draft,
            "drafted": self._add_lines,
            "lined": self._verify,
            "verified": self._finalize,
            "finalized": self._send,
        }[state]

    # The steps, each from one state to the next.

    def _draft(self, job: Job) -> None:
        line_bodies(job.invoice)  # Refuse what cannot be issued before anything is at Stripe.
        customer = job.customer or self._ensure_customer(job.invoice.tenant)
        job = replace(job, customer=customer)

        def look(body: Json) -> Found:
            mine = self._ours(job)
            return Found(Written(mine.id, ""), body) if mine else Found(None, body)

        made, found = self._writer.write(
            Write(
                job=job.invoice.id,
                subject=job.subject(),
                step="create",
                body=invoice_body(job.invoice, customer, job.net_days),
                send=self._gateway.create_invoice,
                look=look,
                look_first=True,
            )
        )
        self._move(
            job,
            "drafted",
            stripe_customer=customer,
            stripe_invoice=made,
            adopted=int(found or job.adopted),
        )

    def _add_lines(self, job: Job) -> None:
        made = job.stripe_invoice

        def look(body: Json) -> Found:
            rest = missing_lines(body["lines"], self._gateway.lines(made))
            return Found(None if rest else Written(made, ""), {"lines": rest})

        for number, lines in enumerate(chunks(line_bodies(job.invoice))):
            self._write(
                job,
                f"lines{number}",
                {"lines": lines},
                lambda body, key: self._gateway.add_lines(made, body, key),
                look,
            )
        self._move(job, "lined")

    def _verify(self, job: Job) -> None:
        found = self._gateway.invoice(job.stripe_invoice)
        if found.status != "draft" and not job.adopted:
            raise InvoiceHeldError(
                f"Stripe's invoice {found.id} should be a draft and is {found.status}"
            )
        lines = self._gateway.lines(found.id) if found.more_lines else found.lines
        check_invoice(job.invoice, job.customer, found, lines)
        self._move(job, "verified")

    def _finalize(self, job: Job) -> None:
        made = job.stripe_invoice

        def look(body: Json) -> Found:
            is_done = self._gateway.invoice(made).status != "draft"
            return Found(Written(made, "") if is_done else None, body)

        self._write(
            job,
            "finalize",
            {"auto_advance": False},
            lambda body, key: self._gateway.finalize(made, body, key),
            look,
        )
        self._move(job, "finalized")

    def _send(self, job: Job) -> None:
        found = self._gateway.invoice(job.stripe_invoice)
        if found.status in {"draft", "void"} or found.total_minor != job.invoice.total_minor:
            raise InvoiceHeldError(
                f"Stripe's invoice {found.id} is {found.status} with a total of"
                f" {found.total_minor}, ours is {job.invoice.total_minor}"
            )
        flag = ""
        # One that is paid already (nothing, or too little to collect) asks for no mail.
        if found.status == "open":
            flag = self._mail(job, found)
        self._move(
            job,
            "issued",
            stripe_status=found.status,
            number=found.number,
            hosted_url=found.hosted_url,
            hold_reason=flag,
        )

    def _mail(self, job: Job, found: StripeInvoice) -> str:
        """Have it mailed once; returns what a person must check, if anything."""
        since_s = found.finalized_at_s or 0
        flag = ""

        def look(body: Json) -> Found:
            nonlocal flag
            if self._clock.now_ns() // NS_PER_S - since_s > MAIL_TRACE_S:
                flag = CHECK_MAIL
                return Found(Written(found.id, ""), body)
            is_sent = self._gateway.was_sent(found.id, since_s)
            return Found(Written(found.id, "") if is_sent else None, body)

        self._write(
            job, "send", {}, lambda body, key: self._gateway.send(found.id, body, key), look
        )
        return flag

    # Writing, looking, and the store.

    def _write(
        self,
        job: Job,
        step: str,
        body: Json,
        send: Callable[[Json, str], Written],
        look: Callable[[Json], Found],
    ) -> None:
        self._writer.write(
            Write(job.invoice.id, job.subject(), step, body, send, look, look_first=job.adopted)
        )

    def _ours(self, job: Job) -> StripeInvoice | None:
        """The invoice that Stripe has for this job already.

        Raises:
            InvoiceHeldError: If it has several, or one with other figures.
        """
        mine = [
            one
            for one in self._gateway.invoices(job.customer)
            if one.status != "void"
            and one.currency == job.invoice.currency.lower()
            and same_charge(one.metadata, job.invoice)
        ]
        if len(mine) > 1:
            ids = ", ".join(sorted(one.id for one in mine))
            raise InvoiceHeldError(f"Stripe has several invoices for {job.subject()}: {ids}")
        if mine and mine[0].metadata != invoice_metadata(job.invoice):
            raise InvoiceHeldError(
                f"Stripe has invoice {mine[0].id} for {job.subject()} made from other figures:"
                f" {mine[0].metadata}"
            )
        return mine[0] if mine else None

    def _ensure_customer(self, tenant: str) -> str:
        """The Stripe customer of a tenant, created once."""
        with self._store.connect() as connection:
            row = connection.execute(select(tenants).where(tenants.c.tenant == tenant)).one()
        if row.stripe_customer:
            return str(row.stripe_customer)

        def look(body: Json) -> Found:
            ids = self._customers_of(tenant)
            if len(ids) > 1:
                raise InvoiceHeldError(
                    f"Stripe has several customers for tenant {tenant}: {', '.join(sorted(ids))}"
                )
            return Found(Written(ids[0], "") if ids else None, body)

        made, _ = self._writer.write(
            Write(
                job=customer_job(tenant),
                subject=("customer", tenant),
                step="customer",
                body=customer_body(tenant, row.name, row.email),
                send=self._gateway.create_customer,
                look=look,
                look_first=True,
            )
        )
        with self._store.begin() as connection:
            connection.execute(
                update(tenants).where(tenants.c.tenant == tenant).values(stripe_customer=made)
            )
        return made

    def _customers_of(self, tenant: str) -> list[str]:
        """Customers that name this tenant, at Stripe.

        Before a first send the account is listed once per run, for all tenants together. After a
        doubtful send it is listed again: the customer may have been made since.
        """
        sent_before = last_call(self._store, customer_job(tenant), "customer") is not None
        if self._customers is None or sent_before:
            listed: dict[str, list[str]] = {}
            for customer, metadata in self._gateway.customers():
                listed.setdefault(metadata.get("tenant", ""), []).append(customer)
            self._customers = listed
        return self._customers.get(tenant, [])

    def _read(self, invoice_id: str) -> Job:
        with self._store.connect() as connection:
            row = connection.execute(
                select(invoices, tenants.c.net_days)
                .join(tenants, tenants.c.tenant == invoices.c.tenant)
                .where(invoices.c.id == invoice_id)
            ).one()
        invoice = Invoice.model_validate_json(row.body)
        if (row.id, row.total_minor) != (invoice.id, invoice.total_minor):
            raise ConservationError(
                f"invoice {row.id}: the row says total_minor={row.total_minor}, its body"
                f" {invoice.id} says {invoice.total_minor}"
            )
        return Job(
            invoice=invoice,
            state=row.state,
            customer=row.stripe_customer or "",
            stripe_invoice=row.stripe_invoice or "",
            adopted=bool(row.adopted),
            net_days=row.net_days,
        )

    def _move(self, job: Job, state: str, **values: str | int | None) -> None:
        """Leave the job's state; where another runner did so already, its update stands.

        An invoice that is issued makes its tenant's period `invoiced`, in the same transaction.
        """
        with self._store.begin() as connection:
            connection.execute(
                update(invoices)
                .where(invoices.c.id == job.invoice.id, invoices.c.state == job.state)
                .values(state=state, **values)
            )
            if state == "issued":
                connection.execute(
                    update(periods)
                    .where(
                        periods.c.tenant == job.invoice.tenant,
                        periods.c.period == job.invoice.period,
                    )
                    .values(state="invoiced", changed_at_ms=self._clock.now_ns() // NS_PER_MS)
                )

    def _hold(self, invoice_id: str, reason: str) -> None:
        with self._store.begin() as connection:
            connection.execute(
                update(invoices)
                .where(invoices.c.id == invoice_id, invoices.c.state.in_(OPEN_STATES))
                .values(state="held", hold_reason=reason)
            )
