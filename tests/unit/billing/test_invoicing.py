"""Invoices: rounded once, allocated so that lines add up, named by their content."""

from fractions import Fraction

from billing.invoicing import Proof, charges_sha256, make_invoice, named
from billing.rating import rate
from schemas.billing import HourlyUsage, Invoice, RunReference
from schemas.money import round_to_minor
from schemas.prices import PriceBook, Selector
from tests.support.billing_examples import OCTOBER, book_of, graduated_price, unit_price, usage

INPUT = "input_uncached_tokens"
NO_PROOF = Proof((), {})


def run(hour: str, digit: str) -> RunReference:
    return RunReference(hour=hour, run_id=digit * 64, digest=digit * 64)


def invoice_of(
    *rows: HourlyUsage, book: PriceBook | None = None, proof: Proof = NO_PROOF
) -> Invoice:
    book = book or book_of(unit_price("p", "1"))
    return make_invoice(rate(rows, book, OCTOBER), book, OCTOBER, tenant="acme", proof=proof)


def test_three_thirds_of_a_cent_make_one_cent() -> None:
    book = book_of(unit_price("p", "0.01", per=3))
    models = [usage(model=name, quantities={INPUT: 1}) for name in ("m1", "m2", "m3")]
    invoice = invoice_of(*models, book=book)
    assert invoice.total_minor == 1
    assert [line.amount_minor for line in invoice.lines] == [1, 0, 0]


def test_many_small_lines_are_not_rounded_one_by_one() -> None:
    book = book_of(unit_price("p", "0.004", per=1))
    models = [usage(model=f"m{number:02}", quantities={INPUT: 1}) for number in range(25)]
    invoice = invoice_of(*models, book=book)
    assert invoice.total_minor == 10
    assert sum(line.amount_minor for line in invoice.lines) == 10


def test_half_a_cent_is_rounded_up() -> None:
    book = book_of(unit_price("p", "0.005", per=1))
    assert invoice_of(usage(quantities={INPUT: 1}), book=book).total_minor == 1


def test_total_that_rounds_to_zero_is_still_an_invoice() -> None:
    invoice = invoice_of(usage(quantities={INPUT: 1}))
    assert (invoice.total_minor, len(invoice.lines)) == (0, 1)


def test_lines_are_numbered_and_described_for_people() -> None:
    book = book_of(
        unit_price("in", "0.06", meter=INPUT), unit_price("out", "0.15", meter="output_text_tokens")
    )
    row = usage(
        adapter="support-bot",
        service_tier="batch",
        quantities={INPUT: 1_234_567, "output_text_tokens": 8},
    )
    lines = invoice_of(row, book=book).lines
    assert [line.line_no for line in lines] == [1, 2]
    assert lines[0].description == (
        "llama-3.1-8b + support-bot (batch): 1,234,567 input tokens at USD 0.06 per 1,000,000"
    )


def test_graduated_price_is_described_by_its_steps() -> None:
    book = book_of(graduated_price("g", [(1_000_000, "0.15"), (None, "0.1")]))
    (line,) = invoice_of(usage(quantities={INPUT: 2}), book=book).lines
    assert line.description == (
        "llama-3.1-8b (standard): 2 input tokens at USD 0.15 up to 1,000,000, 0.10 beyond,"
        " per 1,000,000"
    )


def test_long_list_of_steps_is_shortened() -> None:
    steps = [(limit, f"{9 - limit}") for limit in range(1, 6)]
    book = book_of(graduated_price("g", [*steps, (None, "0.5")]))
    (line,) = invoice_of(usage(quantities={INPUT: 2}), book=book).lines
    assert line.description.endswith("at USD 6 steps from 8.00 to 0.50, per 1,000,000")


def test_gpu_time_reads_in_seconds_and_hours() -> None:
    book = book_of(unit_price("g", "3.99", meter="gpu_ns", per=3_600_000_000_000))
    (line,) = invoice_of(usage(quantities={"gpu_ns": 1_234_500_000_000}), book=book).lines
    assert line.description == (
        "llama-3.1-8b (standard): 1,234.500000000 GPU-seconds at USD 3.99 per GPU-hour"
    )


def test_description_fits_where_stripe_shows_it() -> None:
    row = usage(model="m" * 128, adapter="a" * 128, service_tier="s" * 128, quantities={INPUT: 1})
    steps = [(10**17 + limit, "99999999999999.123456789012") for limit in range(3)]
    book = book_of(graduated_price("g", [*steps, (None, "0.5")]))
    (line,) = invoice_of(row, book=book).lines
    assert len(line.description) <= 500
    assert line.description.endswith("per 1,000,000")


