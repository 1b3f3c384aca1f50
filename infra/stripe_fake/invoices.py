"""The life of an invoice: draft, lines, finalized, sent, paid, void, uncollectible."""

from collections.abc import Iterable

from infra.stripe_fake.balance import settle
from infra.stripe_fake.lines import add_line, show_invoice
from infra.stripe_fake.refusal import RefusalError
from infra.stripe_fake.shapes import merge_metadata, new_event, new_invoice
from infra.stripe_fake.state import Body, State

_MAX_CUSTOM_FIELDS = 4
_MAX_MEMO = 1_500


def announce(state: State, kind: str, subject: Body) -> None:
    """Record an event about an object as it is now."""
    state.put("event", new_event(state.new_id("evt"), kind, subject, state.now_s()))


def create(state: State, parameters: Body) -> Body:
    """A new draft."""
    customer = live_customer(state, parameters.get("customer", ""))
    _check_due(parameters)
    if len(parameters.get("custom_fields") or ()) > _MAX_CUSTOM_FIELDS:
        raise RefusalError("Invalid array: too many custom fields.", param="custom_fields")
    if len(parameters.get("description") or "") > _MAX_MEMO:
        raise RefusalError(
            f"Invalid string: must be at most {_MAX_MEMO} characters", param="description"
        )
    invoice = new_invoice(state.new_id("in"), parameters, customer, state.now_s())
    state.put("invoice", invoice, parent=customer["id"])
    announce(state, "invoice.created", show_invoice(state, invoice))
    return invoice


def add_lines(state: State, invoice: Body, lines: Iterable[Body]) -> Body:
    """Lines on a draft; all of them or none."""
    for line in lines:
        add_line(state, invoice, line)
    return retotal(state, invoice)


def retotal(state: State, invoice: Body) -> Body:
    """Bring a draft's totals up to its lines."""
    _, total = state.total_of_lines(invoice["id"])
    due = max(0, total + invoice["starting_balance"])
    invoice |= dict.fromkeys(
        ("subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"), total
    )
    invoice |= {"amount_due": due, "amount_remaining": due}
    return state.replace(invoice)


def update(state: State, invoice: Body, parameters: Body) -> Body:
    """Merge metadata and take a new memo; nothing else of an invoice is changed here."""
    invoice["metadata"] = merge_metadata(invoice["metadata"], parameters)
    if "description" in parameters:
        invoice["description"] = parameters["description"]
    return state.replace(invoice)


def delete(state: State, invoice: Body) -> Body:
    """Forget a draft."""
    if invoice["status"] != "draft":
        raise RefusalError("You can only delete draft invoices.")
    announce(state, "invoice.deleted", show_invoice(state, invoice))
    state.delete(invoice["id"])
    return {"id": invoice["id"], "object": "invoice", "deleted": True}


def finalize(state: State, invoice: Body, parameters: Body) -> Body:
    """Number a draft, apply the customer's balance, open it; paid at once if nothing is due."""
    if invoice["status"] != "draft":
        raise RefusalError(
            "This invoice is already finalized, you can't re-finalize a non-draft invoice.",
            code="invoice_not_editable",
        )
    customer = live_customer(state, invoice["customer"])
    settled = settle(invoice["total"], customer["balance"], invoice["currency"])
    now_s = state.now_s()
    invoice["status_transitions"]["finalized_at"] = now_s
    invoice |= {
        "number": invoice["number"]
        or f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04d}",
        "auto_advance": parameters.get("auto_advance", invoice["auto_advance"]),
        "effective_at": now_s,
        "hosted_invoice_url": f"https://invoice.stripe.com/i/{invoice['id']}",
        "invoice_pdf": f"https://pay.stripe.com/invoice/{invoice['id']}/pdf",
        "starting_balance": customer["balance"],
        "ending_balance": settled.ending_balance,
        "amount_due": settled.amount_due,
        "amount_remaining": settled.amount_due,
        "status": "open",
    }
    customer |= {
        "balance": settled.ending_balance,
        "currency": invoice["currency"],
        "next_invoice_sequence": customer["next_invoice_sequence"] + 1,
    }
    state.replace(customer)
    announce(state, "invoice.finalized", show_invoice(state, invoice))
    return _mark_paid(state, invoice) if settled.paid_at_once else state.replace(invoice)


