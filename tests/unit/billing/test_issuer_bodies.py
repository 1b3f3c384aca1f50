"""Bodies for Stripe from a frozen invoice, and what makes a draft differ from it."""

from dataclasses import replace

import pytest

from billing.invoicing import carrying
from billing.issuer_bodies import (
    LINES_A_CALL,
    MAX_LINES,
    NO_USAGE_KEY,
    check_invoice,
    chunks,
    invoice_body,
    invoice_metadata,
    line_bodies,
    line_key,
    missing_lines,
    same_charge,
)
from billing.stripe_objects import StripeInvoice, StripeLine
from schemas.billing import CarriedCorrection, Invoice
from schemas.errors import ConservationError, InvoiceHeldError
from tests.support.planned_invoices import TOTAL_MINOR, make_invoice


def as_stripe_has_it(invoice: Invoice) -> StripeInvoice:
    lines = tuple(
        StripeLine(f"il_{n}", body["amount"], "usd", body["metadata"])
        for n, body in enumerate(line_bodies(invoice))
    )
    return StripeInvoice(
        id="in_1",
        customer="cus_1",
        status="draft",
        number="",
        currency="usd",
        total_minor=invoice.total_minor,
        amount_due_minor=invoice.total_minor,
        hosted_url="",
        finalized_at_s=None,
        metadata=invoice_metadata(invoice),
        lines=lines,
        more_lines=False,
    )


def test_nothing_but_us_advances_the_draft() -> None:
    body = invoice_body(make_invoice(), "cus_1", 14)
    assert body["auto_advance"] is False
    assert body["collection_method"] == "send_invoice"
    assert body["pending_invoice_items_behavior"] == "exclude"
    assert (body["customer"], body["currency"], body["days_until_due"]) == ("cus_1", "usd", 14)


def test_memo_names_period_and_statement() -> None:
    invoice = make_invoice("acme")
    text = invoice_body(invoice, "cus_1", 14)["description"]
    assert "2026-10-01 00:00 to 2026-11-01 00:00 UTC" in text
    assert "Statement acme 2026-10" in text
    assert invoice.id in text
    assert len(text) <= 1_500


def test_metadata_carries_unbilled_tokens_by_meter() -> None:
    metadata = invoice_metadata(make_invoice())
    assert metadata["unbilled_output_text_tokens"] == "9876543"
    assert metadata["gpu_ns"] == "4210337000123"
    assert all(len(name) <= 40 and len(value) <= 500 for name, value in metadata.items())


def test_lines_carry_amount_meter_quantity_and_price() -> None:
    first = line_bodies(make_invoice())[0]
    assert first["amount"] == 3086
    assert first["metadata"]["meter"] == "input_uncached_tokens"
    assert first["metadata"]["quantity"] == "123456789"
    assert first["metadata"]["unit_price"] == "0.25 per 1000000"


def test_no_metadata_value_is_empty_because_stripe_drops_those() -> None:
    lines = line_bodies(make_invoice())
    assert all(value for body in lines for value in body["metadata"].values())


def test_first_line_is_added_last_because_stripe_shows_the_newest_first() -> None:
    bodies = line_bodies(make_invoice(models=30))
    calls = chunks(bodies)
    assert [len(call) for call in calls] == [LINES_A_CALL, 20]
    assert [body for call in calls for body in call] == list(reversed(bodies))


def test_more_lines_than_stripe_takes_are_held_before_anything_is_sent() -> None:
    with pytest.raises(InvoiceHeldError, match=f"252 lines and Stripe takes {MAX_LINES}"):
        line_bodies(make_invoice(models=63))


def test_lines_that_do_not_add_up_are_refused() -> None:
    invoice = make_invoice().model_copy(update={"total_minor": TOTAL_MINOR + 1})
    with pytest.raises(ConservationError, match=str(TOTAL_MINOR)):
        line_bodies(invoice)


def test_an_invoice_without_billed_usage_has_one_line_of_nothing() -> None:
    invoice = make_invoice().model_copy(update={"lines": (), "total_minor": 0})
    (only,) = line_bodies(invoice)
    assert (only["amount"], only["metadata"]["line_key"]) == (0, NO_USAGE_KEY)


def test_a_line_key_longer_than_stripe_takes_becomes_its_hash() -> None:
    assert line_key("k" * 500) == "k" * 500
    assert line_key("k" * 501).startswith("sha256:")
    assert line_key("k" * 501) != line_key("k" * 502)