def test_unbilled_lines_are_listed_and_counted_in_the_totals() -> None:
    invoice = invoice_of(
        usage(quantities={INPUT: 1_000_000, "gpu_ns": 5}),
        usage(outcome="error", requests=2, quantities={INPUT: 7, "gpu_ns": 3}),
    )
    assert (invoice.total_minor, invoice.requests, invoice.gpu_ns) == (100, 3, 8)
    assert [(line.meter, line.quantity) for line in invoice.unbilled] == [
        (INPUT, 7),
        ("requests", 2),
    ]


def test_tenant_without_usage_has_an_invoice_of_nothing() -> None:
    invoice = invoice_of(usage(tenant="globex", quantities={INPUT: 1}))
    assert (invoice.lines, invoice.total_minor, invoice.requests, invoice.gpu_ns) == ((), 0, 0, 0)


def test_other_tenants_stay_out() -> None:
    rows = usage(quantities={INPUT: 1}), usage(tenant="globex", quantities={INPUT: 1})
    assert {line.rated.tenant for line in invoice_of(*rows).lines} == {"acme"}


def test_same_content_has_the_same_id() -> None:
    rows = usage(quantities={INPUT: 1}), usage(1, quantities={INPUT: 2})
    assert invoice_of(*rows) == invoice_of(*reversed(rows))


def test_id_changes_with_whatever_the_invoice_says() -> None:
    row, more = usage(quantities={INPUT: 1}), usage(quantities={INPUT: 2})
    other_book = book_of(unit_price("p", "1"), name="other-book")
    first, second = run("2026-10-01T00:00:00.000Z", "1"), run("2026-10-01T00:00:00.000Z", "2")
    made = [
        invoice_of(row),
        invoice_of(more),
        invoice_of(row, usage(outcome="error")),
        invoice_of(row, book=other_book),
        invoice_of(row, proof=Proof((first,), {})),
        invoice_of(row, proof=Proof((second,), {})),
        invoice_of(row, proof=Proof((), {"usage.v1/0": 7})),
        named(invoice_of(row).model_copy(update={"revision": 2})),
    ]
    assert len({invoice.id for invoice in made}) == len(made)


def test_naming_again_changes_nothing() -> None:
    invoice = invoice_of(usage(quantities={INPUT: 1}))
    assert named(invoice) == invoice


def test_runs_stand_in_the_order_of_hours_and_offsets_are_kept() -> None:
    late, early = run("2026-10-01T01:00:00.000Z", "1"), run("2026-10-01T00:00:00.000Z", "2")
    invoice = invoice_of(usage(), proof=Proof((late, early), {"usage.v1/0": 7}))
    assert invoice.runs == (early, late)
    assert invoice.offsets == {"usage.v1/0": 7}


def test_charges_are_the_same_when_only_the_runs_were_published_again() -> None:
    row = usage(quantities={INPUT: 1})
    hour = "2026-10-01T00:00:00.000Z"
    first = invoice_of(row, proof=Proof((run(hour, "1"),), {"usage.v1/0": 1}))
    again = invoice_of(row, proof=Proof((run(hour, "2"),), {"usage.v1/0": 9}))
    assert first.id != again.id
    assert charges_sha256(first) == charges_sha256(again)
    assert charges_sha256(first) != charges_sha256(invoice_of(usage(quantities={INPUT: 2})))


def test_stored_text_reads_back_to_the_same_invoice() -> None:
    invoice = invoice_of(usage(quantities={INPUT: 1}), usage(outcome="error"))
    assert Invoice.model_validate_json(invoice.canonical_json()) == invoice


def test_currency_decides_the_minor_unit() -> None:
    book = book_of(unit_price("p", "3.5", per=1), currency="JPY")
    invoice = invoice_of(usage(quantities={INPUT: 1}), book=book)
    assert (invoice.currency, invoice.total_minor) == ("JPY", 4)


def test_total_is_the_rounded_sum_of_exact_amounts() -> None:
    prices = [
        unit_price(name, text, select=Selector(model=name), per=7)
        for name, text in (("m1", "0.1"), ("m2", "0.0333"), ("m3", "12.000000000001"))
    ]
    rows = [usage(model=price.id, quantities={INPUT: 13}) for price in prices]
    invoice = invoice_of(*rows, book=book_of(*prices))
    exact = sum((line.rated.amount() for line in invoice.lines), Fraction(0))
    assert invoice.total_minor == round_to_minor(exact, "USD")
