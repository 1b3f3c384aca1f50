"""Law 9, as a check: exactly one live invoice at Stripe, exact, sent once, and the store knows."""

import stripe
from sqlalchemy import Engine, select

from billing.issuer_bodies import line_bodies
from billing.stripe_gateway import StripeGateway
from infra.store.tables import invoices
from schemas.billing import Invoice


def assert_issued_once(store: Engine, gateway: StripeGateway, base: str, invoice: Invoice) -> None:
    """Raise AssertionError unless the invoice is issued, once, to the last minor unit."""
    customers = [c for c, data in gateway.customers() if data.get("tenant") == invoice.tenant]
    assert len(customers) == 1, f"{len(customers)} customers"
    there = [one for one in gateway.invoices(customers[0]) if one.status != "void"]
    mine = [one for one in there if one.metadata["revision"] == str(invoice.revision)]
    assert len(mine) == 1, f"{len(mine)} live invoices"
    found = mine[0]
    assert (found.status, found.total_minor) == ("open", invoice.total_minor)
    wanted = [(body["metadata"], body["amount"]) for body in line_bodies(invoice)]
    assert [(line.metadata, line.amount_minor) for line in gateway.lines(found.id)] == wanted
    mails = sent(base).count(found.id)
    assert mails == 1, f"mailed {mails} times"
    with store.connect() as connection:
        row = connection.execute(select(invoices).where(invoices.c.id == invoice.id)).one()
    known = (row.state, row.stripe_invoice, row.number, row.stripe_status, row.hold_reason)
    assert known == ("issued", found.id, found.number, "open", "")


def sent(base: str) -> list[str]:
    """The invoices that Stripe mailed, once per mail."""
    http = stripe.RequestsClient()
    client = stripe.StripeClient("sk_test_rentroll", base_addresses={"api": base}, http_client=http)
    events = client.v1.events.list({"type": "invoice.sent", "limit": 100}).auto_paging_iter()
    found = [str(event.data.object["id"]) for event in events]
    http.close()  # type: ignore[no-untyped-call]
    return found
