"""What goes back or is given up: credit notes, refunds, void and written-off invoices."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine, select

from billing.collecting import COLLECTED_STATES, Collector, Taken
from billing.issuer_protocol import Found, Hook, Write, Writer, no_hook
from billing.journal import last_call
from billing.stripe_gateway import StripeGateway
from billing.stripe_objects import Json, Written
from infra.store.tables import invoices
from schemas.clock import Clock
from schemas.errors import ContractError, InvoiceHeldError
from schemas.ids import derived_hex
from schemas.units import MS_PER_S, NS_PER_MS

Settlement = Literal["balance", "refund", "outside"]
"""How money that was paid goes back: onto the customer's balance for its next invoice, to where it
came from, or by a way that Stripe does not see. An invoice that is not paid owes less instead."""
Ending = Literal["void", "uncollectible"]
MAX_REFERENCE = 200
_FIELD_OF: dict[Settlement, str] = {
    "balance": "credit_amount",
    "refund": "refund_amount",
    "outside": "out_of_band_amount",
}
_EVENTS_KEPT_S = 29 * 86_400
_STEP_DIGITS = 24
_MAX_DESCRIPTION = 500


@dataclass(frozen=True, slots=True)
class CreditLine:
    """What is credited, in words and in minor units of the invoice's currency; above 0."""

    description: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A credit note to be issued.

    `reference` names it for ever within its invoice: the same reference with the same content is
    the same note, however often it is asked for; with other content it is refused.
    """

    invoice_id: str
    reference: str
    lines: tuple[CreditLine, ...]
    settlement: Settlement = "balance"
    memo: str = ""

    @property
    def amount_minor(self) -> int:
        """What it is over."""
        return sum(line.amount_minor for line in self.lines)


@dataclass(frozen=True, slots=True)
class _Billed:
    invoice_id: str
    stripe_invoice: str
    subject: tuple[str, ...]


def issue_credit_note(
    store: Engine,
    gateway: StripeGateway,
    clock: Clock,
    note: CreditNote,
    *,
    hook: Hook = no_hook,
) -> str:
    """Issue a credit note once; returns Stripe's id of it.

    Safe to repeat and to kill: body and key are journaled before they are sent, and after a doubt
    Stripe is looked at.

    Raises:
        ContractError: If it is over nothing, its invoice is not issued, or its reference was used
            with other content.
        InvoiceHeldError: If its sending is in doubt for over 29 days: a person must look.
        StripeRetryError: Not known to be done; run again later.
        StripeRefusedError: Stripe says no, such as to more than remains.
    """
    _check(note)
    billed = _billed(store, note.invoice_id)
    found = gateway.invoice(billed.stripe_invoice)
    body = _body(note, billed.stripe_invoice, is_paid=found.status == "paid")
    step = f"credit{derived_hex(note.reference)[:_STEP_DIGITS]}"
    known = last_call(store, billed.invoice_id, step)
    if known is not None and known.body["lines"] != body["lines"]:
        raise ContractError(
            f"reference: {note.reference} stands for another credit note of {note.invoice_id}:"
            f" {known.body['lines']}"
        )
    opened_s = (known.opened_at_ms if known else clock.now_ns() // NS_PER_MS) // MS_PER_S

    def look(wanted: Json) -> Found:
        # A day before our own time: Stripe's clock is another.
        if clock.now_ns() // NS_PER_MS // MS_PER_S - opened_s > _EVENTS_KEPT_S:
            raise InvoiceHeldError(
                f"credit note {note.reference} of {note.invoice_id} is in doubt for over 29 days:"
                " look at Stripe whether it was made"
            )
        since_s = opened_s - 86_400
        made = gateway.credit_note(billed.stripe_invoice, note.reference, since_s)
        return Found(Written(made, "") if made else None, wanted)

    writer = Writer(store, clock, hook)
    made, _ = writer.write(
        Write(
            job=billed.invoice_id,
            subject=(*billed.subject, "credit_note", note.reference),
            step=step,
            body=body,
            send=gateway.create_credit_note,
            look=look,
        )
    )
    Collector(store, gateway, clock).take(billed.stripe_invoice)
    return made


def end_invoice(
    store: Engine, gateway: StripeGateway, clock: Clock, invoice_id: str, ending: Ending
) -> Taken:
    """Void an issued invoice, or write it off, once; what Stripe then shows is taken over.

    Raises:
        ContractError: If it is not issued.
        StripeRetryError: Not known to be done; run again later.
        StripeRefusedError: Stripe says no, such as to a paid invoice.
    """
    billed = _billed(store, invoice_id)
    call = gateway.void if ending == "void" else gateway.write_off

    def look(body: Json) -> Found:
        is_done = gateway.invoice(billed.stripe_invoice).status == ending
        return Found(Written(billed.stripe_invoice, "") if is_done else None, body)

    Writer(store, clock).write(
        Write(
            job=invoice_id,
            subject=billed.subject,
            step=ending,
            body={},
            send=lambda body, key: call(billed.stripe_invoice, body, key),
            look=look,
        )
    )
    return Collector(store, gateway, clock).take(billed.stripe_invoice)


def _check(note: CreditNote) -> None:
    if not note.reference or len(note.reference) > MAX_REFERENCE:
        raise ContractError(f"reference: 1 to {MAX_REFERENCE} characters, not {note.reference!r}")
    if not note.lines:
        raise ContractError(f"lines: credit note {note.reference} has none")
    for line in note.lines:
        if line.amount_minor <= 0:
            raise ContractError(
                f"amount_minor: {line.amount_minor} of {line.description!r} is not above 0"
            )


def _body(note: CreditNote, stripe_invoice: str, *, is_paid: bool) -> Json:
    body: Json = {
        "invoice": stripe_invoice,
        "lines": [
            {
                "type": "custom_line_item",
                "description": line.description[:_MAX_DESCRIPTION],
                "quantity": 1,
                "unit_amount": line.amount_minor,
            }
            for line in note.lines
        ],
        "metadata": {"invoice_id": note.invoice_id, "reference": note.reference},
    }
    if note.memo:
        body["memo"] = note.memo[:_MAX_DESCRIPTION]
    if is_paid:
        body[_FIELD_OF[note.settlement]] = note.amount_minor
    return body


def _billed(store: Engine, invoice_id: str) -> _Billed:
    with store.connect() as connection:
        row = connection.execute(select(invoices).where(invoices.c.id == invoice_id)).one_or_none()
    if row is None or row.state not in COLLECTED_STATES or not row.stripe_invoice:
        state = "unknown" if row is None else row.state
        raise ContractError(f"invoice_id: {invoice_id} is {state}, not issued")
    subject = (row.tenant, row.period, row.currency, str(row.revision))
    return _Billed(row.id, row.stripe_invoice, subject)
