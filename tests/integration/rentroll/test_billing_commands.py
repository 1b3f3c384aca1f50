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
from rentroll import billing_commands, price_commands
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
    for area in (price_commands, billing_commands):
        area.register(app)

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


DEARER = """\
name: dearer-2027
currency: USD
per: 1000000
tiers: {standard: "1", batch: "0.5"}
outcomes: {stop: billed, length: billed, client_gone: unbilled, abort: unbilled,
           error: unbilled, engine_death: unbilled, refused: unbilled}
products:
  small:
    select: {model: llama-3.1-8b}
    prices:
      - {from: 2026-01-01, input: "60", cached: "1", cache_write: "0", output: "0.15"}
  acme:
    select: {model: llama-3.1-8b, tenant: acme}
    prices:
      - {from: 2026-10-01, input: "30"}
"""


def test_price_is_explained_with_every_candidate(rentroll: Command, tmp_path: Path) -> None:
    file = tmp_path / "dearer.yaml"
    file.write_text(DEARER)
    rentroll("prices", "import", str(file))
    small = ("model=llama-3.1-8b", "service_tier=standard")
    asked = (*small, "--hour", "2026-10-05T07")
    text = rentroll("prices", "explain", *asked, "tenant=acme", "--meter", INPUT).output
    assert text.index("applies") < text.index("acme/standard/") < text.index("30.00")
    assert "acme/standard/input_uncached_tokens/2026-10-01T00:00Z fixes tenant" in text
    for_all = rentroll("prices", "explain", *asked, "--meter", INPUT).output
    assert "60.00" in for_all
    assert "acme/standard/" not in for_all
    before = rentroll(
        "prices", "explain", *small, "tenant=acme", "--hour", "2026-09-30T23", "--meter", INPUT
    ).output
    assert "begins at 2026-10-01T00:00Z" in before
    assert "NO PRICE" in rentroll("prices", "explain", "model=none").output
    wrong = rentroll("prices", "explain", *asked, "--meter", "gpu_ns")
    assert isinstance(wrong.exception, ContractError)
    unknown = rentroll("prices", "explain", "colour=red")
    assert "'colour=red': each once, as field=value" in str(unknown.exception)


def test_books_are_compared_and_a_month_is_rated_with_another(
    rentroll: Command, ledger: Client, store: Engine, tmp_path: Path
) -> None:
    rentroll("prices", "import", str(EXAMPLE))
    file = tmp_path / "dearer.yaml"
    file.write_text(DEARER)
    changes = rentroll("prices", "diff", "example-2026", str(file)).output
    assert "outcome client_gone" in changes
    assert "input tokens for acme llama-3.1-8b standard" in changes
    assert "no price" in changes
    assert rentroll("prices", "diff", str(file), str(file)).output.count("│") == 0
    publish_period(ledger, store, OCTOBER, USAGE)
    found = rentroll("prices", "backtest", "--book", str(file), "--period", "2026-10")
    assert isinstance(found.exception, MissingPriceError)
    (acme,) = [line for line in found.output.splitlines() if "acme" in line]
    assert [cell.strip() for cell in acme.split("│")[1:6]] == [
        "acme", "0.06", "30.00", "29.94", "+49900.00",
    ]  # fmt: skip
    assert "0 before, 1 after" in found.output


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
