"""Price book files: the format that finance edits, and every fault named by file and line."""

from pathlib import Path

import pytest

from billing.price_book_file import EXAMPLE_PRICE_BOOK, read_price_book
from schemas.errors import PriceBookError
from schemas.price_kinds import GraduatedPricing
from schemas.usage import TOKEN_METERS
from tests.support.book_files import (
    FIRST,
    HEAD,
    PRODUCT,
    e12,
    prices,
    product,
    read,
    refusal,
    write,
)


def test_example_has_the_prices_of_every_model_and_tier() -> None:
    book = read_price_book(EXAMPLE_PRICE_BOOK).book
    by_id = {price.id: price for price in book.prices}
    assert len(book.prices) == 6 * 4 * 4 + 1
    start = "2026-01-01T00:00Z"
    for model, text, output in (
        ("llama-3.1-8b", 60, 150),
        ("llama-3.3-70b", 450, 900),
        ("llama-4-scout", 120, 400),
        ("llama-4-maverick", 250, 850),
        ("llama-3.1-405b", 2000, 4000),
    ):
        for tier, times in (("standard", 10), ("batch", 5), ("flex", 6), ("priority", 20)):
            given = by_id[f"{model}/{tier}/input_uncached_tokens/{start}"]
            assert e12(given) == text * times * 10**8
            for meter in ("output_text_tokens", "output_reasoning_tokens"):
                assert e12(by_id[f"{model}/{tier}/{meter}/{start}"]) == output * times * 10**8
    cached = by_id[f"llama-3.3-70b/flex/input_cache_read_tokens/{start}"]
    assert e12(cached) == 67_500_000_000
    assert not any(price.meter == "input_cache_write_tokens" for price in book.prices)
    assert "input_cache_write_tokens" in book.billed_meters


def test_moving_products_and_adding_comments_changes_no_hash(tmp_path: Path) -> None:
    other = PRODUCT.replace("small", "large").replace("llama-3.1-8b", "llama-3.3-70b")
    one = read(tmp_path, HEAD + PRODUCT + other)
    two = read(tmp_path, HEAD + "  # dear customers\n" + other + PRODUCT)
    assert one.sha256() == two.sha256()


def test_name_is_placed_for_errors_about_it(tmp_path: Path) -> None:
    path = write(tmp_path, "# first line\n" + HEAD + PRODUCT)
    assert read_price_book(path).name_at == f"{path}:2"


def test_billed_meters_default_to_all_token_meters(tmp_path: Path) -> None:
    assert read(tmp_path, HEAD + PRODUCT).billed_meters == TOKEN_METERS


def test_price_holds_until_the_next_one_starts(tmp_path: Path) -> None:
    found = prices(
        tmp_path,
        HEAD + product('{from: 2026-01-01, input: "1"}', '{from: 2026-02-01T13:00Z, input: "2"}'),
    )
    first = found["small/standard/input_uncached_tokens/2026-01-01T00:00Z"]
    second = found["small/standard/input_uncached_tokens/2026-02-01T13:00Z"]
    assert first.effective_until == second.effective_from == 1_769_950_800_000
    assert second.effective_until is None


def test_price_may_end(tmp_path: Path) -> None:
    entry = '{from: 2026-01-01, until: 2026-02-01, input: "1"}'
    (price, _) = read(tmp_path, HEAD + product(entry)).prices
    assert price.effective_until == 1_769_904_000_000


def test_reasoning_is_priced_as_output_unless_it_has_a_price(tmp_path: Path) -> None:
    key = "small/standard/output_reasoning_tokens/2026-01-01T00:00Z"
    assert e12(prices(tmp_path, HEAD + PRODUCT)[key]) == 150_000_000_000
    own = HEAD + product('{from: 2026-01-01, reasoning: "0.2", output: "0.15"}')
    assert e12(prices(tmp_path, own)[key]) == 200_000_000_000


