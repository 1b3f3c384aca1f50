"""Law 6: charges before credits + corrections = one-shot rating, after every revision."""

from hypothesis import given
from hypothesis import strategies as st

from billing.correcting import charged_so_far, correct, split_credit
from billing.invoicing import Proof, make_invoice
from billing.rating import rate
from schemas.billing import HourlyUsage, Invoice
from schemas.corrections import Correction
from schemas.prices import PriceBook
from tests.support.billing_examples import HOUR_MS, OCTOBER, START_MS, book_of, unit_price, usage
from tests.support.priced_books import any_books, rows

States = list[tuple[list[HourlyUsage], PriceBook]]
histories = st.lists(st.tuples(st.lists(rows, max_size=8), any_books()), min_size=2, max_size=4)
"""What was known of a period each time it was rated: usage came late, went, or was repriced."""


def one_shot(used: list[HourlyUsage], book: PriceBook) -> Invoice:
    return make_invoice(
        rate(used, book, OCTOBER), book, OCTOBER, tenant="acme", proof=Proof((), {})
    )


def by_line(invoice: Invoice) -> dict[str, int]:
    return {line.rated.key(): line.amount_minor for line in invoice.lines if line.amount_minor}


def corrected(history: States) -> tuple[Invoice, list[Correction]]:
    """The invoice of the first state, and the corrections that each later one led to."""
    invoice = one_shot(*history[0])
    corrections: list[Correction] = []
    for used, book in history[1:]:
        one = correct(invoice, corrections, one_shot(used, book))
        corrections += [one] if one else []
    return invoice, corrections


@given(histories)
def test_charges_and_corrections_are_the_one_shot_rating_after_every_revision(
    history: States,
) -> None:
    invoice, corrections = one_shot(*history[0]), list[Correction]()
    for used, book in history:
        final = one_shot(used, book)
        one = correct(invoice, corrections, final)
        corrections += [one] if one else []
        together = invoice.total_minor + sum(one.total_minor for one in corrections)
        assert together == final.total_minor
        charged = charged_so_far(invoice, corrections)
        assert {key: minor for key, minor in charged.minor.items() if minor} == by_line(final)
        assert charged.requests == final.requests
        assert [one.revision for one in corrections] == list(range(1, len(corrections) + 1))


@given(histories)
def test_the_same_data_again_makes_no_correction(history: States) -> None:
    invoice, corrections = corrected(history)
    assert correct(invoice, corrections, one_shot(*history[-1])) is None


@given(st.data(), histories)
def test_order_of_usage_changes_no_correction(data: st.DataObject, history: States) -> None:
    shuffled = [(data.draw(st.permutations(used)), book) for used, book in history]
    assert corrected(shuffled) == corrected(history)


@given(st.lists(rows, max_size=12), st.lists(rows, max_size=12), any_books())
def test_taking_late_usage_out_again_gives_back_what_it_cost(
    used: list[HourlyUsage], late: list[HourlyUsage], book: PriceBook
) -> None:
    _, corrections = corrected([(used, book), ([*used, *late], book), (used, book)])
    assert sum(one.total_minor for one in corrections) == 0


@given(
    st.integers(0, 10_000),
    st.dictionaries(st.text(max_size=3), st.integers(-50, 5_000), max_size=5),
)
def test_credit_is_shared_whole_and_nowhere_beyond_what_was_charged(
    credit_minor: int, creditable: dict[str, int]
) -> None:
    parts, left = split_credit(credit_minor, creditable)
    assert sum(parts.values()) + left == credit_minor
    assert all(0 < part <= creditable[name] for name, part in parts.items())
    assert left == max(0, credit_minor - sum(max(0, free) for free in creditable.values()))


def test_price_that_changes_in_mid_period_is_corrected_on_both_sides() -> None:
    change_ms = START_MS + 360 * HOUR_MS
    book = book_of(
        unit_price("before", "1", effective_until=change_ms),
        unit_price("after", "2", effective_from=change_ms),
    )
    used = [usage(10, quantities={"input_uncached_tokens": 1_000_000})]
    late = [usage(hour, quantities={"input_uncached_tokens": 1_000_000}) for hour in (359, 360)]
    _, (one,) = corrected([(used, book), ([*used, *late], book)])
    assert [(line.rated.price_id, line.amount_minor) for line in one.lines] == [
        ("after", 200),
        ("before", 100),
    ]
