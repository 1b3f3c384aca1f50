"""The worked example of `docs/corrections.md` is recomputed from its own book and usage."""

import re
from fractions import Fraction
from pathlib import Path

from billing.correcting import correct
from billing.wording import exact_text
from schemas.billing import HourlyUsage
from schemas.corrections import Correction
from tests.support.worked_examples import (
    book_in,
    fenced,
    invoice_of,
    shown,
    shown_correction,
    usage_in,
)

PAGE = (Path(__file__).parents[3] / "docs" / "corrections.md").read_text(encoding="utf-8")
EXAMPLE = PAGE.split("## Worked example")[1].split("\n## ")[0]
STEPS = re.split(r"^### .*$", EXAMPLE, flags=re.MULTILINE)[1:]


def test_worked_example_is_what_its_book_and_usage_make(tmp_path: Path) -> None:
    book = book_in(EXAMPLE.split("\n### ")[0], tmp_path / "book.yaml")
    used: list[HourlyUsage] = usage_in(STEPS[0])
    invoice = invoice_of(used, book)
    assert fenced(STEPS[0], "text") == shown(invoice)
    corrections: list[Correction] = []
    for step in STEPS[1:]:
        used += usage_in(step)
        one = correct(invoice, corrections, invoice_of(used, book))
        assert one is not None
        corrections.append(one)
        assert fenced(step, "text") == shown_correction(one)
    first_late = invoice_of(usage_in(STEPS[0]) + usage_in(STEPS[1]), book)
    exact = sum((line.rated.amount() for line in first_late.lines), Fraction(0))
    assert f"exact sum is {exact_text(exact)} now" in EXAMPLE
    final = invoice_of(used, book).total_minor
    assert invoice.total_minor + sum(one.total_minor for one in corrections) == final
    assert f"the same {final // 100}.{final % 100:02}." in EXAMPLE