def test_product_may_leave_out_tiers_or_have_none(tmp_path: Path) -> None:
    entry = '{from: 2026-01-01, input: "1"}'
    chosen = read(tmp_path, HEAD + product(entry, more="    tiers: [batch]\n")).prices
    assert [(price.select.service_tier, e12(price)) for price in chosen] == [("batch", 5 * 10**11)]
    (single,) = read(tmp_path, HEAD + product(entry, more="    tiers: any\n")).prices
    assert (single.select.service_tier, e12(single)) == (None, 10**12)


def test_book_without_tiers_prices_every_tier_alike(tmp_path: Path) -> None:
    head = HEAD.replace('tiers: {standard: "1", batch: "0.5"}\n', "")
    (price,) = read(tmp_path, head + product('{from: 2026-01-01, input: "1"}')).prices
    assert (price.select.service_tier, price.id) == (
        None,
        "small/input_uncached_tokens/2026-01-01T00:00Z",
    )


def test_gpu_hours_and_requests_are_priced_by_their_own_unit(tmp_path: Path) -> None:
    entry = '{from: 2026-01-01, gpu_hour: "3.99", request: "0.01"}'
    found = read(tmp_path, HEAD + product(entry, more="    tiers: any\n")).prices
    assert {price.meter: price.per for price in found} == {
        "gpu_ns": 3_600_000_000_000,
        "requests": 1,
    }


def test_per_of_the_product_goes_before_that_of_the_book(tmp_path: Path) -> None:
    more = "    per: 1_000\n"
    found = read(tmp_path, HEAD + product('{from: 2026-01-01, input: "1"}', more=more)).prices
    assert {price.per for price in found} == {1000}


def test_graduated_price_is_multiplied_step_by_step(tmp_path: Path) -> None:
    entry = (
        "{from: 2026-01-01, input: {kind: graduated,"
        ' steps: [{up_to: 1000, price: "0.3"}, {price: "0.1"}]}}'
    )
    found = prices(tmp_path, HEAD + product(entry))
    pricing = found["small/batch/input_uncached_tokens/2026-01-01T00:00Z"].pricing
    assert isinstance(pricing, GraduatedPricing)
    steps = [(step.up_to, step.unit_price_e12) for step in pricing.steps]
    assert steps == [(1000, 150_000_000_000), (None, 50_000_000_000)]


def test_steps_of_gpu_time_are_in_hours(tmp_path: Path) -> None:
    entry = (
        "{from: 2026-01-01, gpu_hour: {kind: graduated,"
        ' steps: [{up_to: 2, price: "3"}, {price: "2"}]}}'
    )
    (price,) = read(tmp_path, HEAD + product(entry, more="    tiers: any\n")).prices
    assert isinstance(price.pricing, GraduatedPricing)
    assert price.pricing.steps[0].up_to == 7_200_000_000_000


def test_unit_price_may_name_its_kind(tmp_path: Path) -> None:
    long = product('{from: 2026-01-01, input: {kind: unit, price: "0.06"}, output: "0.15"}')
    assert read(tmp_path, HEAD + long) == read(tmp_path, HEAD + PRODUCT)


