"""One statement in four formats: the same figures, no text taken for markup, nothing loaded."""

import csv
import io
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import pytest
from pypdf import PdfReader

from billing.correcting import correct
from billing.correction_records import CorrectionRecord, CreditRecord
from billing.invoicing import carrying
from billing.settings import BillingSettings
from billing.statement_csv import render_csv
from billing.statement_html import render_html
from billing.statement_pdf import render_pages, render_pdf
from billing.statement_text import render_text
from billing.statement_view import StatementView, view_of
from schemas.billing import CarriedCorrection
from tests.support.statement_examples import statement_source

SETTINGS = BillingSettings(
    supplier_name="Rentroll Compute AG",
    supplier_address=("Bahnhofstrasse 1", "8001 Zürich"),
    supplier_tax_id="CHE-123.456.789",
)
VIEW = view_of(statement_source(), SETTINGS)
HOSTILE = '<script>alert(1)</script> #panic() $x$ *b* _i_ `c` [l] \\ "q" & =1+1'


class Tables(HTMLParser):
    """The cells of every table, by the table's id; and every tag and attribute that was opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.opened: list[tuple[str, dict[str, str | None]]] = []
        self._table = ""
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append((tag, dict(attrs)))
        if tag == "table":
            self._table = dict(attrs)["id"] or ""
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")
            self._inside = True
        elif tag == "br" and self._inside:
            self.rows[self._table][-1][-1] += ", "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[self._table][-1][-1] += data


def pdf_text(pdf: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages)


def spaced(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def figures(view: StatementView) -> list[str]:
    """Every figure that a reader compares."""
    lines = [text for line in view.lines for text in (line.quantity, line.per, line.amount)]
    days = [
        text
        for day in (*view.days, view.all_days)
        for text in (day.requests, day.input_tokens, day.output_tokens, day.gpu_seconds)
    ]
    unbilled = [one.quantity for one in view.unbilled]
    return [view.total, view.unbilled_requests, *lines, *days, *unbilled]


def words(view: StatementView) -> list[str]:
    """Everything else that a statement must say."""
    said = [view.number, view.state, view.period_words, view.supplier.name, view.customer.name]
    said += [*view.supplier.details, *view.customer.details]
    said += [view.price_book, view.price_book_sha256, view.invoice_id, view.rating_version]
    said += [run.digest for run in view.runs]
    return said + [text for line in view.lines for text in (line.product, line.meter)]


def test_example_has_something_of_everything() -> None:
    assert (len(VIEW.lines), VIEW.total, VIEW.unbilled_requests) == (6, "427.02", "15")
    assert sum(int(line.amount_plain.replace(".", "")) for line in VIEW.lines) == 42_702
    assert len(VIEW.days) == 31


@pytest.mark.parametrize("form", ["text", "html", "pdf"])
def test_every_figure_and_word_is_in_every_format_for_people(form: str) -> None:
    content = {
        "text": lambda: render_text(VIEW),
        "html": lambda: render_html(VIEW),
        "pdf": lambda: pdf_text(render_pdf(VIEW)),
    }[form]()
    flat = spaced(content)
    missing = [text for text in (*figures(VIEW), *words(VIEW)) if text not in flat]
    assert missing == []


def test_html_tables_hold_the_lines_days_and_unbilled_usage() -> None:
    tables = Tables(render_html(VIEW)).rows
    _, *lines, total = tables["lines"]
    assert lines == [
        [str(one.no), one.product, one.meter, one.quantity, one.unit_price, one.per, one.amount]
        for one in VIEW.lines
    ]
    assert total[-1] == VIEW.total
    _, *days, all_days = tables["days"]
    assert [day[2:] for day in days] == [
        [one.requests, one.input_tokens, one.output_tokens, one.gpu_seconds] for one in VIEW.days
    ]
    assert all_days[2] == VIEW.all_days.requests
    assert [row[-1] for row in tables["unbilled"][1:]] == [one.quantity for one in VIEW.unbilled]
    assert [row[-1] for row in tables["runs"][1:]] == [one.digest for one in VIEW.runs]


def test_html_loads_nothing_and_runs_nothing() -> None:
    html = render_html(VIEW)
    opened = Tables(html).opened
    assert not {"script", "img", "link", "iframe", "object", "form"} & {tag for tag, _ in opened}
    assert not [attributes for _, attributes in opened if {"src", "href"} & attributes.keys()]
    assert "url(" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_csv_holds_plain_numbers_that_add_up() -> None:
    rows = list(csv.DictReader(io.StringIO(render_csv(VIEW))))
    lines = [row for row in rows if row["record"] == "line"]
    (total,) = [row for row in rows if row["record"] == "total"]
    assert sum(int(row["amount"].replace(".", "")) for row in lines) == 42_702
    assert total["amount"] == "427.02"
    assert [row["quantity"] for row in lines] == [str(one.rated.quantity) for one in VIEW.lines]
    assert [row["unit_price"] for row in lines] == [one.unit_price for one in VIEW.lines]
    days = [row for row in rows if row["record"] == "day"]
    assert sum(int(row["gpu_ns"]) for row in days) == VIEW.all_days.used.gpu_ns
    assert sum(int(row["requests"]) for row in days) == VIEW.all_days.used.requests
    unbilled = [row for row in rows if row["record"] == "unbilled" and row["meter"] == "requests"]
    assert sum(int(row["quantity"]) for row in unbilled) == 15
    assert [row["digest"] for row in rows if row["record"] == "run"] == [
        run.digest for run in VIEW.runs
    ]
    assert {row["tenant"] for row in rows} == {"acme"}


def test_hostile_names_stay_text_in_every_format() -> None:
    source = statement_source(customer_name=HOSTILE)
    view = view_of(source, SETTINGS)
    html = render_html(view)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert HOSTILE in spaced(pdf_text(render_pdf(view)))
    assert HOSTILE in render_text(view)


def test_formula_is_inert_in_csv() -> None:
    view = replace(VIEW, number="=cmd|'/c calc'!A1", tenant="@x")
    rows = list(csv.DictReader(io.StringIO(render_csv(view))))
    assert {row["number"] for row in rows} == {"'=cmd|'/c calc'!A1"}
    assert {row["tenant"] for row in rows} == {"'@x"}


@pytest.mark.parametrize("form", ["text", "html", "pdf", "csv"])
def test_declared_loss_is_on_the_proof_with_who_and_why(form: str) -> None:
    loss = "decision 3 of ann: sequences 7 to 9: <b>disk</b> burnt"
    view = view_of(replace(statement_source(), losses=(loss,)), SETTINGS)
    content = {
        "text": lambda: render_text(view),
        "html": lambda: unescape(render_html(view)),
        "pdf": lambda: pdf_text(render_pdf(view)),
        "csv": lambda: render_csv(view),
    }[form]()
    assert loss in spaced(content)


def test_held_statement_says_so_and_why() -> None:
    reason = "no price in book acme-2026 for 5 input tokens"
    view = view_of(statement_source(hold_reason=reason), SETTINGS)
    for content in (render_text(view), render_html(view), pdf_text(render_pdf(view))):
        assert "On hold" in content
        assert reason in spaced(content)
    assert f"on hold: {reason}" in render_csv(view)
    assert "On hold" not in render_html(VIEW)


def test_same_statement_is_the_same_pdf_byte_for_byte() -> None:
    assert render_pdf(VIEW) == render_pdf(view_of(statement_source(), SETTINGS))


def test_pdf_pages_can_be_looked_at() -> None:
    pages = render_pages(VIEW)
    assert len(pages) == len(PdfReader(io.BytesIO(render_pdf(VIEW))).pages) > 1
    assert all(page.startswith(b"\x89PNG") for page in pages)


def test_statement_without_charges_or_failures_can_be_set() -> None:
    view = replace(VIEW, lines=(), unbilled=(), days=(), runs=(), offsets=(), total="0.00")
    assert "Every request was billed." in render_text(view)
    assert "Every request was billed." in render_html(view)
    assert "Every request was billed." in pdf_text(render_pdf(view))
    assert "record" in render_csv(view)


def corrected_view() -> StatementView:
    """It carries a debit of September, and has a credit of its own that waits."""
    source = statement_source()
    carried = CarriedCorrection(
        correction_id="c" * 64, period="2026-09", revision=2, invoice_id="d" * 64,
        amount_minor=45, description="Correction 2 of period 2026-09",
    )  # fmt: skip
    invoice = carrying(source.statement.invoice, [carried])
    first = invoice.lines[0]
    less = first.rated.model_copy(update={"quantity": 7})
    final = invoice.model_copy(
        update={
            "lines": (
                first.model_copy(update={"rated": less, "amount_minor": first.amount_minor - 1001}),
                *invoice.lines[1:],
            )
        }
    )
    one = correct(invoice, [], final)
    assert one is not None
    record = CorrectionRecord(one, "", (CreditRecord(invoice.id, 1001, "planned", ""),))
    statement = source.statement.model_copy(update={"invoice": invoice})
    return view_of(replace(source, statement=statement, corrections=(record,)), SETTINGS)


def test_every_format_shows_what_is_carried_and_what_was_corrected() -> None:
    view = corrected_view()
    (correction,) = view.corrections
    assert correction.amount == "-10.01"
    assert "credit note to be issued of 10.01" in correction.settled
    html = render_html(view)
    pages = "".join(page.extract_text() for page in PdfReader(io.BytesIO(render_pdf(view))).pages)
    for form in (render_text(view), html, " ".join(pages.split())):
        assert "Correction 2 of period 2026-09" in form
        assert "0.45" in form
        assert correction.reference in form
        assert "-10.01" in form
        assert view.corrected_total in form
    rows = {row["record"]: row for row in csv.DictReader(io.StringIO(render_csv(view)))}
    assert rows["carried correction"]["amount"] == "0.45"
    assert (rows["correction"]["amount"], rows["correction"]["line"]) == ("-10.01", "1")
    assert rows["total"]["amount"] == view.total_plain
