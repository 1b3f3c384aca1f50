"""`rentroll invoice` against a real ledger, both stores and the stand-in for Stripe."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from sqlalchemy import Engine, select
from typer.testing import CliRunner, Result

from billing.price_book_file import read_price_book
from billing.price_books import import_book
from billing.stripe_gateway import StripeGateway
from infra.clickhouse.client import Client
from infra.store.tables import invoices, periods
from rentroll.invoice_commands import register
from schemas.errors import ContractError, PeriodNotReadyError
from tests.support.billing_examples import OCTOBER, usage
from tests.support.published_usage import empty_ledger, publish_period
from tests.support.published_usage import ledger as ledger_of
from tests.support.servers.stripe_fake import StandIn, stand_in

EXAMPLE = Path(__file__).parents[3] / "billing" / "examples" / "price_book_2026.yaml"
DATABASE = "test_invoice_commands"
INPUT = "input_uncached_tokens"
ACME = usage(0, requests=3, quantities={INPUT: 100_000_001, "gpu_ns": 4})
GLOBEX = usage(30, tenant="globex", model="llama-3.3-70b", quantities={INPUT: 70_000_000})
UNPRICED = usage(31, tenant="initech", model="nobody-priced-me", quantities={INPUT: 5})
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def shared_ledger(clickhouse_url: str) -> Iterator[Client]:
    with ledger_of(clickhouse_url, DATABASE) as client:
        yield client


@pytest.fixture
def ledger(shared_ledger: Client, store: Engine) -> Client:
    """An empty ledger, and a store with the example's prices."""
    empty_ledger(shared_ledger)
    import_book(store, read_price_book(EXAMPLE), imported_by="ann", now_ms=0)
    return shared_ledger


@pytest.fixture
def stripe(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(tmp_path / "stripe") as server:
        yield server


@pytest.fixture
def rentroll(
    clickhouse_url: str, store_url: str, stripe: StandIn, monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("RENTROLL_CLICKHOUSE_URL", clickhouse_url)
    monkeypatch.setenv("RENTROLL_CLICKHOUSE_DATABASE", DATABASE)
    monkeypatch.setenv("RENTROLL_STORE_URL", store_url)
    monkeypatch.setenv("RENTROLL_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("RENTROLL_STRIPE_API_BASE", stripe.base)
    monkeypatch.setenv("COLUMNS", "240")
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["invoice", *words])

    return run


def test_a_month_is_issued_listed_and_shown(
    rentroll: Command, ledger: Client, store: Engine, stripe: StandIn
) -> None:
    publish_period(ledger, store, OCTOBER, [ACME, GLOBEX])
    ran = rentroll("run", "--period", "2026-10")
    assert ran.exit_code == 0, ran.output
    assert "2 issued now, 0 held, 0 not done" in ran.output
    assert "6.00 USD" in ran.output
    assert "31.50 USD" in ran.output
    listed = rentroll("list", "--period", "2026-10").output
    assert listed.count("issued") == 2
    assert "acme" not in rentroll("list", "--period", "2026-09").output
    with store.connect() as connection:
        row = connection.execute(select(invoices).where(invoices.c.tenant == "acme")).one()
        states = connection.execute(select(periods.c.tenant, periods.c.state)).all()
    assert sorted(map(tuple, states)) == [("acme", "invoiced"), ("globex", "invoiced")]
    gateway = StripeGateway("sk_test_rentroll", stripe.base)
    assert gateway.invoice(row.stripe_invoice).total_minor == 600
    gateway.close()
    for name in (row.id, row.id[:12], row.number):
        shown = rentroll("show", name).output
        assert row.stripe_invoice in shown
        assert "100,000,001" in shown
        assert "finalize" in shown
        assert "once" in shown


def test_running_again_issues_nothing(
    rentroll: Command, ledger: Client, store: Engine, stripe: StandIn
) -> None:
    publish_period(ledger, store, OCTOBER, [ACME])
    assert rentroll("run", "--period", "2026-10", "--book", "example-2026").exit_code == 0
    written = len(stripe.exchanges("POST", "/v1/"))
    again = rentroll("run", "--period", "2026-10")
    assert again.exit_code == 0, again.output
    assert "0 issued now" in again.output
    assert len(stripe.exchanges("POST", "/v1/")) == written


def test_unpriced_usage_holds_its_tenant_and_fails_the_run(
    rentroll: Command, ledger: Client, store: Engine
) -> None:
    publish_period(ledger, store, OCTOBER, [ACME, UNPRICED])
    ran = rentroll("run", "--period", "2026-10")
    assert ran.exit_code == 1
    assert "1 issued now, 1 held, 0 not done" in ran.output
    assert "nobody-priced-me" in ran.output


def test_stripe_being_away_fails_the_run_and_the_next_one_goes_on(
    rentroll: Command, ledger: Client, store: Engine, stripe: StandIn
) -> None:
    publish_period(ledger, store, OCTOBER, [ACME])
    stripe.plant("POST", "finalize$", "error_before", times=6, status=503)
    ran = rentroll("run", "--period", "2026-10")
    assert ran.exit_code == 1
    assert "0 issued now, 0 held, 1 not done" in ran.output
    assert "finalize: " in ran.output
    assert rentroll("run", "--period", "2026-10").exit_code == 0


def test_a_month_that_is_not_complete_is_refused(rentroll: Command, ledger: Client) -> None:
    ran = rentroll("run", "--period", "2026-10")
    assert isinstance(ran.exception, PeriodNotReadyError)


def test_an_unknown_invoice_is_said_to_be_unknown(rentroll: Command, ledger: Client) -> None:
    shown = rentroll("show", "0123456789ab")
    assert isinstance(shown.exception, ContractError)
    assert "0 invoices fit '0123456789ab'" in str(shown.exception)
