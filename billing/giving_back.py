"""Issues the credit notes that corrections have planned, each once, and records their numbers."""

from dataclasses import dataclass

from sqlalchemy import Engine

from billing.correction_credits import (
    PlannedCreditNote,
    credit_note_issued,
    planned_credit_notes,
)
from billing.crediting import CreditLine, CreditNote, issue_credit_note
from billing.stripe_gateway import StripeGateway
from schemas.clock import Clock
from schemas.errors import ContractError, InvoiceHeldError, StripeRefusedError, StripeRetryError
from schemas.units import MS_PER_S, NS_PER_MS

_REFERENCE_DIGITS = 32
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Credit notes that are issued now, with Stripe's ids, and why others still wait."""

    issued: tuple[tuple[PlannedCreditNote, str], ...]
    problems: tuple[str, ...]


def give_back(store: Engine, gateway: StripeGateway, clock: Clock) -> GivenBack:
    """Issue every planned credit note; safe to repeat, to kill, and to run twice at once.

    On an open invoice less remains to be paid; what was paid already goes to the tenant's balance.
    A note that cannot be issued now does not stop the others.

    Args:
        store: The billing store.
        gateway: Stripe.
        clock: Says when they were issued.
    """
    issued, problems = [], []
    for note in planned_credit_notes(store):
        try:
            made = _issue(store, gateway, clock, note)
        except (ContractError, InvoiceHeldError, StripeRefusedError, StripeRetryError) as error:
            problems.append(f"{note.tenant} {note.period}, correction {note.revision}: {error}")
        else:
            issued.append((note, made))
    return GivenBack(tuple(issued), tuple(problems))


def _issue(store: Engine, gateway: StripeGateway, clock: Clock, note: PlannedCreditNote) -> str:
    text = f"Correction {note.revision} of the usage of {note.period}"
    wanted = CreditNote(
        note.invoice_id,
        f"correction {note.correction_id[:_REFERENCE_DIGITS]}",
        (CreditLine(text, note.amount_minor),),
    )
    made = issue_credit_note(store, gateway, clock, wanted)
    now_ms = clock.now_ns() // NS_PER_MS
    number = gateway.credit_note_number(made, now_ms // MS_PER_S - _DAY_S) or made
    credit_note_issued(store, note, stripe_credit_note=made, number=number, now_ms=now_ms)
    return made
