"""A store with a price book in it, for every test of live spend."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from billing.price_book_file import BookFile
from billing.price_books import import_book
from infra.store.engine import open_store
from tests.support.spend_examples import SPEND_BOOK


@pytest.fixture
def priced_store(store_url: str) -> Iterator[Engine]:
    """Migrated, with `SPEND_BOOK` in force."""
    store = open_store(store_url)
    import_book(store, BookFile(SPEND_BOOK, "test"), imported_by="ada", now_ms=1)
    yield store
    store.dispose()
