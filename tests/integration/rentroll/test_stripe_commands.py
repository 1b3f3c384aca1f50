"""`rentroll stripe` and what `rentroll invoice` gives up, on a store and the stand-in."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from billing.stripe_gateway import LOCAL, StripeGateway
from infra.store.engine import open_store
from rentroll import invoice_commands, stripe_commands
from schemas.errors import ContractError, SettingsError
from tests.support.servers.stripe_fake import StandIn, stand_in
from tests.support.webhook_house import issued, row_of

Command = Callable[..., Result]


@pytest.fixture
def stripe(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in(tmp_path / "stripe") as server:
        yield server


@pytest.fixture
def store(tmp_path: Path, migrated_sqlite_file: Path) -> Iterator[Engine]:
    shutil.copy(migrated_sqlite_file, tmp_path / "store.db")
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.dispose()


@pytest.fixture
def gateway(stripe: StandIn) -> Iterator[StripeGateway]:
    opened = StripeGateway("sk_test_rentroll", stripe.base, limits=LOCAL)
    yield opened
    opened.close()


@pytest.fixture
def rentroll(
    store: Engine, stripe: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setenv("RENTROLL_STORE_URL", f"sqlite:///{tmp_path / 'store.db'}")
    monkeypatch.setenv("RENTROLL_STRIPE_API_BASE", stripe.base)
    monkeypatch.setenv("RENTROLL_STRIPE_API_KEY", "sk_test_rentroll")
    monkeypatch.setenv("RENTROLL_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("RENTROLL_CLICKHOUSE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RENTROLL_BILLING_DUNNING_REMIND_AFTER_DAYS", "0")
    monkeypatch.delenv("RENTROLL_BILLING_WEBHOOK_SECRET", raising=False)
    app = typer.Typer()
    invoice_commands.register(app)
    stripe_commands.register(app)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_sync_takes_over_what_was_paid(
    rentroll: Command, store: Engine, gateway: StripeGateway
) -> None:
    one = issued(store, gateway)
    assert "1 unchanged" in rentroll("stripe", "sync").output
    gateway._api.invoices.pay(one.stripe_id)
    assert "1 applied" in rentroll("stripe", "sync").output
    assert row_of(store, one.invoice_id)[0] == "paid"
    assert "none is unpaid" in rentroll("stripe", "sync").output


def test_dun_reminds_once_and_says_whom(
    rentroll: Command, store: Engine, gateway: StripeGateway, stripe: StandIn
) -> None:
    one = issued(store, gateway)
    stripe.fail_payment(one.stripe_id)
    assert f"reminded: {one.invoice_id}" in rentroll("stripe", "dun").output
    assert rentroll("stripe", "dun").output == ""


def test_listen_without_a_secret_says_where_it_is_found(rentroll: Command) -> None:
    result = rentroll("stripe", "listen", "--port", "0")
    assert isinstance(result.exception, SettingsError)
    assert "RENTROLL_BILLING_WEBHOOK_SECRET" in str(result.exception)


def test_refund_lowers_an_open_invoice_once(
    rentroll: Command, store: Engine, gateway: StripeGateway
) -> None:
    one = issued(store, gateway)
    words = ("invoice", "refund", one.invoice_id[:12], "--amount-minor", "29")
    for _ in range(2):
        result = rentroll(*words, "--reference", "T-17", "--reason", "outage")
        assert result.exit_code == 0, result.output
        assert "29 minor units off" in result.output
    assert gateway.invoice(one.stripe_id).amount_remaining_minor == one.total_minor - 29


def test_invoice_is_written_off_then_void(
    rentroll: Command, store: Engine, gateway: StripeGateway
) -> None:
    one = issued(store, gateway)
    for ending in ("uncollectible", "void"):
        assert f"is {ending}" in rentroll("invoice", ending, one.invoice_id[:12]).output
        assert row_of(store, one.invoice_id)[0] == ending
    assert isinstance(rentroll("invoice", "void", "0" * 12).exception, ContractError)
