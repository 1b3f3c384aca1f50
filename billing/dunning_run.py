"""One pass of dunning: ask Stripe again, then remind or suspend, each once."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine, and_, or_, select, update

from billing.collecting import DUNNING, Collector
from billing.dunning import Remind, Schedule, Standing, Suspend, next_action
from billing.issuer_protocol import Found, Hook, Write, Writer, no_hook
from billing.settings import BillingSettings
from billing.stripe_gateway import StripeGateway
from billing.stripe_objects import Json, Written
from infra.store.api_keys import suspend_within
from infra.store.engine import take_turns
from infra.store.tables import collections, invoices
from schemas.clock import Clock
from schemas.errors import StripeRefusedError, StripeRetryError
from schemas.units import MS_PER_HOUR, MS_PER_S, NS_PER_MS

_MS_PER_DAY = 24 * MS_PER_HOUR


@dataclass(slots=True)
class DunningResult:
    """What one pass did: invoice ids that were reminded, tenants, and what did not work."""

    reminded: list[str] = field(default_factory=list)
    suspended: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dunned:
    """An invoice that may be failing, after Stripe was asked."""

    invoice_id: str
    subject: tuple[str, ...]
    tenant: str
    number: str
    stripe_invoice: str
    version: int
    standing: Standing


def schedule_of(settings: BillingSettings) -> Schedule:
    """The schedule that is set."""
    return Schedule(
        remind_after_ms=settings.dunning_remind_after_days * _MS_PER_DAY,
        remind_every_ms=settings.dunning_remind_every_days * _MS_PER_DAY,
        suspend_after_ms=settings.dunning_suspend_after_days * _MS_PER_DAY,
    )


class Dunning:
    """Passes over the invoices that are failing or past due; safe to repeat and to kill."""

    def __init__(
        self,
        store: Engine,
        gateway: StripeGateway,
        clock: Clock,
        schedule: Schedule,
        *,
        hook: Hook = no_hook,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._clock = clock
        self._schedule = schedule
        self._hook = hook
        self._collector = Collector(store, gateway, clock)
        self._writer = Writer(store, clock, hook)

    def run(self, on_access: Callable[[str], None] = lambda _tenant: None) -> DunningResult:
        """One pass; `on_access` hears of each tenant that is served no more, or again.

        Raises:
            StripeStopError: Stripe accepts nothing.
            sqlalchemy.exc.DBAPIError: If the store cannot be asked.
        """
        result = DunningResult()
        for stripe_invoice in self._candidates():
            try:
                taken = self._collector.take(stripe_invoice)
                if taken.restored:
                    result.restored.append(taken.restored)
                    on_access(taken.restored)
                dunned = self._dunned(stripe_invoice)
                if dunned is not None:
                    self._act(dunned, result, on_access)
            except (StripeRetryError, StripeRefusedError) as error:
                result.failed[stripe_invoice] = str(error)
        return result

    def _act(self, dunned: Dunned, result: DunningResult, on_access: Callable[[str], None]) -> None:
        action = next_action(dunned.standing, self._schedule, self._now_ms())
        if isinstance(action, Remind):
            self._remind(dunned, action)
            result.reminded.append(dunned.invoice_id)
        elif isinstance(action, Suspend) and self._suspend(dunned):
            result.suspended.append(dunned.tenant)
            on_access(dunned.tenant)

    def _remind(self, dunned: Dunned, action: Remind) -> None:
        """Have Stripe mail the invoice again, once, then count it."""
        made, since_s = dunned.stripe_invoice, action.due_ms // MS_PER_S

        def look(body: Json) -> Found:
            is_sent = self._gateway.was_sent(made, since_s)
            return Found(Written(made, "") if is_sent else None, body)

        self._writer.write(
            Write(
                job=dunned.invoice_id,
                subject=dunned.subject,
                # A later failure has reminders of its own: what began when is in the step.
                step=f"remind{action.due_ms // MS_PER_S}",
                body={},
                send=lambda body, key: self._gateway.send(made, body, key),
                look=look,
            )
        )
        self._hook("remind:written")
        with self._store.begin() as connection:
            connection.execute(
                update(collections)
                .where(
                    collections.c.invoice_id == dunned.invoice_id,
                    collections.c.failing_since_ms == dunned.standing.failing_since_ms,
                )
                .values(
                    reminders=action.number,
                    version=collections.c.version + 1,
                    changed_at_ms=self._now_ms(),
                )
            )

    def _suspend(self, dunned: Dunned) -> bool:
        """Whether the tenant is suspended now for this invoice: it has a key, and still owes."""
        now_ms = self._now_ms()
        with self._store.begin() as connection:
            take_turns(connection, f"collections/{dunned.tenant}")
            owing = connection.execute(
                update(collections)
                .where(
                    collections.c.invoice_id == dunned.invoice_id,
                    collections.c.version == dunned.version,
                )
                .values(suspended_at_ms=now_ms, version=dunned.version + 1, changed_at_ms=now_ms)
            )
            if owing.rowcount == 0:
                return False  # Somebody looked at Stripe meanwhile; the next pass decides.
            reason = f"invoice {dunned.number or dunned.invoice_id} is not paid"
            has_key = suspend_within(
                connection, dunned.tenant, suspended_by=DUNNING, reason=reason, now_ms=now_ms
            )
            if not has_key:
                connection.rollback()
            return has_key

    def _candidates(self) -> list[str]:
        """Open invoices that fail, whose due date has passed, or that nobody has looked at."""
        is_due = or_(
            collections.c.invoice_id.is_(None),
            collections.c.failing_since_ms.is_not(None),
            collections.c.due_at_ms <= self._now_ms(),
        )
        wanted = (
            select(invoices.c.stripe_invoice)
            .join(collections, collections.c.invoice_id == invoices.c.id, isouter=True)
            .where(
                and_(invoices.c.state == "issued", invoices.c.stripe_invoice.is_not(None), is_due)
            )
            .order_by(invoices.c.id)
        )
        with self._store.connect() as connection:
            return list(connection.execute(wanted).scalars())

    def _dunned(self, stripe_invoice: str) -> Dunned | None:
        wanted = (
            select(invoices, collections)
            .join(collections, collections.c.invoice_id == invoices.c.id)
            .where(invoices.c.stripe_invoice == stripe_invoice, invoices.c.state == "issued")
        )
        with self._store.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        if row is None:
            return None
        return Dunned(
            invoice_id=row.id,
            subject=(row.tenant, row.period, row.currency, str(row.revision)),
            tenant=row.tenant,
            number=row.number or "",
            stripe_invoice=stripe_invoice,
            version=row.version,
            standing=Standing(
                failing_since_ms=row.failing_since_ms,
                reminders=row.reminders,
                is_suspended=row.suspended_at_ms is not None,
            ),
        )

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS
