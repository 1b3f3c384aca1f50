"""Credit notes: what is taken off an open invoice, or goes back from a paid one.

Source: docs.stripe.com/api/credit_notes/create. On an open invoice a note lowers what remains, and
pays the invoice where nothing does. On a paid one its total must be the sum of what is refunded,
put on the customer's balance, and settled outside Stripe.
"""

from infra.stripe_fake.invoices import announce, settle_open
from infra.stripe_fake.refusal import RefusalError
from infra.stripe_fake.shapes import merge_metadata
from infra.stripe_fake.state import Body, State

_BACK = ("refund_amount", "credit_amount", "out_of_band_amount")


def create(state: State, parameters: Body) -> Body:
    """A credit note over custom lines."""
    invoice = state.get("invoice", parameters["invoice"], "invoice")
    lines = [_line(state, one) for one in parameters.get("lines") or ()]
    total = sum(one["amount"] for one in lines)
    if total <= 0:
        raise RefusalError("A credit note needs lines over more than nothing.", param="lines")
    if invoice["status"] == "open":
        _take_off(state, invoice, parameters, total)
    elif invoice["status"] == "paid":
        _give_back(state, invoice, parameters, total)
    else:
        raise RefusalError(f"A {invoice['status']} invoice takes no credit note.", param="invoice")
    note = _new_note(state, invoice, parameters, lines)
    announce(state, "credit_note.created", note)
    return state.put("credit_note", note, parent=invoice["id"])


def _take_off(state: State, invoice: Body, parameters: Body, total: int) -> None:
    if any(parameters.get(name) for name in _BACK):
        raise RefusalError("Nothing goes back from an invoice that is not paid.", param="invoice")
    if total > invoice["amount_remaining"]:
        raise RefusalError(
            f"The note's {total} are more than the {invoice['amount_remaining']} that remain.",
            param="lines",
        )
    invoice["pre_payment_credit_notes_amount"] += total
    invoice["amount_due"] -= total
    invoice["amount_remaining"] -= total
    settle_open(state, invoice)


def _give_back(state: State, invoice: Body, parameters: Body, total: int) -> None:
    if sum(parameters.get(name, 0) for name in _BACK) != total:
        raise RefusalError(f"{', '.join(_BACK)} must add up to the note's {total}.", param="lines")
    left = invoice["amount_paid"] - invoice["post_payment_credit_notes_amount"]
    if total > left:
        raise RefusalError(f"The note's {total} are more than the {left} left.", param="lines")
    customer = state.get("customer", invoice["customer"])
    customer["balance"] -= parameters.get("credit_amount", 0)
    state.replace(customer)
    invoice["post_payment_credit_notes_amount"] += total
    state.replace(invoice)


def _line(state: State, parameters: Body) -> Body:
    if parameters["type"] != "custom_line_item" or "unit_amount" not in parameters:
        raise RefusalError("The stand-in credits custom lines by unit_amount.", param="lines")
    quantity = parameters.get("quantity", 1)
    return {
        "id": state.new_id("cnli"),
        "object": "credit_note_line_item",
        "amount": parameters["unit_amount"] * quantity,
        "description": parameters.get("description"),
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "metadata": merge_metadata({}, parameters),
        "pretax_credit_amounts": [],
        "quantity": quantity,
        "tax_rates": [],
        "taxes": [],
        "type": "custom_line_item",
        "unit_amount": parameters["unit_amount"],
        "unit_amount_decimal": str(parameters["unit_amount"]),
    }


def _new_note(state: State, invoice: Body, parameters: Body, lines: list[Body]) -> Body:
    identifier, now_s = state.new_id("cn"), state.now_s()
    total = sum(one["amount"] for one in lines)
    back = any(parameters.get(name) for name in _BACK)
    refunded = parameters.get("refund_amount", 0)
    refund = {
        "amount_refunded": refunded,
        "payment_record_refund": None,
        "refund": state.new_id("re"),
        "type": "refund",
    }
    return {
        **dict.fromkeys(("amount", "subtotal", "total"), total),
        **dict.fromkeys(("subtotal_excluding_tax", "total_excluding_tax"), total),
        **dict.fromkeys(("amount_shipping", "discount_amount"), 0),
        "id": identifier,
        "object": "credit_note",
        "created": now_s,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amounts": [],
        "effective_at": now_s,
        "invoice": invoice["id"],
        "lines": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "url": f"/v1/credit_notes/{identifier}/lines",
        },
        "livemode": False,
        "memo": parameters.get("memo"),
        "metadata": merge_metadata({}, parameters),
        "number": f"{invoice['number']}-CN-{state.count('cn/' + invoice['id']):02d}",
        "out_of_band_amount": parameters.get("out_of_band_amount"),
        "pdf": f"https://pay.stripe.com/credit_notes/{identifier}/pdf",
        "post_payment_amount": total if back else 0,
        "pre_payment_amount": 0 if back else total,
        "pretax_credit_amounts": [],
        "reason": parameters.get("reason"),
        "refunds": [refund] if refunded else [],
        "shipping_cost": None,
        "status": "issued",
        "total_taxes": [],
        "type": "post_payment" if back else "pre_payment",
        "voided_at": None,
    }
