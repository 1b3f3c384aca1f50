"""Kinds of price as finance writes them: packages, included units, cost plus, matrix, hours."""

from pathlib import Path

import pytest

from schemas.price_kinds import HourlyPricing, PackagePricing
from tests.support.book_files import FIRST, HEAD, PRODUCT, e12, prices, product, read, refusal


def test_package_is_multiplied_by_its_tier_and_counts_gpu_time_in_hours(tmp_path: Path) -> None:
    entry = (
        '{from: 2026-01-01, input: {kind: package, size: 1000, price: "4"},'
        ' gpu_hour: {kind: package, size: 2, price: "5"}}'
    )
    found = prices(tmp_path, HEAD + product(entry))
    tokens = found["small/batch/input_uncached_tokens/2026-01-01T00:00Z"]
    assert (tokens.per, tokens.pricing) == (
        1,
        PackagePricing(kind="package", size=1000, package_price_e12=2 * 10**12),
    )
    hours = found["small/standard/gpu_ns/2026-01-01T00:00Z"].pricing
    assert isinstance(hours, PackagePricing)
    assert hours.size == 7_200_000_000_000


def test_included_units_are_a_first_step_at_nothing(tmp_path: Path) -> None:
    included = '{from: 2026-01-01, input: {kind: unit, price: "0.06", included: 10}}'
    written = (
        "{from: 2026-01-01, input: {kind: graduated,"
        ' steps: [{up_to: 10, price: "0"}, {price: "0.06"}]}}'
    )
    assert read(tmp_path, HEAD + product(included)) == read(tmp_path, HEAD + product(written))


def test_cost_plus_is_the_cost_and_its_margin_exactly(tmp_path: Path) -> None:
    entry = '{from: 2026-01-01, input: {kind: cost_plus, cost: "0.0000000004", margin: "0.25"}}'
    found = prices(tmp_path, HEAD + product(entry))
    assert e12(found["small/standard/input_uncached_tokens/2026-01-01T00:00Z"]) == 500


def test_matrix_makes_one_narrower_price_of_each_row(tmp_path: Path) -> None:
    matrix = (
        "{from: 2026-01-01, input: {kind: matrix, by: [gpu_type, region],"
        ' prices: [[H100, eu-1, "3"], [H100, us-1, {kind: unit, price: "2"}]], otherwise: "1"}}'
    )
    found = prices(tmp_path, HEAD + product(matrix, more="    tiers: [batch]\n"))
    assert {name: (price.select.fixed(), e12(price)) for name, price in found.items()} == {
        "small/batch/H100/eu-1/input_uncached_tokens/2026-01-01T00:00Z": (
            ("llama-3.1-8b", "batch", "H100", "eu-1"),
            15 * 10**11,
        ),
        "small/batch/H100/us-1/input_uncached_tokens/2026-01-01T00:00Z": (
            ("llama-3.1-8b", "batch", "H100", "us-1"),
            10**12,
        ),
        "small/batch/input_uncached_tokens/2026-01-01T00:00Z": (
            ("llama-3.1-8b", "batch"),
            5 * 10**11,
        ),
    }


def test_hourly_prices_fill_their_span(tmp_path: Path) -> None:
    entry = (
        '{from: 2026-10-01, until: 2026-10-01T02:00Z, input: {kind: hourly, prices: ["2", "0.5"]}}'
    )
    price = prices(tmp_path, HEAD + product(entry))[
        "small/batch/input_uncached_tokens/2026-10-01T00:00Z"
    ]
    assert price.pricing == HourlyPricing(kind="hourly", unit_prices_e12=(10**12, 25 * 10**10))


@pytest.mark.parametrize(
    ("written", "hours"),
    [
        ("[mon 00-01]", (0,)),
        ("[sun 23-24, mon 00-01]", (0, 167)),
        ("[sat-mon 00-02]", (0, 1, 120, 121, 144, 145)),
        ("[mon-sun 00-24]", tuple(range(168))),
    ],
)
def test_hours_of_the_week_count_from_monday(
    tmp_path: Path, written: str, hours: tuple[int, ...]
) -> None:
    text = PRODUCT.replace("{model: llama-3.1-8b}", f"{{hours_of_week: {written}}}")
    assert {price.select.hours_of_week for price in read(tmp_path, HEAD + text).prices} == {hours}


def week(name: str, hours: str, start: str = "2026-01-01") -> str:
    return (
        f"  {name}:\n    select: {{model: llama-3.1-8b, hours_of_week: [{hours}]}}\n"
        f'    prices:\n      - {{from: {start}, input: "1"}}\n'
    )


def test_prices_of_hours_that_do_not_meet_stand_side_by_side(tmp_path: Path) -> None:
    days = week("days", "mon-fri 08-20") + week("nights", "mon-fri 00-08, mon-fri 20-24")
    assert len(read(tmp_path, HEAD + days).prices) == 4


def test_prices_of_hours_that_meet_are_refused(tmp_path: Path) -> None:
    text = HEAD + week("days", "mon-fri 08-20") + week("evenings", "fri 19-24", "2026-05-01")
    assert refusal(tmp_path, text).startswith(
        f"{FIRST + 7}: overlap: input_uncached_tokens of model=llama-3.1-8b service_tier="
    )
