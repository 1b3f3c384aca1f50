"""Issues all invoices of a period with bounded workers, and says what became of each."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sqlalchemy import Engine, select

from billing.issuer import OPEN_STATES, Issuer
from billing.issuer_protocol import Hook, no_hook
from billing.leases import release_lease, runner_name, take_lease
from billing.stripe_gateway import StripeGateway
from billing.stripe_totals import StripeTotals, differences, totals_on_stripe
from infra.store.tables import invoices
from schemas.clock import Clock
from schemas.errors import InvoiceHeldError, StripeRetryError, StripeStopError
from schemas.periods import Period
from schemas.units import MS_PER_S, NS_PER_MS

__all__ = [
    "RunResult",
    "StripeTotals",
    "differences",
    "run_invoices",
    "totals_on_stripe",
]

LEASE_MS = 300 * MS_PER_S
"""Longer than one invoice takes with every retry; a killed runner's lease is free at once."""
BREAKER_FAILURES = 5
"""So many invoices in a row that Stripe did not answer for end the run."""
POLL_S = 0.2
WORKERS = 8

OnProgress = Callable[[int, int], None]
"""Called with the invoices done and all invoices of the run."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What one run did; a reason for every invoice that is not issued.

    `elsewhere` were leased by another runner and brought to their end by it.
    """

    issued: tuple[str, ...]
    held: dict[str, str]
    failed: dict[str, str]
    elsewhere: tuple[str, ...]
    stopped: str

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do or to look at."""
        return not self.held and not self.failed


def run_invoices(
    store: Engine,
    gateway: StripeGateway,
    *,
    period: Period,
    clock: Clock,
    workers: int = WORKERS,
    on_progress: OnProgress = lambda _done, _all: None,
) -> RunResult:
    """Bring every planned invoice of a period to `issued`; again after any crash.

    Args:
        store: The billing store.
        gateway: Stripe.
        period: Which invoices.
        clock: For leases and the age of idempotency keys.
        workers: Invoices at a time; Stripe's rate limits bound more than about 12.
        on_progress: For a progress bar.
    """
    return InvoiceRun(store, gateway, clock).run(period, workers, on_progress)


class InvoiceRun:
    """One run: what its workers share, and the outcomes; `hook` is for crash tests."""

    def __init__(
        self, store: Engine, gateway: StripeGateway, clock: Clock, hook: Hook = no_hook
    ) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner_name(f"{clock.now_ns()}/{id(self)}")
        self._issuer = Issuer(store, gateway, clock, hook=hook)
        self._lock = threading.Lock()
        self._failures_in_a_row = 0
        self._stopped = ""
        self._issued: list[str] = []
        self._held: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._elsewhere: list[str] = []

    def run(self, period: Period, workers: int, on_progress: OnProgress) -> RunResult:
        """Issue every open invoice of a period."""
        pending = self._open_invoices(period)
        total = len(pending)
        while pending:
            with ThreadPoolExecutor(max_workers=workers) as pool:
                for _ in pool.map(self._issue_one, pending):
                    on_progress(self._done(), total)
            # What another runner holds is looked at again until it is done or its lease is free.
            pending = self._leased_elsewhere(pending)
            if pending:
                time.sleep(POLL_S)
        on_progress(total, total)
        return self._result(period)

    def _open_invoices(self, period: Period) -> list[str]:
        """Invoices of a period that are not at their end yet, in a fixed order."""
        with self._store.connect() as connection:
            rows = connection.execute(
                select(invoices.c.id)
                .where(invoices.c.period == period.name, invoices.c.state.in_(OPEN_STATES))
                .order_by(invoices.c.tenant, invoices.c.currency, invoices.c.revision)
            )
            return [row.id for row in rows]

    def _done(self) -> int:
        """Invoices that this run will not touch again."""
        with self._lock:
            return len(self._issued) + len(self._held) + len(self._failed) + len(self._elsewhere)

    def _issue_one(self, invoice_id: str) -> None:
        """Lease and issue an invoice; the outcome is kept, whatever it is."""
        if self._stopped:
            with self._lock:
                self._failed[invoice_id] = f"not tried: {self._stopped}"
            return
        now_ms = self._clock.now_ns() // NS_PER_MS
        if not take_lease(
            self._store, invoice_id, self._runner, now_ms=now_ms, until_ms=now_ms + LEASE_MS
        ):
            return
        try:
            self._issue(invoice_id)
        finally:
            release_lease(self._store, invoice_id, self._runner)

    def _issue(self, invoice_id: str) -> None:
        try:
            self._issuer.issue(invoice_id)
        except InvoiceHeldError as error:
            with self._lock:
                self._held[invoice_id] = str(error)
        except StripeStopError as error:
            with self._lock:
                self._failed[invoice_id] = self._stopped = str(error)
        except StripeRetryError as error:
            with self._lock:
                self._failed[invoice_id] = str(error)
                self._failures_in_a_row += 1
                if self._failures_in_a_row >= BREAKER_FAILURES:
                    self._stopped = f"Stripe did not answer {BREAKER_FAILURES} times in a row"
        else:
            with self._lock:
                self._issued.append(invoice_id)
                self._failures_in_a_row = 0

    def _leased_elsewhere(self, invoice_ids: list[str]) -> list[str]:
        """Those that this run has no outcome for and that are still open."""
        with self._lock:
            known = {*self._issued, *self._held, *self._failed, *self._elsewhere}
        unknown = [one for one in invoice_ids if one not in known]
        still_open = set(self._with_state(unknown, OPEN_STATES)) if unknown else set()
        with self._lock:
            self._elsewhere += [one for one in unknown if one not in still_open]
        return [one for one in unknown if one in still_open]

    def _result(self, period: Period) -> RunResult:
        """The outcomes, with every invoice of the period that is held, since whenever."""
        with self._store.connect() as connection:
            rows = connection.execute(
                select(invoices.c.id, invoices.c.hold_reason).where(
                    invoices.c.period == period.name, invoices.c.state == "held"
                )
            ).all()
        return RunResult(
            issued=tuple(sorted(self._issued)),
            held={row.id: row.hold_reason for row in rows} | self._held,
            failed=dict(sorted(self._failed.items())),
            elsewhere=tuple(sorted(self._elsewhere)),
            stopped=self._stopped,
        )

    def _with_state(self, invoice_ids: list[str], states: tuple[str, ...]) -> list[str]:
        with self._store.connect() as connection:
            rows = connection.execute(
                select(invoices.c.id).where(
                    invoices.c.id.in_(invoice_ids), invoices.c.state.in_(states)
                )
            )
            return [row.id for row in rows]
