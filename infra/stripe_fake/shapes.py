"""New objects as Stripe shows them: every field that its OpenAPI file requires, and then some."""

from typing import Any

from infra.stripe_fake.state import Body

_DAY_S = 86_400


def new_customer(identifier: str, parameters: Body, now_s: int) -> Body:
    """A customer without a balance or a payment method."""
    return {
        "id": identifier,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": now_s,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": parameters.get("description"),
        "discount": None,
        "email": parameters.get("email"),
        "invoice_prefix": identifier[-8:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": merge_metadata({}, parameters),
        "name": parameters.get("name"),
        "next_invoice_sequence": 1,
        "phone": parameters.get("phone"),
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def new_invoice(identifier: str, parameters: Body, customer: Body, now_s: int) -> Body:
    """A draft without lines."""
    return _invoice_constants() | {
        "id": identifier,
        "auto_advance": parameters.get("auto_advance", False),
        "collection_method": parameters.get("collection_method", "charge_automatically"),
        "created": now_s,
        "currency": parameters.get("currency") or customer["currency"] or "usd",
        "custom_fields": parameters.get("custom_fields") or None,
        "customer": customer["id"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "description": parameters.get("description"),
        "due_date": _due(parameters, now_s),
        "footer": parameters.get("footer"),
        "metadata": merge_metadata({}, parameters),
        "number": parameters.get("number"),
        "period_end": now_s,
        "period_start": now_s,
        "starting_balance": customer["balance"],
        "statement_descriptor": parameters.get("statement_descriptor"),
    }


def merge_metadata(known: Body, parameters: Body) -> Body:
    """Metadata after a request: its keys are added, those with an empty value are forgotten."""
    merged: Body = known | (parameters.get("metadata") or {})
    return {name: value for name, value in merged.items() if value != ""}


def _due(parameters: Body, now_s: int) -> int | None:
    if "days_until_due" in parameters:
        return now_s + _DAY_S * int(parameters["days_until_due"])
    due: int | None = parameters.get("due_date")
    return due


_ZERO = (
    "amount_due",
    "amount_overpaid",
    "amount_paid",
    "amount_paid_off_stripe",
    "amount_remaining",
    "amount_shipping",
    "attempt_count",
    "post_payment_credit_notes_amount",
    "pre_payment_credit_notes_amount",
    "subtotal",
    "subtotal_excluding_tax",
    "total",
    "total_excluding_tax",
)
_NONE = (
    "account_tax_ids",
    "application",
    "automatically_finalizes_at",
    "customer_account",
    "customer_address",
    "customer_phone",
    "customer_shipping",
    "default_payment_method",
    "default_source",
    "effective_at",
    "ending_balance",
    "from_invoice",
    "hosted_invoice_url",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "next_payment_attempt",
    "on_behalf_of",
    "parent",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "test_clock",
    "webhooks_delivered_at",
)
_EMPTY = (
    "customer_tax_ids",
    "default_tax_rates",
    "discounts",
    "total_discount_amounts",
    "total_pretax_credit_amounts",
    "total_taxes",
)
"""What a fresh draft has as 0, as null, and as an empty list."""


def _invoice_constants() -> dict[str, Any]:
    """What every draft of ours starts with, whatever it was asked for."""
    return (
        dict.fromkeys(_ZERO, 0)
        | dict.fromkeys(_NONE)
        | {name: [] for name in _EMPTY}
        | {
            "object": "invoice",
            "account_country": "US",
            "account_name": "Rentroll stand-in",
            "attempted": False,
            "automatic_tax": {
                "disabled_reason": None,
                "enabled": False,
                "liability": None,
                "provider": None,
                "status": None,
            },
            "billing_reason": "manual",
            "customer_tax_exempt": "none",
            "issuer": {"type": "self"},
            "livemode": False,
            "payment_settings": {
                "default_mandate": None,
                "payment_method_options": None,
                "payment_method_types": None,
            },
            "status": "draft",
            "status_transitions": {
                "finalized_at": None,
                "marked_uncollectible_at": None,
                "paid_at": None,
                "voided_at": None,
            },
        }
    )


def new_item(identifier: str, line: Body, invoice: Body, now_s: int) -> Body:
    """The invoice item behind a line; `line` is what `operations` made of the parameters."""
    return {
        "id": identifier,
        "object": "invoiceitem",
        "amount": line["amount"],
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_account": None,
        "created": now_s,
        "date": now_s,
        "description": line["description"],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": line["metadata"],
        "net_amount": line["amount"],
        "parent": None,
        "period": line["period"],
        "pricing": line["pricing"],
        "proration": False,
        "quantity": line["quantity"],
        "quantity_decimal": line["quantity_decimal"],
        "tax_rates": [],
        "test_clock": None,
    }


def new_line(identifier: str, item: str, parts: Body, invoice: Body) -> Body:
    """A line of an invoice; `parts` holds what its parameters decide."""
    return parts | {
        "id": identifier,
        "object": "line_item",
        "currency": invoice["currency"],
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "parent": {
            "invoice_item_details": {
                "invoice_item": item,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": None,
            },
            "subscription_item_details": None,
            "type": "invoice_item_details",
        },
        "pretax_credit_amounts": [],
        "subscription": None,
        "subtotal": parts["amount"],
        "taxes": [],
    }


def new_event(identifier: str, kind: str, subject: Body, now_s: int) -> Body:
    """An event about `subject` as it is now."""
    return {
        "id": identifier,
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": now_s,
        "data": {"object": subject},
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
