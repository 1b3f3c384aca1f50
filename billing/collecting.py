"""Takes over what became of an issued invoice at Stripe: paid, void, written off, failing.

Whoever calls only names the invoice. What is true is asked of Stripe, so that webhooks may come
twice, late, in any order, or not at all.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from billing.issuer import OPEN_STATES
from billing.issuer_protocol import Hook, no_hook
from billing.stripe_gateway import StripeGateway
from billing.stripe_objects import StripeInvoice, WebhookEvent
from infra.store.api_keys import resume_within
from infra.store.engine import take_turns
from infra.store.tables import collections, invoices, stripe_events
from schemas.clock import Clock
from schemas.errors import StripeRetryError
from schemas.units import MS_PER_S, NS_PER_MS

log = logging.getLogger("rentroll.collecting")

Outcome = Literal["applied", "unchanged", "foreign", "conflict", "duplicate", "too_early"]
"""foreign: no invoice of ours; conflict: Stripe shows what cannot be, a person must look;
too_early: it is still being issued, so ask again later."""
DUNNING = "dunning"
"""Who suspends a tenant that does not pay; what anybody else suspended is left alone."""
COLLECTED_STATES = ("issued", "paid", "void", "uncollectible")
"""States whose invoice stands at Stripe, finalised."""
_STATE_OF = {"open": "issued", "paid": "paid", "void": "void", "uncollectible": "uncollectible"}
_FOLLOWING: Mapping[str, frozenset[str]] = {
    "issued": frozenset({"issued", "paid", "void", "uncollectible"}),
    "uncollectible": frozenset({"uncollectible", "paid", "void"}),
    "paid": frozenset({"paid"}),
    "void": frozenset({"void"}),
}
"""What may follow on what; Stripe may still collect or cancel what was written off."""
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Known:
    """An invoice as the store has it before Stripe is asked."""

    invoice_id: str
    tenant: str
    state: str
    total_minor: int
    version: int
    failing_since_ms: int | None
    suspended_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of one look; `restored` names a tenant that is served again because of it."""

    outcome: Outcome
    restored: str = ""


