"""`rentroll prices`, `rate` and `statement` against a real ledger and store."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from pypdf import PdfReader
from sqlalchemy import Engine, update
from typer.testing import CliRunner, Result

from billing.planning import plan_period
from billing.price_book_file import EXAMPLE_PRICE_BOOK as EXAMPLE
from billing.price_books import load_book
from billing.settings import BillingSettings
from infra.clickhouse.client import Client
from infra.store.tables import invoices
from rentroll.billing_commands import register
from schemas.clock import FixedClock
from schemas.errors import ContractError, MissingPriceError, PriceBookError
from tests.support.billing_examples import OCTOBER, usage
from tests.support.published_usage import empty_ledger, publish_period, publish_run
from tests.support.published_usage import ledger as ledger_of

INPUT = "input_uncached_tokens"
DATABASE = "test_billing_commands"
USAGE = [
    usage(0, requests=3, quantities={INPUT: 1_000_001, "gpu_ns": 4}),
    usage(30, tenant="globex", model="llama-3.3-70b", quantities={"output_text_tokens": 700_000}),
    usage(31, outcome="refused", requests=2),
]
Command = Callable[..., Result]


@pytest.fixture(scope="module")
def shared_ledger(clickhouse_url: str) -> Iterator[Client]:
    with ledger_of(clickhouse_url, DATABASE) as client:
        yield client


@pytest.fixture
def ledger(shared_ledger: Client) -> Client:
    empty_ledger(shared_ledger)
    return shared_ledger


@pytest.fixture
def rentroll(clickhouse_url: str, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("RENTROLL_CLICKHOUSE_URL", clickhouse_url)
    monkeypatch.setenv("RENTROLL_CLICKHOUSE_DATABASE", DATABASE)
    monkeypatch.setenv("RENTROLL_STORE_URL", store_url)
    monkeypatch.setenv("RENTROLL_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("RENTROLL_STRIPE_API_BASE", "http://127.0.0.1:1")
    monkeypatch.setenv("RENTROLL_BILLING_SUPPLIER_NAME", "Rentroll Compute AG")
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    return run


def plan(ledger: Client, store: Engine) -> None:
    plan_period(
        ledger, store, OCTOBER, load_book(store), clock=FixedClock(0), settings=BillingSettings()
    )


def test_prices_are_checked_imported_listed_and_shown(
    rentroll: Command, ledger: Client, tmp_path: Path
) -> None:
    checked = rentroll("prices", "check", str(EXAMPLE))
    assert "example-2026 is sound: 97 prices in USD" in checked.output
    assert "no price book" not in rentroll("prices", "import", str(EXAMPLE), "--by", "ann").output
    assert rentroll("prices", "import", str(EXAMPLE)).exit_code == 0
    listed = rentroll("prices", "list").output
    assert "example-2026" in listed
    assert "ann" in listed
    shown = rentroll("prices", "show").output
    assert "llama-3.3-70b priority" in shown
    assert "0.1125" in shown
    changed = tmp_path / "changed.yaml"
    changed.write_text(EXAMPLE.read_text().replace('"0.06"', '"0.07"'))
    refused = rentroll("prices", "import", str(changed))
    assert isinstance(refused.exception, PriceBookError)
    assert f"{changed}:" in str(refused.exception)


def test_rate_shows_exact_amounts_and_totals(
    rentroll: Command, ledger: Client, store: Engine
) -> None:
    rentroll("prices", "import", str(EXAMPLE))
    publish_period(ledger, store, OCTOBER, USAGE)
    rated = rentroll("rate", "--period", "2026-10")
    assert rated.exit_code == 0, rated.output
    assert "acme: USD 0.06" in rated.output
    assert "0.06000006" in rated.output
    assert "globex: USD 0.63" in rated.output
    assert "not billed" in rated.output
    assert "6 requests, 0.000000004 GPU-seconds, USD 0.69" in rated.output
    only = rentroll("rate", "--period", "2026-10", "--tenant", "globex")
    assert "acme" not in only.output


def test_rate_lists_usage_without_a_price_and_fails(
    rentroll: Command, ledger: Client, store: Engine
) -> None:
    rentroll("prices", "import", str(EXAMPLE))
    unknown = usage(4, model="llama-9b", requests=6, quantities={INPUT: 1_234})
    publish_period(ledger, store, OCTOBER, [*USAGE, unknown])
    rated = rentroll("rate", "--period", "2026-10")
    assert rated.exit_code == 1
    assert isinstance(rated.exception, MissingPriceError)
    assert "llama-9b (standard)" in rated.output
    assert "2026-10-01T04:00Z" in rated.output


def test_rate_of_an_open_month_says_that_it_may_change(
    rentroll: Command, ledger: Client, store: Engine
) -> None:
    rentroll("prices", "import", str(EXAMPLE))
    publish_run(ledger, store, USAGE[0].hour, USAGE[:1])
    rated = rentroll("rate", "--period", "2026-10")
    assert rated.exit_code == 0
    assert "2026-10 is not complete" in rated.output
    assert "acme: USD 0.06" in rated.output


def test_statement_has_the_same_total_in_every_format(
    rentroll: Command, ledger: Client, store: Engine, tmp_path: Path
) -> None:
    rentroll("prices", "import", str(EXAMPLE))
    publish_period(ledger, store, OCTOBER, USAGE)
    plan(ledger, store)
    words = ("statement", "globex", "--period", "2026-10")
    text = rentroll(*words).output
    assert "USAGE STATEMENT DRAFT-" in text
    assert "Draft, not yet issued" in text
    assert "700,000" in text
    html = rentroll(*words, "--format", "html").output
    assert '<span id="total">0.63</span>' in html
    rows = list(csv.DictReader(io.StringIO(rentroll(*words, "--format", "csv").output)))
    assert [row["amount"] for row in rows if row["record"] == "total"] == ["0.63"]
    pdf = tmp_path / "globex.pdf"
    written = rentroll(*words, "--format", "pdf", "--output", str(pdf))
    assert "globex.pdf: statement DRAFT-" in written.output
    content = PdfReader(pdf).pages[0].extract_text()
    assert "USD 0.63" in content
    assert "Rentroll Compute AG" in content


def test_statement_shows_requests_that_were_not_billed(
    rentroll: Command, ledger: Client, store: Engine
) -> None:
    rentroll("prices", "import", str(EXAMPLE))
    publish_period(ledger, store, OCTOBER, USAGE)
    plan(ledger, store)
    text = rentroll("statement", "acme", "--period", "2026-10").output
    assert "Not billed: 2 requests" in text
    assert "2026-10-02" in text


def test_issued_statement_keeps_its_days_when_an_hour_is_published_again(
    rentroll: Command, ledger: Client, store: Engine
) -> None:
    rentroll("prices", "import", str(EXAMPLE))
    publish_period(ledger, store, OCTOBER, USAGE)
    plan(ledger, store)
    with store.begin() as connection:
        connection.execute(update(invoices).values(state="issued", number="INV-7"))
    before = rentroll("statement", "acme", "--period", "2026-10").output
    publish_run(ledger, store, USAGE[0].hour, [usage(0, quantities={INPUT: 9})], offset=2)
    after = rentroll("statement", "acme", "--period", "2026-10").output
    assert "INV-7" in before
    assert after == before


def test_statement_that_is_not_there_is_explained(
    rentroll: Command, ledger: Client, store: Engine
) -> None:
    missing = rentroll("statement", "nobody", "--period", "2026-10")
    assert isinstance(missing.exception, ContractError)
    assert "no invoice of tenant nobody in 2026-10" in str(missing.exception)