WRONG_ENTRIES = {
    "float": ("{from: 2026-01-01, input: 0.06}", "money is written in quotes"),
    "whole number without quotes": ("{from: 2026-01-01, input: 2}", "money is written in quotes"),
    "exponent": ('{from: 2026-01-01, input: "6e-2"}', "plain decimal"),
    "negative": ('{from: 2026-01-01, input: "-1"}', "plain decimal"),
    "thirteen decimals": ('{from: 2026-01-01, input: "0.0000000000001"}', "at most 12 decimals"),
    "tier makes 13 decimals": (
        '{from: 2026-01-01, input: "0.000000000001"}',
        "0.000000000001 times 0.5 (tier batch) has more than 12 decimals",
    ),
    "unknown meter": ('{from: 2026-01-01, inputs: "1"}', "unknown meter 'inputs'"),
    "no meter": ("{from: 2026-01-01}", "names no meter"),
    "no date": ('{input: "1"}', "has no 'from'"),
    "key twice": ('{from: 2026-01-01, input: "1", input: "2"}', "has 'input' twice"),
    "half hour": ('{from: "2026-01-01T00:30Z", input: "1"}', "a whole UTC hour"),
    "another zone": ('{from: "2026-01-01T00:00+01:00", input: "1"}', "a whole UTC hour"),
    "no zone": ('{from: 2026-01-01T00:00, input: "1"}', "a whole UTC hour"),
    "no such day": ('{from: 2026-02-30, input: "1"}', "there is no such time"),
    "before 1970": ('{from: 1969-12-31, input: "1"}', "effective_from: "),
    "ends before it begins": (
        '{from: 2026-01-02, until: 2026-01-01, input: "1"}',
        "is not after effective_from",
    ),
    "kind left out": ('{from: 2026-01-01, input: {price: "1"}}', "has no 'kind'"),
    "unknown kind": ("{from: 2026-01-01, input: {kind: auction}}", "unknown kind 'auction'"),
    "hourly prices without their end": (
        '{from: 2026-01-01, input: {kind: hourly, prices: ["1", "2"]}}',
        "2 hourly prices",
    ),
    "hourly prices that are too few": (
        '{from: 2026-10-01, until: 2026-10-02, input: {kind: hourly, prices: ["1", "2"]}}',
        "2 hourly prices",
    ),
    "package of nothing": (
        '{from: 2026-01-01, input: {kind: package, size: 0, price: "1"}}',
        "size must be a whole number from 1 up",
    ),
    "margin that is not exact": (
        '{from: 2026-01-01, input: {kind: cost_plus, cost: "0.000000000001", margin: "0.5"}}',
        "(margin) has more than 12 decimals",
    ),
    "matrix by what the product fixes": (
        '{from: 2026-01-01, input: {kind: matrix, by: [model], prices: [[a, "1"]]}}',
        "by: each once, of tenant, project, adapter, gpu_type, region; not 'model'",
    ),
    "matrix row that is too short": (
        '{from: 2026-01-01, input: {kind: matrix, by: [region], prices: [["1"]]}}',
        "a row holds region and a price, 2 in all",
    ),
    "matrix in a matrix": (
        (
            "{from: 2026-01-01, input: {kind: matrix, by: [region],"
            ' prices: [[eu-1, {kind: matrix, by: [gpu_type], prices: [[a, "1"]]}]]}}'
        ),
        "a matrix cannot stand within a matrix",
    ),
    "steps do not rise": (
        (
            "{from: 2026-01-01, input: {kind: graduated,"
            ' steps: [{up_to: 2, price: "3"}, {up_to: 2, price: "2"}, {price: "1"}]}}'
        ),
        "up_to must rise",
    ),
    "steps do not end": (
        '{from: 2026-01-01, input: {kind: graduated, steps: [{up_to: 2, price: "3"}]}}',
        "the last step, and only it, has no up_to",
    ),
    "float in a step": (
        "{from: 2026-01-01, input: {kind: graduated, steps: [{price: 0.1}]}}",
        "money is written in quotes",
    ),
    "step up to half a token": (
        '{from: 2026-01-01, input: {kind: graduated, steps: [{up_to: 0.5, price: "1"}]}}',
        "a whole number from 1 up, not '0.5'",
    ),
    "no steps": ("{from: 2026-01-01, input: {kind: graduated, steps: []}}", "at least one entry"),
}


@pytest.mark.parametrize(("entry", "message"), WRONG_ENTRIES.values(), ids=WRONG_ENTRIES.keys())
def test_wrong_price_is_refused_with_its_line(tmp_path: Path, entry: str, message: str) -> None:
    found = refusal(tmp_path, HEAD + product(entry))
    assert found.startswith(f"{FIRST + 3}: ")
    assert message in found