class Collector:
    """Brings invoices up to what Stripe shows; safe in several threads and processes at once."""

    def __init__(
        self, store: Engine, gateway: StripeGateway, clock: Clock, *, hook: Hook = no_hook
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._clock = clock
        self._hook = hook

    def take(self, stripe_invoice: str, event: WebhookEvent | None = None) -> Taken:
        """Ask Stripe what an invoice is now, and commit it together with the event that said so.

        The version that is written over was read before Stripe was asked: where somebody else
        wrote meanwhile, this look may be the older one, and Stripe is asked again.

        Raises:
            StripeRetryError: Stripe is away, or others write all the time.
            StripeStopError: Stripe accepts nothing.
            sqlalchemy.exc.DBAPIError: If the store cannot be asked.
        """
        for _ in range(_LOOKS):
            if event is not None and self._is_handled(event.id):
                return Taken("duplicate")
            known = self._known(stripe_invoice)
            if known is None:
                return self._note(event, "foreign")
            if known.state in OPEN_STATES:
                return Taken("too_early")
            self._hook("take:read")
            found = self._gateway.invoice(stripe_invoice)
            self._hook("take:asked")
            if _is_impossible(known, found):
                log.error(
                    "invoice %s is %s over %d here, and %s over %d at Stripe (%s)",
                    *(known.invoice_id, known.state, known.total_minor),
                    *(found.status, found.total_minor, found.id),
                )
                return self._note(event, "conflict")
            try:
                taken = self._commit(known, found, event)
            except IntegrityError:
                continue  # Another wrote the same row or the same event first.
            if taken is not None:
                return taken
        raise StripeRetryError(f"{stripe_invoice}: changed {_LOOKS} times while it was read")

    def unpaid(self) -> list[str]:
        """Stripe's ids of every invoice that may still be paid."""
        wanted = select(invoices.c.stripe_invoice).where(
            invoices.c.state.in_(("issued", "uncollectible")),
            invoices.c.stripe_invoice.is_not(None),
        )
        with self._store.connect() as connection:
            return list(connection.execute(wanted.order_by(invoices.c.id)).scalars())

    def _commit(
        self, known: Known, found: StripeInvoice, event: WebhookEvent | None
    ) -> Taken | None:
        """None where the row is not the one any more that was read."""
        now_ms = self._clock.now_ns() // NS_PER_MS
        state = _STATE_OF[found.status]
        failing_ms = _failing_since(known, found, now_ms)
        blocks = failing_ms is not None or state == "uncollectible"
        suspended_ms = known.suspended_at_ms if blocks else None
        with self._store.begin() as connection:
            take_turns(connection, f"collections/{known.tenant}")
            row = {
                "version": known.version + 1,
                "attempts": found.attempts,
                "amount_paid_minor": found.amount_paid_minor,
                "amount_remaining_minor": found.amount_remaining_minor,
                "due_at_ms": None if found.due_at_s is None else found.due_at_s * MS_PER_S,
                "failing_since_ms": failing_ms,
                "suspended_at_ms": suspended_ms,
                "changed_at_ms": now_ms,
            }
            if failing_ms is None:
                row["reminders"] = 0
            if not _write(connection, known, row):
                return None
            connection.execute(
                update(invoices)
                .where(invoices.c.id == known.invoice_id)
                .values(state=state, stripe_status=found.status)
            )
            outcome: Outcome = "applied" if state != known.state else "unchanged"
            if (failing_ms is None) != (known.failing_since_ms is None):
                outcome = "applied"
            restored = _restore(connection, known, suspended_ms)
            if event is not None:
                _insert_event(connection, event, outcome, now_ms)
            self._hook("take:written")
        self._hook("take:committed")
        return Taken(outcome, restored)

    def _note(self, event: WebhookEvent | None, outcome: Outcome) -> Taken:
        if event is not None:
            try:
                with self._store.begin() as connection:
                    now_ms = self._clock.now_ns() // NS_PER_MS
                    _insert_event(connection, event, outcome, now_ms)
            except IntegrityError:
                return Taken("duplicate")
        return Taken(outcome)

    def _is_handled(self, event_id: str) -> bool:
        wanted = select(stripe_events.c.id).where(stripe_events.c.id == event_id)
        with self._store.connect() as connection:
            return connection.execute(wanted).scalar_one_or_none() is not None

    def _known(self, stripe_invoice: str) -> Known | None:
        wanted = (
            select(
                invoices.c.id,
                invoices.c.tenant,
                invoices.c.state,
                invoices.c.total_minor,
                collections.c.version,
                collections.c.failing_since_ms,
                collections.c.suspended_at_ms,
            )
            .join(collections, collections.c.invoice_id == invoices.c.id, isouter=True)
            .where(invoices.c.stripe_invoice == stripe_invoice)
        )
        with self._store.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        if row is None:
            return None
        return Known(
            invoice_id=row.id,
            tenant=row.tenant,
            state=row.state,
            total_minor=row.total_minor,
            version=row.version or 0,
            failing_since_ms=row.failing_since_ms,
            suspended_at_ms=row.suspended_at_ms,
        )


def _is_impossible(known: Known, found: StripeInvoice) -> bool:
    """Whether Stripe shows another amount than was issued, or a state that cannot follow."""
    following = _FOLLOWING.get(known.state, frozenset())
    return (
        found.total_minor != known.total_minor or _STATE_OF.get(found.status, "") not in following
    )


def _failing_since(known: Known, found: StripeInvoice, now_ms: int) -> int | None:
    """Since when an open invoice fails: a payment was refused, or its due date has passed."""
    if found.status != "open" or found.amount_remaining_minor <= 0:
        return None
    due_ms = None if found.due_at_s is None else found.due_at_s * MS_PER_S
    is_overdue = due_ms is not None and due_ms <= now_ms
    if not is_overdue and found.attempts == 0:
        return None
    if known.failing_since_ms is not None:
        return known.failing_since_ms
    return due_ms if due_ms is not None and is_overdue else now_ms


def _write(connection: Connection, known: Known, row: dict[str, int | None]) -> bool:
    if known.version == 0:
        values = {"reminders": 0} | row
        connection.execute(insert(collections).values(invoice_id=known.invoice_id, **values))
        return True
    changed = connection.execute(
        update(collections)
        .where(collections.c.invoice_id == known.invoice_id, collections.c.version == known.version)
        .values(**row)
    )
    return changed.rowcount == 1


def _restore(connection: Connection, known: Known, suspended_ms: int | None) -> str:
    """Serve the tenant again if this was the last invoice that it was suspended for."""
    if known.suspended_at_ms is None or suspended_ms is not None:
        return ""
    others = connection.execute(
        select(collections.c.invoice_id)
        .join(invoices, invoices.c.id == collections.c.invoice_id)
        .where(invoices.c.tenant == known.tenant, collections.c.suspended_at_ms.is_not(None))
    ).first()
    if others is not None:
        return ""
    return known.tenant if resume_within(connection, known.tenant, suspended_by=DUNNING) else ""


def _insert_event(
    connection: Connection, event: WebhookEvent, outcome: Outcome, now_ms: int
) -> None:
    connection.execute(
        insert(stripe_events).values(
            id=event.id,
            kind=event.kind,
            stripe_invoice=event.subject,
            outcome=outcome,
            created_s=event.created_s,
            handled_at_ms=now_ms,
        )
    )
