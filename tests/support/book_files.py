"""Price book files, written and read back: small ones, by parts."""

from pathlib import Path

import pytest

from billing.price_book_file import read_price_book
from schemas.errors import PriceBookError
from schemas.price_kinds import UnitPricing
from schemas.prices import Price, PriceBook

HEAD = """\
name: acme-2026
currency: USD
per: 1000000
tiers: {standard: "1", batch: "0.5"}
outcomes: {stop: billed, length: billed, client_gone: billed, abort: unbilled,
           error: unbilled, engine_death: unbilled, refused: unbilled}
products:
"""
PRODUCT = """\
  small:
    select: {model: llama-3.1-8b}
    prices:
      - {from: 2026-01-01, input: "0.06", output: "0.15"}
"""
FIRST = len(HEAD.splitlines()) + 1
"""The line on which the first product's name stands."""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "book.yaml"
    path.write_text(text)
    return path


def read(tmp_path: Path, text: str) -> PriceBook:
    return read_price_book(write(tmp_path, text)).book


def prices(tmp_path: Path, text: str) -> dict[str, Price]:
    return {price.id: price for price in read(tmp_path, text).prices}


def product(*entries: str, more: str = "") -> str:
    listed = "".join(f"      - {entry}\n" for entry in entries)
    return f"  small:\n    select: {{model: llama-3.1-8b}}\n{more}    prices:\n{listed}"


def refusal(tmp_path: Path, text: str) -> str:
    path = write(tmp_path, text)
    with pytest.raises(PriceBookError) as refused:
        read_price_book(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


def e12(price: Price) -> int:
    assert isinstance(price.pricing, UnitPricing)
    return price.pricing.unit_price_e12
