"""Derives an invoice again from hourly usage, and names the first thing that comes out otherwise.

Where the usage comes from (the events, the published rows, an archive) is the caller's.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import Engine, select

from billing.carried_corrections import taken
from billing.invoice_records import invoice_row
from billing.invoicing import Proof, carrying, make_invoice
from billing.price_books import load_book
from billing.rating import RATING_VERSION, rate
from infra.store.tables import invoices
from schemas.billing import CarriedCorrection, HourlyUsage, Invoice, RunReference
from schemas.errors import ContractError
from schemas.fields import Contract, Name, Sha256
from schemas.periods import parse_period
from schemas.prices import PriceBook

Culprit = Literal[
    "event", "rows", "run", "proof", "price book", "code version", "rating", "rounding", "invoice",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that is not as the invoice says: what it is, where, and both sides of it."""

    culprit: Culprit
    where: str
    stored: str
    derived: str


class InvoiceInputs(Contract):
    """What a stored invoice says that it was made from; the rest of it is derived."""

    tenant: Name
    period: Name
    revision: int
    price_book_sha256: Sha256
    rating_version: str
    runs: tuple[RunReference, ...]
    offsets: dict[str, int]
    events_root: str = ""


@dataclass(frozen=True, slots=True)
class StoredInvoice:
    """An invoice as its bytes lie in the store; they may have been changed."""

    id: str
    state: str
    total_minor: int
    stripe_invoice: str
    body: str
    content: Mapping[str, Any]
    inputs: InvoiceInputs
    carried: tuple[CarriedCorrection, ...]
    """What corrections of earlier periods it has taken, by their own records."""


def stored_invoice(store: Engine, wanted: str) -> StoredInvoice:
    """An invoice by its id, the beginning of it, or its number at Stripe; its bytes untouched.

    Raises:
        ContractError: If there is none or several, or it does not say what it was made from.
    """
    row = invoice_row(store, wanted)
    try:
        content = json.loads(row.body)
        named = {name: content[name] for name in InvoiceInputs.model_fields if name in content}
        inputs = InvoiceInputs.model_validate_json(json.dumps(named))
    except (ValueError, TypeError) as error:
        raise ContractError(
            f"invoice {row.id[:12]} does not say what it was made from: {error}"
        ) from error
    with store.connect() as connection:
        carried = taken(connection, row.tenant, row.period, row.currency)
    return StoredInvoice(
        row.id,
        row.state,
        row.total_minor,
        row.stripe_invoice or "",
        row.body,
        content,
        inputs,
        carried,
    )


def invoice_of_period(store: Engine, tenant: str, period: str) -> str:
    """The id of a tenant's first invoice of a period.

    Raises:
        ContractError: If there is none, or one in each of several currencies.
    """
    query = select(invoices.c.id).where(
        invoices.c.tenant == tenant, invoices.c.period == period, invoices.c.revision == 1
    )
    with store.connect() as connection:
        found = list(connection.execute(query).scalars())
    if len(found) != 1:
        raise ContractError(f"{len(found)} invoices of {tenant} {period}; `rentroll invoice list`")
    return str(found[0])


def named_book(store: Engine, sha256: str) -> PriceBook | Difference:
    """The book that an invoice names, held to its hash; or what is wrong with it."""
    try:
        return load_book(store, sha256)
    except (ContractError, ValidationError) as error:
        return Difference("price book", "the store", sha256, str(error))


def derive(
    stored: StoredInvoice, book: PriceBook, usage: Iterable[HourlyUsage], proof: Proof
) -> Invoice:
    """The invoice that usage makes, with today's code, and the corrections that it carries.

    Args:
        stored: Whose, of which period.
        book: The book that it names.
        usage: The tenant's hourly usage in its runs, in any order.
        proof: The runs as the store has them, and the root over the usage's events.
    """
    inputs = stored.inputs
    period = parse_period(inputs.period)
    rating = rate(usage, book, period)
    invoice = make_invoice(
        rating, book, period, tenant=inputs.tenant, proof=proof, revision=inputs.revision
    )
    return carrying(invoice, stored.carried)


def charges_alike(stored: StoredInvoice, derived: Invoice) -> bool:
    """Whether what was used, rated and charged is the same, whatever it was read from."""
    made = json.loads(derived.canonical_json())
    return all(stored.content.get(name) == made.get(name) for name in _CHARGES)


def first_difference(stored: StoredInvoice, derived: Invoice) -> Difference | None:
    """The first thing in which a stored invoice is not the derived one; None: byte for byte equal.

    In the order of its making: code, rating, rounding, the rest of its content, bytes, id.
    """
    version = stored.inputs.rating_version
    if version != RATING_VERSION:
        return Difference("code version", "rating", version, RATING_VERSION)
    was, made = stored.content, json.loads(derived.canonical_json())
    return (
        _lines_differ(was.get("lines", ()), made.get("lines", ()))
        or _content_differs(was, made)
        or _names_differ(stored, derived)
    )


def _content_differs(was: Mapping[str, Any], made: Mapping[str, Any]) -> Difference | None:
    for name in (*_CHARGES, *sorted((was.keys() | made.keys()) - {"id"})):
        if was.get(name) != made.get(name):
            culprit: Culprit = "proof" if name in _PROOF else "invoice"
            return Difference(culprit, name, _text(was.get(name)), _text(made.get(name)))
    return None


def _names_differ(stored: StoredInvoice, derived: Invoice) -> Difference | None:
    """What the store keeps beside the content: id, total, and how the bytes were written."""
    pairs = (
        ("id", stored.id, derived.id),
        ("id in its content", str(stored.content.get("id")), derived.id),
        ("total in the store's list", str(stored.total_minor), str(derived.total_minor)),
        ("bytes", stored.body, derived.canonical_json()),
    )
    for where, was, made in pairs:
        if was != made:
            return Difference("invoice", where, _text(was), _text(made))
    return None


_CHARGES = ("requests", "gpu_ns", "lines", "unbilled", "corrections", "total_minor", "currency")
_PROOF = frozenset({"runs", "offsets", "events_root"})
_SHOWN = 200


def _lines_differ(
    was: Sequence[Mapping[str, Any]], made: Sequence[Mapping[str, Any]]
) -> Difference | None:
    """The first line that differs: what was rated, or, of the same amount, the cents it got."""
    stored, derived = ({_line_name(line): line for line in side} for side in (was, made))
    for name in [*derived, *(name for name in stored if name not in derived)]:
        if name not in stored or name not in derived:
            there = ("there", "(not there)") if name in stored else ("(not there)", "there")
            return Difference("rating", f"line {name}", *there)
        before, after = stored[name], derived[name]
        for field in sorted(before["rated"].keys() | after["rated"].keys()):
            pair = before["rated"].get(field), after["rated"].get(field)
            if pair[0] != pair[1]:
                return Difference("rating", f"line {name}, {field}", *map(_text, pair))
        if before["amount_minor"] != after["amount_minor"]:
            amounts = _text(before["amount_minor"]), _text(after["amount_minor"])
            return Difference("rounding", f"line {name}, amount_minor", *amounts)
    return None


def _line_name(line: Mapping[str, Any]) -> str:
    rated = line["rated"]
    fields = ("model", "adapter", "service_tier", "meter", "price_id")
    return "|".join(str(rated.get(field, "")) for field in fields)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
