"""An endpoint for webhooks on a real socket, a stand-in that sends to it, and issued invoices."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, select

from billing.issuer import Issuer
from billing.stripe_gateway import StripeGateway
from billing.webhook_server import EVENTS, WebhookApp, WebhookBounds
from infra.store.tables import collections, invoices, stripe_events
from schemas.clock import SystemClock
from tests.support.asgi_server import asgi_server
from tests.support.planned_invoices import make_invoice, plan

SECRET = "whsec_test"
BOUNDS = WebhookBounds(secrets=(SECRET,), tolerance_s=300, waiting=50)
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Issued:
    """An invoice that stands at Stripe."""

    invoice_id: str
    stripe_id: str
    tenant: str
    total_minor: int


def issued(store: Engine, gateway: StripeGateway, tenant: str = "") -> Issued:
    """Plan and issue an invoice of a tenant of its own."""
    invoice = plan(store, make_invoice(tenant or f"hooked-{next(_numbers)}"))
    Issuer(store, gateway, SystemClock()).issue(invoice.id)
    return Issued(
        invoice.id, str(row_of(store, invoice.id)[1]), invoice.tenant, invoice.total_minor
    )


def row_of(store: Engine, invoice_id: str) -> tuple[str, str, str]:
    """State, Stripe's id and Stripe's status of an invoice."""
    wanted = select(invoices.c.state, invoices.c.stripe_invoice, invoices.c.stripe_status)
    with store.connect() as connection:
        row = connection.execute(wanted.where(invoices.c.id == invoice_id)).one()
    return row.state, row.stripe_invoice, row.stripe_status


def standing_of(store: Engine, invoice_id: str) -> tuple[int | None, int, int | None]:
    """Since when it fails, reminders, since when its tenant is suspended for it."""
    wanted = select(
        collections.c.failing_since_ms, collections.c.reminders, collections.c.suspended_at_ms
    )
    with store.connect() as connection:
        row = connection.execute(wanted.where(collections.c.invoice_id == invoice_id)).one()
    return row.failing_since_ms, row.reminders, row.suspended_at_ms


def handled(store: Engine, stripe_id: str) -> list[tuple[str, str]]:
    """Kind and outcome of each event that was acted on for an invoice."""
    wanted = select(stripe_events.c.kind, stripe_events.c.outcome)
    with store.connect() as connection:
        found = connection.execute(wanted.where(stripe_events.c.stripe_invoice == stripe_id))
        return sorted((row.kind, row.outcome) for row in found)


def until(seen: Callable[[], bool], what: str, timeout_s: float = 20) -> float:
    """Wait until something is so; returns how long it took, in seconds."""
    began = time.monotonic()
    while not seen():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - began


@contextmanager
def endpoint(app: WebhookApp) -> Iterator[str]:
    """Serve the app in a thread of its own; yields the base URL."""
    ready, over = threading.Event(), threading.Event()
    port = 0

    async def serve() -> None:
        nonlocal port
        async with asgi_server(app) as server:
            port = server.port
            ready.set()
            while not over.is_set():
                await asyncio.sleep(0.01)
            assert server.failures == []

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield f"http://127.0.0.1:{port}"
    finally:
        over.set()
        thread.join()


def events_url(base: str) -> str:
    """Where webhooks go."""
    return f"{base}{EVENTS}"