def send(state: State, invoice: Body) -> Body:
    """Mail an invoice; the event `invoice.sent` is the only trace, as at Stripe."""
    if invoice["status"] not in {"open", "paid"} or invoice["collection_method"] != "send_invoice":
        raise RefusalError("This invoice cannot be sent right now.")
    announce(state, "invoice.sent", show_invoice(state, invoice))
    return invoice


def pay(state: State, invoice: Body) -> Body:
    """Take the payment of an open invoice; a draft is finalized first."""
    if invoice["status"] == "draft":
        invoice = finalize(state, invoice, {})
    if invoice["status"] == "paid":
        raise RefusalError("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "void":
        raise RefusalError("This invoice is void.", code="invoice_not_open")
    return _mark_paid(state, invoice)


def fail_payment(state: State, invoice: Body) -> Body:
    """A payment of an open invoice that was refused; the invoice stays open."""
    if invoice["status"] != "open":
        raise RefusalError(f"Only an open invoice is paid; this one is {invoice['status']}.")
    invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
    state.replace(invoice)
    announce(state, "invoice.payment_failed", show_invoice(state, invoice))
    return invoice


def settle_open(state: State, invoice: Body) -> Body:
    """Keep an open invoice after a credit note; it is paid once nothing remains."""
    return state.replace(invoice) if invoice["amount_remaining"] else _mark_paid(state, invoice)


def void(state: State, invoice: Body) -> Body:
    """Cancel a finalized invoice; what it took from the customer's balance goes back."""
    if invoice["status"] not in {"open", "uncollectible"}:
        raise RefusalError(f"You can only void open invoices; this one is {invoice['status']}.")
    customer = state.get("customer", invoice["customer"])
    customer["balance"] += invoice["starting_balance"] - invoice["ending_balance"]
    state.replace(customer)
    return _move(state, invoice, "void", "voided_at", "invoice.voided")


def mark_uncollectible(state: State, invoice: Body) -> Body:
    """Write an open invoice off; it may still be paid or voided."""
    if invoice["status"] != "open":
        raise RefusalError(f"You can only write off open invoices; this one is {invoice['status']}")
    return _move(
        state,
        invoice,
        "uncollectible",
        "marked_uncollectible_at",
        "invoice.marked_uncollectible",
    )


def live_customer(state: State, identifier: str) -> Body:
    """A customer that was not deleted."""
    customer = state.get("customer", identifier, "customer")
    if customer.get("deleted"):
        raise RefusalError(
            f"No such customer: '{identifier}'", code="resource_missing", param="customer"
        )
    return customer


def _mark_paid(state: State, invoice: Body) -> Body:
    invoice |= {
        "amount_paid": invoice["amount_due"],
        "amount_remaining": 0,
        "attempted": True,
    }
    return _move(state, invoice, "paid", "paid_at", "invoice.paid")


def _move(state: State, invoice: Body, status: str, moment: str, event: str) -> Body:
    invoice |= {"status": status, "auto_advance": False}
    invoice["status_transitions"][moment] = state.now_s()
    state.replace(invoice)
    announce(state, event, show_invoice(state, invoice))
    return invoice


def _check_due(parameters: Body) -> None:
    sent = parameters.get("collection_method") == "send_invoice"
    dated = "days_until_due" in parameters or "due_date" in parameters
    if sent != dated:
        raise RefusalError(
            "'due_date' or 'days_until_due' must be given if, and only if, the collection method"
            " is 'send_invoice'.",
            param="days_until_due",
        )
