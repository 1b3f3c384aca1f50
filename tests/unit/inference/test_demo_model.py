"""The demo's model is named by what it is made from, and used as it is once it is there."""

from pathlib import Path

from billing.price_book_file import EXAMPLE_PRICE_BOOK, read_price_book
from inference.demo_model import MODEL_NAME, ensure_model, model_folder
from inference.settings import InferenceSettings


def test_the_model_lies_in_the_users_cache_under_a_name_of_its_own(tmp_path: Path) -> None:
    folder = model_folder(InferenceSettings(cache_folder=tmp_path))
    assert folder.parent == tmp_path
    assert folder.name.startswith(f"{MODEL_NAME}-")


def test_a_model_that_is_there_is_neither_fetched_nor_converted(tmp_path: Path) -> None:
    settings = InferenceSettings(cache_folder=tmp_path)
    model_folder(settings).mkdir()
    said: list[str] = []
    assert ensure_model(settings, tmp_path / "no engine", said.append) == model_folder(settings)
    assert said == []


def test_the_example_price_book_prices_the_model_that_the_demo_serves() -> None:
    book = read_price_book(EXAMPLE_PRICE_BOOK).book
    priced = {price.meter for price in book.prices if price.select.model == MODEL_NAME}
    assert {"input_uncached_tokens", "input_cache_read_tokens", "output_text_tokens"} <= priced
