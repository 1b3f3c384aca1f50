"""Reads corrections back from the billing store, with where each was charged or given back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, select

from billing.correcting import ID_DIGITS
from billing.wording import money_text
from infra.store.tables import correction_carries, correction_credits, corrections
from schemas.corrections import Correction
from schemas.errors import ContractError

ID_PREFIX_MIN = 6
"""Fewer hex digits than this are not taken for the beginning of an id."""


@dataclass(frozen=True, slots=True)
class CreditRecord:
    """What a correction gives back on one invoice; `number` is empty until that is issued."""

    invoice_id: str
    amount_minor: int
    state: str
    number: str


@dataclass(frozen=True, slots=True)
class CorrectionRecord:
    """One correction as a list shows it; `carried_by` is the period whose invoice has it."""

    correction: Correction
    carried_by: str
    credits: tuple[CreditRecord, ...]


def list_corrections(
    store: Engine, *, period: str | None = None, tenant: str | None = None
) -> list[CorrectionRecord]:
    """All corrections, of one period or tenant if named; by period, tenant and revision."""
    wanted = [corrections.c.period == period] if period else []
    wanted += [corrections.c.tenant == tenant] if tenant else []
    with store.connect() as connection:
        return _records(connection, wanted)


def load_correction(store: Engine, wanted: str) -> CorrectionRecord:
    """A correction by its id or the beginning of it.

    Raises:
        ContractError: If there is none, or several.
    """
    fits = corrections.c.id == wanted
    if len(wanted) >= ID_PREFIX_MIN:
        fits = fits | corrections.c.id.startswith(wanted, autoescape=True)
    with store.connect() as connection:
        found = _records(connection, [fits])
    if len(found) != 1:
        raise ContractError(f"{len(found)} corrections fit {wanted!r}; `rentroll corrections list`")
    return found[0]


def _records(
    connection: Connection, wanted: Sequence[ColumnElement[bool]]
) -> list[CorrectionRecord]:
    rows = connection.execute(
        select(
            corrections.c.body,
            correction_carries.c.period.label("carried_by"),
        )
        .outerjoin(correction_carries, correction_carries.c.correction_id == corrections.c.id)
        .where(*wanted)
        .order_by(
            corrections.c.period,
            corrections.c.tenant,
            corrections.c.currency,
            corrections.c.revision,
        )
    ).all()
    given_back: dict[str, list[CreditRecord]] = {}
    for row in connection.execute(
        select(correction_credits)
        .join(corrections, corrections.c.id == correction_credits.c.correction_id)
        .where(*wanted)
        .order_by(correction_credits.c.invoice_id)
    ):
        given_back.setdefault(row.correction_id, []).append(_credit(row))
    found = [(Correction.model_validate_json(row.body), row) for row in rows]
    return [
        CorrectionRecord(one, row.carried_by or "", tuple(given_back.get(one.id, ())))
        for one, row in found
    ]


def _credit(row: Row[Any]) -> CreditRecord:
    return CreditRecord(row.invoice_id, row.amount_minor, row.state, row.number or "")


def settled_text(record: CorrectionRecord) -> str:
    """Where a correction's amount went: on which invoice, in which credit notes, or what waits."""
    one = record.correction
    if one.total_minor == 0:
        return "nothing to pay"
    parts: list[str] = []
    for credit in record.credits:
        note = f"credit note {credit.number}" if credit.number else "credit note to be issued"
        amount = money_text(credit.amount_minor, one.currency)
        parts.append(f"{note} of {amount} on invoice {credit.invoice_id[:ID_DIGITS]}")
    rest_minor = one.total_minor + sum(credit.amount_minor for credit in record.credits)
    if record.carried_by:
        parts.append(f"on the invoice of {record.carried_by}")
    elif rest_minor:
        parts.append("on the next invoice")
    return "; ".join(parts)
