"""Worked examples of the documents are recomputed from their own books and usage."""

import re
from pathlib import Path

import pytest

from schemas.billing import Invoice
from schemas.money import round_to_minor
from tests.support.worked_examples import book_in, fenced, invoice_of, shown, usage_in

ROOT = Path(__file__).parents[3]
README = (ROOT / "billing" / "README.md").read_text(encoding="utf-8")
TEXT = README.split("## Worked example")[1].split("\n## ")[0]
HEADINGS = {
    "tier": "service_tier",
    "input tokens": "input_uncached_tokens",
    "output tokens": "output_text_tokens",
}
MODELS = (ROOT / "docs" / "price-models.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", MODELS, re.MULTILINE | re.DOTALL))
HEAD = """\
name: worked-example
currency: USD
per: 1000000
outcomes: {stop: billed, length: billed, client_gone: billed, abort: unbilled,
           error: unbilled, engine_death: unbilled, refused: unbilled}
"""


def example(tmp_path: Path) -> Invoice:
    return invoice_of(usage_in(TEXT, HEADINGS), book_in(TEXT, tmp_path / "book.yaml"))


@pytest.mark.parametrize("section", SECTIONS)
def test_invoice_of_a_price_model_is_what_its_book_and_usage_make(
    tmp_path: Path, section: str
) -> None:
    text = SECTIONS[section]
    made = invoice_of(usage_in(text), book_in(text, tmp_path / "book.yaml", HEAD))
    assert fenced(text, "text") == shown(made)


def test_invoice_in_the_readme_is_what_its_book_and_usage_make(tmp_path: Path) -> None:
    assert fenced(TEXT, "text") == shown(example(tmp_path))


def test_readme_says_what_rounding_each_line_would_have_made(tmp_path: Path) -> None:
    invoice = example(tmp_path)
    alone = sum(round_to_minor(line.rated.amount(), "USD") for line in invoice.lines)
    assert f"rounded to {alone} cents in all" in " ".join(TEXT.split())
    assert alone != invoice.total_minor


def test_readme_shows_a_failed_request_that_costs_nothing(tmp_path: Path) -> None:
    unbilled = {line.meter: line.quantity for line in example(tmp_path).unbilled}
    assert unbilled == {"input_uncached_tokens": 5_000, "output_text_tokens": 17, "requests": 2}