def test_units_that_cost_different_amounts_have_no_single_unit_price() -> None:
    invoice = make_invoice()
    line = invoice.lines[0]
    rated = line.rated.model_copy(update={"numerator_e12": line.rated.numerator_e12 + 1})
    changed = invoice.model_copy(
        update={"lines": (line.model_copy(update={"rated": rated}), *invoice.lines[1:])}
    )
    assert line_bodies(changed)[0]["metadata"]["unit_price"] == "varies"


def test_missing_lines_are_found_by_key() -> None:
    invoice = make_invoice()
    bodies = line_bodies(invoice)
    there = as_stripe_has_it(invoice).lines
    assert missing_lines(bodies, there) == []
    assert missing_lines(bodies, there[1:]) == bodies[:1]


def test_the_same_charge_is_tenant_period_and_revision() -> None:
    metadata = invoice_metadata(make_invoice("acme"))
    assert same_charge(metadata, make_invoice("acme", models=2))
    assert not same_charge(metadata, make_invoice("other"))
    assert not same_charge(metadata, make_invoice("acme", revision=2))


def test_an_equal_draft_passes() -> None:
    invoice = make_invoice()
    found = as_stripe_has_it(invoice)
    check_invoice(invoice, "cus_1", found, found.lines)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"total_minor": 1}, "total is 1, ours is 4229"),
        ({"currency": "eur"}, "currency is 'eur'"),
        ({"customer": "cus_2"}, "customer is 'cus_2'"),
        ({"metadata": {}}, "metadata is {}"),
    ],
)
def test_a_draft_that_differs_is_held(change: dict[str, object], reason: str) -> None:
    invoice = make_invoice()
    found = replace(as_stripe_has_it(invoice), **change)  # type: ignore[arg-type]
    with pytest.raises(InvoiceHeldError, match=reason):
        check_invoice(invoice, "cus_1", found, found.lines)


def test_changed_missing_extra_and_doubled_lines_are_held() -> None:
    invoice = make_invoice()
    found = as_stripe_has_it(invoice)
    lines = found.lines
    moved = (replace(lines[0], amount_minor=lines[0].amount_minor + 1), *lines[1:])
    recounted = (replace(lines[0], metadata=lines[0].metadata | {"quantity": "1"}), *lines[1:])
    foreign = (*lines, replace(lines[0], metadata={}))
    for wrong in (moved, recounted, foreign, lines[1:], (*lines, lines[0])):
        with pytest.raises(InvoiceHeldError, match="is not ours"):
            check_invoice(invoice, "cus_1", found, wrong)


def test_only_the_first_differences_are_named() -> None:
    invoice = make_invoice(models=5)
    with pytest.raises(InvoiceHeldError, match=r"; 15 more$"):
        check_invoice(invoice, "cus_1", as_stripe_has_it(invoice), ())


def test_carried_correction_is_a_line_that_names_period_and_invoice() -> None:
    carried = CarriedCorrection(
        correction_id="c" * 64,
        period="2026-09",
        revision=2,
        invoice_id="d" * 64,
        amount_minor=45,
        description="Correction 2 of period 2026-09",
    )
    plain = make_invoice()
    invoice = carrying(plain, [carried])
    assert invoice.total_minor == TOTAL_MINOR + 45
    assert invoice.id != plain.id
    *usage, last = line_bodies(invoice)
    assert usage == line_bodies(plain)
    assert sum(body["amount"] for body in (*usage, last)) == invoice.total_minor
    assert last["metadata"] == {
        "line_key": f"correction:{'c' * 64}",
        "kind": "correction",
        "period": "2026-09",
        "revision": "2",
        "invoice_id": "d" * 64,
    }
    assert last["period"]["end"] == usage[0]["period"]["start"]
    check_invoice(invoice, "cus_1", as_stripe_has_it(invoice), as_stripe_has_it(invoice).lines)


def test_carried_corrections_count_among_the_lines_that_stripe_takes() -> None:
    carried = CarriedCorrection(
        correction_id="c" * 64,
        period="2026-09",
        revision=1,
        invoice_id="d" * 64,
        amount_minor=1,
        description="",
    )
    full = make_invoice(models=MAX_LINES // 4)
    room = MAX_LINES - len(full.lines)
    assert len(line_bodies(carrying(full, [carried] * room))) == MAX_LINES
    with pytest.raises(InvoiceHeldError, match=f"{MAX_LINES + 1} lines"):
        line_bodies(carrying(full, [carried] * (room + 1)))
