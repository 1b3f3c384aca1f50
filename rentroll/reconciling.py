"""Reconciles a period: ledger with roll-ups, roll-ups with invoices, invoices with Stripe."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from billing import billed_shares as billed
from billing.stripe_gateway import StripeGateway
from billing.stripe_totals import differences
from infra.clickhouse.client import Client
from rentroll.equations import Equation, Part, equate
from schemas.periods import Period, hour_text
from streams import set_aside
from streams.settings import StreamSettings

EVENTS_SHOWN_MAX = 5
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Every equation of a period; `stripe` are differences to Stripe's copy, None: not asked."""

    period: str
    equations: tuple[Equation, ...]
    stripe: tuple[str, ...] | None

    def faults(self) -> list[str]:
        """Every difference that nothing explains."""
        found = [f"{one.name}: {fault}" for one in self.equations for fault in one.faults]
        return [*found, *(f"invoices = Stripe: {one}" for one in self.stripe or ())]


def reconcile(
    ledger: Client,
    store: Engine,
    gateway: StripeGateway | None,
    period: Period,
    *,
    settings: StreamSettings,
    progress: Progress = lambda *_: None,
) -> Reconciliation:
    """Count a period at every stage behind the log, and explain what a stage has less.

    Args:
        ledger: The ledger.
        store: The billing store.
        gateway: Stripe; None leaves it out.
        period: The period.
        settings: Bounds of reading.
        progress: Told after each group of hours.
    """
    shares = set_aside.ledger_shares(
        ledger,
        store,
        period,
        events_max=EVENTS_SHOWN_MAX,
        settings=settings,
        progress=progress,
    )
    rolled = equate(
        "ledger = rolled up + set aside",
        set_aside.MEASURES,
        {hour_text(hour): sums for hour, sums in shares.held.items()},
        {hour_text(hour): sums for hour, sums in shares.rolled_up.items()},
        (
            Part(hour_text(one.hour_ms), one.reason, one.sums, one.events)
            for one in shares.set_aside
        ),
    )
    theirs = billed.billed_shares(ledger, store, period)
    invoiced = equate(
        "rolled up = invoiced + not invoiced",
        billed.MEASURES,
        theirs.rolled_up,
        theirs.invoiced,
        (Part(one.tenant, one.reason, one.sums, one.hours) for one in theirs.unbilled),
    )
    on_stripe = None if gateway is None else tuple(differences(store, gateway, period))
    return Reconciliation(period.name, (rolled, invoiced), on_stripe)