def test_gap_between_prices_is_refused(tmp_path: Path) -> None:
    text = HEAD + product(
        '{from: 2026-01-01, until: 2026-02-01, input: "1"}', '{from: 2026-03-01, input: "2"}'
    )
    found = refusal(tmp_path, text)
    assert found.startswith(f"{FIRST + 4}: gap: input_uncached_tokens of model=llama-3.1-8b")
    assert "no price from 2026-02-01T00:00Z" in found
    assert f"book.yaml:{FIRST + 3} ends, to 2026-03-01T00:00Z" in found


def test_meter_that_is_left_out_for_a_while_is_a_gap(tmp_path: Path) -> None:
    text = HEAD + product(
        '{from: 2026-01-01, input: "1", cached: "1"}',
        '{from: 2026-02-01, input: "2"}',
        '{from: 2026-03-01, input: "3", cached: "3"}',
    )
    assert f"{FIRST + 5}: gap: input_cache_read_tokens" in refusal(tmp_path, text)


def test_overlap_in_one_product_is_refused(tmp_path: Path) -> None:
    text = HEAD + product(
        '{from: 2026-01-01, until: 2026-03-01, input: "1"}', '{from: 2026-02-01, input: "2"}'
    )
    found = refusal(tmp_path, text)
    assert found.startswith(f"{FIRST + 4}: overlap: ")
    assert "until 2026-03-01T00:00Z" in found


@pytest.mark.parametrize("start", ["2026-01-01", "2025-12-31"])
def test_prices_out_of_order_are_refused(tmp_path: Path, start: str) -> None:
    text = HEAD + product('{from: 2026-01-01, input: "1"}', f'{{from: {start}, input: "2"}}')
    assert refusal(tmp_path, text).startswith(f"{FIRST + 4}: overlap: ")


def test_two_products_may_not_compete_for_the_same_usage(tmp_path: Path) -> None:
    found = refusal(tmp_path, HEAD + PRODUCT + PRODUCT.replace("small", "again"))
    assert found.startswith(f"{FIRST + 7}: overlap: ")
    assert "without end" in found


def test_narrower_product_does_not_compete(tmp_path: Path) -> None:
    special = PRODUCT.replace("small", "special").replace(
        "{model: llama-3.1-8b}", "{model: llama-3.1-8b, tenant: acme}"
    )
    assert len(read(tmp_path, HEAD + PRODUCT + special).prices) == 12


