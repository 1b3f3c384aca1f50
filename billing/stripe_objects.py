"""What we read of Stripe's objects, as values; nothing else of them reaches billing."""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
"""A request body: what is journaled and what is sent, the same."""


@dataclass(frozen=True, slots=True)
class Written:
    """A write that Stripe confirmed."""

    id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class StripeLine:
    """One line of an invoice on Stripe's side."""

    id: str
    amount_minor: int
    currency: str
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class StripeInvoice:
    """An invoice as Stripe holds it now; `lines` are only the first where `more_lines`."""

    id: str
    customer: str
    status: str
    number: str
    currency: str
    total_minor: int
    amount_due_minor: int
    hosted_url: str
    finalized_at_s: int | None
    metadata: dict[str, str]
    lines: tuple[StripeLine, ...]
    more_lines: bool
    amount_paid_minor: int = 0
    amount_remaining_minor: int = 0
    attempts: int = 0
    due_at_s: int | None = None


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """What a verified webhook is about; what became of its object is asked of Stripe anew."""

    id: str
    kind: str
    subject: str
    created_s: int
