"""Lines of an invoice: what a request says about one, and Stripe's limits on them."""

from decimal import ROUND_HALF_UP, Decimal

from infra.stripe_fake.refusal import RefusalError
from infra.stripe_fake.shapes import merge_metadata, new_item, new_line
from infra.stripe_fake.state import Body, State

MAX_LINES = 250
EMBEDDED_LINES = 10
"""So many lines stand inside an invoice that is shown; the others are listed."""
_THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
_WHOLE_UNITS = frozenset({"isk", "ugx"})
"""Written in hundredths, yet only whole units can be charged."""


def add_line(state: State, invoice: Body, parameters: Body) -> Body:
    """Put one line, and the invoice item behind it, on a draft; returns the item.

    Raises:
        RefusalError: If the invoice is no draft or full, or the amount cannot be charged.
    """
    if invoice["status"] != "draft":
        raise RefusalError(
            "This invoice is no longer editable", code="invoice_not_editable", param="invoice"
        )
    count, _ = state.total_of_lines(invoice["id"])
    if count >= MAX_LINES:
        raise RefusalError(
            f"You can only add up to {MAX_LINES} items to an invoice.", param="lines"
        )
    now_s = state.now_s()
    amount, quantity, unit = _amount(parameters)
    _check_chargeable(amount, invoice["currency"])
    product = (parameters.get("price_data") or {}).get("product") or state.new_id("prod")
    parts = {
        "amount": amount,
        "description": parameters.get("description"),
        "metadata": merge_metadata({}, parameters),
        "period": parameters.get("period") or {"start": now_s, "end": now_s},
        "pricing": {
            "price_details": {"price": state.new_id("price"), "product": product},
            "type": "price_details",
            "unit_amount_decimal": format(unit, "f"),
        },
        "quantity": int(quantity),
        "quantity_decimal": format(quantity, "f"),
    }
    item = new_item(state.new_id("ii"), parts, invoice, now_s)
    line = new_line(state.new_id("il"), item["id"], parts, invoice)
    state.put("line_item", line, parent=invoice["id"])
    return state.put("invoiceitem", item, parent=invoice["id"])


def show_invoice(state: State, invoice: Body) -> Body:
    """An invoice with its first lines inside, the newest first, as the live API shows it."""
    lines, more = state.newest("line_item", invoice["id"], {"limit": EMBEDDED_LINES}, ())
    url = f"/v1/invoices/{invoice['id']}/lines"
    return invoice | {"lines": {"object": "list", "data": lines, "has_more": more, "url": url}}


def _amount(parameters: Body) -> tuple[int, Decimal, Decimal]:
    """Minor units of a line, its quantity, and its price per unit."""
    price = parameters.get("price_data") or {}
    given = [name for name in ("amount", "unit_amount_decimal") if name in parameters]
    if len(given) + bool(price) != 1:
        raise RefusalError(
            "You must specify exactly one of amount, unit_amount_decimal, price_data or pricing.",
            param="amount",
        )
    if "amount" in parameters:
        if "quantity" in parameters or "quantity_decimal" in parameters:
            raise RefusalError(
                "You may only specify one of these parameters: amount, quantity.", param="amount"
            )
        return parameters["amount"], Decimal(1), Decimal(parameters["amount"])
    source = parameters if "unit_amount_decimal" in parameters else price
    unit = Decimal(str(source.get("unit_amount_decimal", source.get("unit_amount", 0))))
    quantity = Decimal(str(parameters.get("quantity_decimal", parameters.get("quantity", 1))))
    return int((unit * quantity).quantize(Decimal(1), ROUND_HALF_UP)), quantity, unit


def _check_chargeable(amount: int, currency: str) -> None:
    step = 10 if currency in _THREE_DECIMAL else 100 if currency in _WHOLE_UNITS else 1
    if amount % step:
        raise RefusalError(
            f"Invalid amount {amount}: in {currency} an amount is a multiple of {step}.",
            param="amount",
        )