BOOK = HEAD + PRODUCT
WRONG_BOOKS = {
    "empty": ("", "1: the file is empty"),
    "not YAML": (BOOK + "  }", f"{FIRST + 4}: not YAML"),
    "tab": ("name:\n\t- x", "2: not YAML"),
    "control character": ("name: \x00", "1: not YAML"),
    "two documents": (BOOK + "---\nname: x\n", f"{FIRST + 4}: not YAML"),
    "a list": ("- name: x", "1: the book must be a list of `key: value`"),
    "deep nesting": ("[" * 5_000, "1: nested deeper than 16 levels"),
    "alias": (BOOK.replace("name: acme-2026", "name: &n acme\ncurrency: *n"), "2: write it out"),
    "unknown key": (BOOK + "discount: 3\n", f"{FIRST + 4}: the book has unknown key 'discount'"),
    "key twice": (BOOK + "name: x\n", f"{FIRST + 4}: the book has 'name' twice, first in line 1"),
    "no currency": (BOOK.replace("currency: USD\n", ""), "1: the book has no 'currency'"),
    "no name": (BOOK.replace("name: acme-2026\n", ""), "1: the book has no 'name'"),
    "currency in small letters": (BOOK.replace("USD", "usd"), "2: currency: "),
    "name with a space": (BOOK.replace("acme-2026", "acme 2026"), "1: name: "),
    "name that is a number": (BOOK.replace("acme-2026", "2026"), "1: name must be text; write it"),
    "outcome missing": (BOOK.replace("stop: billed, ", ""), "5: outcomes has no 'stop'"),
    "outcome unknown": (BOOK.replace("stop:", "stopp:"), "5: outcomes has unknown key 'stopp'"),
    "outcome half billed": (
        BOOK.replace("refused: unbilled", "refused: maybe"),
        "6: outcome refused must be billed or unbilled, not 'maybe'",
    ),
    "outcome as truth value": (BOOK.replace("stop: billed", "stop: yes"), "5: outcome stop must"),
    "tier multiplier as float": (BOOK.replace('"0.5"', "0.5"), "4: tier batch: money"),
    "per of zero": (BOOK.replace("per: 1000000", "per: 0"), "3: per must be a whole number"),
    "per in quotes of words": (BOOK.replace("1000000", "million"), "3: per must be a whole number"),
    "products as list": (HEAD + "  - small\n", f"{FIRST}: products must be a list of"),
    "no products": (
        HEAD.replace("products:", "products: {}"),
        f"{FIRST - 1}: products: the book prices nothing",
    ),
    "unknown billed meter": (
        "billed_meters: [tokens]\n" + BOOK,
        "1: unknown meter 'tokens'; meters are ",
    ),
    "billed meter twice": (
        "billed_meters: [requests, requests]\n" + BOOK,
        "1: billed_meters has 'requests' twice",
    ),
    "product key unknown": (
        BOOK + "    discount: 3\n",
        f"{FIRST + 4}: product small has unknown key 'discount'",
    ),
    "product without select": (
        HEAD + '  small:\n    prices: [{from: 2026-01-01, input: "1"}]\n',
        f"{FIRST + 1}: product small has no 'select'",
    ),
    "product kind unknown": (
        BOOK + "    kind: commitment\n",
        f"{FIRST + 4}: product small: unknown kind 'commitment'",
    ),
    "selector unknown": (
        BOOK.replace("model:", "modell:"),
        f"{FIRST + 1}: select of product small has unknown key 'modell'",
    ),
    "hours of no day": (
        BOOK.replace("{model: llama-3.1-8b}", "{hours_of_week: [mon-fry 08-20]}"),
        f"{FIRST + 1}: hours_of_week: days and UTC hours such as mon-fri 08-20",
    ),
    "hours over midnight": (
        BOOK.replace("{model: llama-3.1-8b}", "{hours_of_week: [mon 22-06]}"),
        f"{FIRST + 1}: hours_of_week: days and UTC hours such as mon-fri 08-20",
    ),
    "tier in select": (
        BOOK.replace("{model: llama-3.1-8b}", "{service_tier: batch}"),
        f"{FIRST + 1}: product small: choose tiers with `tiers`",
    ),
    "model with a space": (BOOK.replace("llama-3.1-8b", "llama 8b"), f"{FIRST + 3}: select.model"),
    "unknown tier": (
        BOOK + "    tiers: [flex]\n",
        f"{FIRST + 4}: product small: unknown tier 'flex'; tiers are standard, batch",
    ),
    "tier twice": (BOOK + "    tiers: [batch, batch]\n", f"{FIRST + 4}: product small has tier"),
    "tiers as a word": (BOOK + "    tiers: all\n", f"{FIRST + 4}: tiers of product small must be"),
    "price as a list": (
        HEAD + product('{from: 2026-01-01, input: ["1"]}'),
        f"{FIRST + 3}: price must be a single value",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG_BOOKS.values(), ids=WRONG_BOOKS.keys())
def test_wrong_book_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PriceBookError, match=r"none\.yaml:1: cannot be read: No such file"):
        read_price_book(tmp_path / "none.yaml")


def test_text_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "book.yaml"
    path.write_bytes(b"name: x\n# prix en \xe9uros\n")
    with pytest.raises(PriceBookError, match=r"book\.yaml:2: not UTF-8"):
        read_price_book(path)


def test_file_without_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "book.yaml"
    path.write_bytes(b"#" * (8 * 1024 * 1024 + 1))
    with pytest.raises(PriceBookError, match="8388609 bytes is over the limit"):
        read_price_book(path)
