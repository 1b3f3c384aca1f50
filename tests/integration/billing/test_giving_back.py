"""Credits of corrections at Stripe: each once, lost answers or not, by the number tenants read."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from billing.correction_credits import planned_credit_notes
from billing.giving_back import give_back
from billing.issuer import Issuer
from billing.planning import plan_period
from billing.settings import BillingSettings
from billing.stripe_gateway import StripeGateway
from infra.clickhouse.client import Client
from infra.store.tables import correction_credits
from schemas.clock import SystemClock
from tests.support.billing_examples import OCTOBER, book_of, unit_price, usage
from tests.support.published_usage import empty_ledger, publish_period, publish_run
from tests.support.published_usage import ledger as ledger_of
from tests.support.servers.stripe_fake import StandIn
from tests.support.webhook_house import row_of

BOOK = book_of(unit_price("p", "1"))
SETTINGS = BillingSettings(new_tenant_email="new@example.invalid", usage_block_rows=100)
CLOCK = SystemClock()
MILLION = {"input_uncached_tokens": 1_000_000}
"""Costs 1.00."""


@pytest.fixture(scope="module")
def shared_ledger(clickhouse_url: str) -> Iterator[Client]:
    with ledger_of(clickhouse_url, "test_giving_back") as client:
        yield client


@pytest.fixture
def credited(
    shared_ledger: Client, sqlite: Engine, gateway: StripeGateway, request: pytest.FixtureRequest
) -> str:
    """An issued invoice over 2.00, half of whose usage turned out not to be; its id at Stripe.

    Each test has a tenant of its own: Stripe's stand-in outlives it.
    """
    empty_ledger(shared_ledger)
    tenant = request.node.name.replace("_", "-")[:40]
    two = [usage(hour, tenant=tenant, quantities=MILLION) for hour in (0, 5)]
    publish_period(shared_ledger, sqlite, OCTOBER, two)
    (planned,) = _plan(shared_ledger, sqlite)
    Issuer(sqlite, gateway, CLOCK).issue(planned)
    publish_run(shared_ledger, sqlite, OCTOBER.start, [], offset=2)
    _plan(shared_ledger, sqlite)
    return row_of(sqlite, planned)[1]


def _plan(ledger: Client, store: Engine) -> list[str]:
    done = plan_period(ledger, store, OCTOBER, BOOK, clock=CLOCK, settings=SETTINGS)
    return [one.invoice.id for one in done.invoices]


def test_credit_lowers_what_remains_of_the_invoice_once(
    credited: str, sqlite: Engine, gateway: StripeGateway
) -> None:
    (planned,) = planned_credit_notes(sqlite)
    done = give_back(sqlite, gateway, CLOCK)
    assert ([note for note, _ in done.issued], done.problems) == ([planned], ())
    assert give_back(sqlite, gateway, CLOCK).issued == ()
    found = gateway.invoice(credited)
    assert (found.total_minor, found.amount_remaining_minor) == (200, 100)
    with sqlite.connect() as connection:
        row = connection.execute(select(correction_credits)).one()
    assert row.stripe_credit_note == done.issued[0][1]
    assert "-CN-" in row.number


def test_lost_answer_is_no_second_credit(
    credited: str, sqlite: Engine, gateway: StripeGateway, stripe: StandIn
) -> None:
    stripe.plant("POST", "credit_notes$", "drop_after")
    for _ in range(2):
        give_back(sqlite, gateway, CLOCK)
    assert planned_credit_notes(sqlite) == []
    assert gateway.invoice(credited).amount_remaining_minor == 100


def test_note_that_stripe_refuses_is_a_problem_and_waits(
    credited: str, sqlite: Engine, gateway: StripeGateway
) -> None:
    gateway._api.invoices.void_invoice(credited)
    done = give_back(sqlite, gateway, CLOCK)
    assert done.issued == ()
    (problem,) = done.problems
    assert "2026-10, correction 1: " in problem
    assert len(planned_credit_notes(sqlite)) == 1
