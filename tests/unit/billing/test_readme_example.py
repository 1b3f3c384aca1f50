"""The worked example in billing/README.md is recomputed from its own book and usage."""

import re
from datetime import UTC, datetime
from pathlib import Path

from billing.invoicing import Proof, make_invoice
from billing.price_book_file import read_price_book
from billing.rating import rate
from billing.wording import exact_text
from schemas.billing import HourlyUsage, Invoice
from schemas.money import format_minor, round_to_minor
from schemas.periods import HOUR
from schemas.prices import PriceBook
from tests.support.billing_examples import OCTOBER, usage

README = Path(__file__).parents[3] / "billing" / "README.md"
TEXT = README.read_text(encoding="utf-8").split("## Worked example")[1].split("\n## ")[0]


def fenced(language: str) -> str:
    match = re.search(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


def book(tmp_path: Path) -> PriceBook:
    path = tmp_path / "book.yaml"
    path.write_text(fenced("yaml"))
    return read_price_book(path).book


def rows() -> list[HourlyUsage]:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if line.startswith("| 2026-")
    ]
    return [
        usage(
            (datetime.strptime(hour, "%Y-%m-%dT%H:%MZ").replace(tzinfo=UTC) - OCTOBER.start)
            // HOUR,
            model=model,
            service_tier=tier,
            outcome=outcome,
            requests=int(requests),
            quantities={
                "input_uncached_tokens": int(input_tokens),
                "output_text_tokens": int(output_tokens),
            },
        )
        for hour, model, tier, outcome, requests, input_tokens, output_tokens in cells
    ]


def example(tmp_path: Path) -> Invoice:
    priced = book(tmp_path)
    rating = rate(rows(), priced, OCTOBER)
    assert rating.unpriced == ()
    return make_invoice(rating, priced, OCTOBER, tenant="acme", proof=Proof((), {}))


def shown(invoice: Invoice) -> str:
    lines = [
        f"{line.line_no}. {line.description}\n"
        f"   {exact_text(line.rated.amount())} -> {format_minor(line.amount_minor, 'USD')}\n"
        for line in invoice.lines
    ]
    return "".join(lines) + f"Total USD {format_minor(invoice.total_minor, 'USD')}\n"


def test_invoice_in_the_readme_is_what_its_book_and_usage_make(tmp_path: Path) -> None:
    assert fenced("text") == shown(example(tmp_path))


def test_readme_says_what_rounding_each_line_would_have_made(tmp_path: Path) -> None:
    invoice = example(tmp_path)
    alone = sum(round_to_minor(line.rated.amount(), "USD") for line in invoice.lines)
    assert f"rounded to {alone} cents in all" in " ".join(TEXT.split())
    assert alone != invoice.total_minor


def test_readme_shows_a_failed_request_that_costs_nothing(tmp_path: Path) -> None:
    unbilled = {line.meter: line.quantity for line in example(tmp_path).unbilled}
    assert unbilled == {"input_uncached_tokens": 5_000, "output_text_tokens": 17, "requests": 2}
