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
