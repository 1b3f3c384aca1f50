"""Credit notes, refunds, void and written off: each once, whatever is lost or killed."""

from contextlib import suppress
from typing import get_args

import pytest
from sqlalchemy import Engine

from billing.collecting import Collector
from billing.crediting import (
    CreditLine,
    CreditNote,
    Ending,
    Settlement,
    end_invoice,
    issue_credit_note,
)
from billing.stripe_gateway import StripeGateway
from schemas.clock import SystemClock
from schemas.errors import ContractError, StripeRefusedError
from tests.support.forked_runs import LaterClock
from tests.support.planned_invoices import TOTAL_MINOR, make_invoice, plan
from tests.support.servers.stripe_fake import StandIn
from tests.support.webhook_house import Issued, issued, row_of

CLOCK = SystemClock()
DAY_S = 86_400
FAULTS = ("drop_before", "drop_after", "error_before", "error_stored", "error_after")


@pytest.fixture(scope="module")
def clock() -> LaterClock:
    """As far ahead as the module's stand-in."""
    return LaterClock()


class CrashError(BaseException):
    """Ends a life in the middle; not an `Exception`, so that nothing of ours catches it."""


def note(one: Issued, *amounts: int, reference: str = "late usage", **changes: str) -> CreditNote:
    lines = tuple(CreditLine(f"line {number}", minor) for number, minor in enumerate(amounts))
    settlement: Settlement = "refund" if changes.get("settlement") == "refund" else "balance"
    return CreditNote(one.invoice_id, reference, lines, settlement)


def notes_of(gateway: StripeGateway, one: Issued) -> list[int]:
    """The amount of each credit note that Stripe told of."""
    events = gateway._api.events.list({"type": "credit_note.created", "limit": 100})
    found = [event.data.object for event in events.data]
    return [found_one["amount"] for found_one in found if found_one["invoice"] == one.stripe_id]


def pay(gateway: StripeGateway, store: Engine, one: Issued) -> None:
    gateway._api.invoices.pay(one.stripe_id)
    Collector(store, gateway, CLOCK).take(one.stripe_id)


def test_note_on_an_open_invoice_lowers_what_remains(store: Engine, gateway: StripeGateway) -> None:
    one = issued(store, gateway)
    made = issue_credit_note(store, gateway, CLOCK, note(one, 100, 23))
    assert issue_credit_note(store, gateway, CLOCK, note(one, 100, 23)) == made
    found = gateway.invoice(one.stripe_id)
    assert (found.status, found.amount_remaining_minor) == ("open", TOTAL_MINOR - 123)
    assert found.total_minor == TOTAL_MINOR
    assert notes_of(gateway, one) == [123]
    other = issue_credit_note(store, gateway, CLOCK, note(one, 7, reference="second"))
    assert other != made
    assert gateway.invoice(one.stripe_id).amount_remaining_minor == TOTAL_MINOR - 130


def test_note_over_everything_that_remains_pays_the_invoice(
    sqlite: Engine, gateway: StripeGateway
) -> None:
    one = issued(sqlite, gateway)
    issue_credit_note(sqlite, gateway, CLOCK, note(one, TOTAL_MINOR))
    assert row_of(sqlite, one.invoice_id)[0] == "paid"


@pytest.mark.parametrize("settlement", ["refund", "balance"])
def test_note_on_a_paid_invoice_goes_back_as_asked(
    sqlite: Engine, gateway: StripeGateway, settlement: str
) -> None:
    one = issued(sqlite, gateway)
    pay(gateway, sqlite, one)
    issue_credit_note(sqlite, gateway, CLOCK, note(one, 500, settlement=settlement))
    found = gateway.invoice(one.stripe_id)
    balance = gateway._api.customers.retrieve(found.customer).balance
    assert balance == (0 if settlement == "refund" else -500)
    assert row_of(sqlite, one.invoice_id)[0] == "paid"
    with pytest.raises(StripeRefusedError):
        issue_credit_note(sqlite, gateway, CLOCK, note(one, TOTAL_MINOR, reference="too much"))


def test_reference_stands_for_one_content(sqlite: Engine, gateway: StripeGateway) -> None:
    one = issued(sqlite, gateway)
    issue_credit_note(sqlite, gateway, CLOCK, note(one, 10))
    with pytest.raises(ContractError, match="stands for another credit note"):
        issue_credit_note(sqlite, gateway, CLOCK, note(one, 11))
    assert notes_of(gateway, one) == [10]


def test_what_cannot_be_credited_is_refused_before_stripe(
    sqlite: Engine, gateway: StripeGateway, stripe: StandIn
) -> None:
    one = issued(sqlite, gateway)
    planned = plan(sqlite, make_invoice("only-planned"))
    waiting = Issued(planned.id, "", planned.tenant, planned.total_minor)
    asked = len(stripe.exchanges("POST", "credit_notes"))
    for wrong in (note(one), note(one, 5, 0), note(one, -1), note(one, 1, reference="")):
        with pytest.raises(ContractError):
            issue_credit_note(sqlite, gateway, CLOCK, wrong)
    with pytest.raises(ContractError, match="is planned, not issued"):
        issue_credit_note(sqlite, gateway, CLOCK, note(waiting, 1))
    assert len(stripe.exchanges("POST", "credit_notes")) == asked


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("is_later", [False, True], ids=["at once", "keys forgotten"])
def test_note_is_issued_once_whatever_is_killed_and_lost(
    clock: LaterClock,
    sqlite: Engine,
    gateway: StripeGateway,
    stripe: StandIn,
    fault: str,
    *,
    is_later: bool,
) -> None:
    for point in range(5):
        one = issued(sqlite, gateway)
        passed = 0

        def hook(_name: str, stop_at: int = point) -> None:
            nonlocal passed
            if passed == stop_at:
                raise CrashError
            passed += 1

        stripe.plant("POST", "credit_notes$", fault)
        with suppress(CrashError):
            issue_credit_note(sqlite, gateway, clock, note(one, 42), hook=hook)
        if is_later:
            clock.later_s += DAY_S
            stripe.advance(DAY_S)
        issue_credit_note(sqlite, gateway, clock, note(one, 42))
        assert notes_of(gateway, one) == [42], f"point {point}"
        stripe.clear_faults()


@pytest.mark.parametrize("ending", get_args(Ending))
@pytest.mark.parametrize("fault", FAULTS)
def test_invoice_is_ended_once(
    sqlite: Engine, gateway: StripeGateway, stripe: StandIn, ending: Ending, fault: str
) -> None:
    one = issued(sqlite, gateway)
    stripe.plant("POST", "(void|mark_uncollectible)$", fault)
    end_invoice(sqlite, gateway, CLOCK, one.invoice_id, ending)
    end_invoice(sqlite, gateway, CLOCK, one.invoice_id, ending)
    assert row_of(sqlite, one.invoice_id) == (ending, one.stripe_id, ending)


def test_paid_invoice_cannot_be_voided(sqlite: Engine, gateway: StripeGateway) -> None:
    one = issued(sqlite, gateway)
    pay(gateway, sqlite, one)
    with pytest.raises(StripeRefusedError):
        end_invoice(sqlite, gateway, CLOCK, one.invoice_id, "void")
    assert row_of(sqlite, one.invoice_id)[0] == "paid"
