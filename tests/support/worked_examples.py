"""Worked examples as documents show them: a book, a table of usage, the invoice they make."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billing.invoicing import Proof, make_invoice
from billing.price_book_file import read_price_book
from billing.rating import rate
from billing.wording import exact_text
from schemas.billing import HourlyUsage, Invoice
from schemas.corrections import Correction
from schemas.money import format_minor
from schemas.periods import HOUR
from schemas.prices import PriceBook
from schemas.usage import METERS
from tests.support.billing_examples import OCTOBER, usage


def fenced(text: str, language: str) -> str:
    """The one block of this language in a section."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)


def usage_in(text: str, headings: dict[str, str] | None = None) -> list[HourlyUsage]:
    """Hourly rows of the section's table; a heading is a field or a meter, or stands for one."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    names = [(headings or {}).get(name, name) for name in cells[0]]
    return [_row(dict(zip(names, one, strict=True))) for one in cells[1:]]


def _row(cells: dict[str, str]) -> HourlyUsage:
    start = datetime.strptime(cells.pop("hour"), "%Y-%m-%dT%H:%MZ").replace(tzinfo=UTC)
    quantities = {
        name: int(cells.pop(name)) for name in METERS if name in cells and name != "requests"
    }
    changes: dict[str, Any] = {**cells, "requests": int(cells["requests"])}
    return usage((start - OCTOBER.start) // HOUR, quantities=quantities, **changes)


def book_in(text: str, path: Path, head: str = "") -> PriceBook:
    """The section's book, read from the file that `path` names."""
    path.write_text(head + fenced(text, "yaml"))
    return read_price_book(path).book


def invoice_of(rows: list[HourlyUsage], book: PriceBook) -> Invoice:
    """What the usage costs tenant acme in October."""
    rating = rate(rows, book, OCTOBER)
    assert rating.unpriced == ()
    return make_invoice(rating, book, OCTOBER, tenant="acme", proof=Proof((), {}))


def shown(invoice: Invoice) -> str:
    """The invoice as the documents print it."""
    lines = [
        f"{line.line_no}. {line.description}\n"
        f"   {exact_text(line.rated.amount())} -> {format_minor(line.amount_minor, 'USD')}\n"
        for line in invoice.lines
    ]
    return "".join(lines) + f"Total USD {format_minor(invoice.total_minor, 'USD')}\n"


def shown_correction(one: Correction) -> str:
    """A correction as the documents print it."""
    lines = [
        f"{line.line_no}. {line.description}\n"
        f"   charged {format_minor(line.charged_minor, 'USD')}, rated"
        f" {format_minor(line.rated_minor(), 'USD')} -> {format_minor(line.amount_minor, 'USD')}\n"
        for line in one.lines
    ]
    return (
        f"Correction {one.revision} of {one.period}\n"
        + "".join(lines)
        + f"Rated USD {format_minor(one.rated_minor, 'USD')}, charged before USD"
        f" {format_minor(one.charged_minor, 'USD')}: USD {format_minor(one.total_minor, 'USD')}\n"
    )
