"""Price books in the store: imported once, never changed, found by name or hash."""

import pytest
from sqlalchemy import Engine, insert
from sqlalchemy.exc import DatabaseError

from billing.price_book_file import BookFile
from billing.price_books import import_book, list_books, load_book
from infra.store.tables import price_books
from schemas.errors import ContractError, PriceBookError
from schemas.prices import PriceBook
from tests.support.billing_examples import book_of, unit_price


def imported(store: Engine, book: PriceBook, now_ms: int = 1) -> str:
    file = BookFile(book, "book.yaml:3")
    return import_book(store, file, imported_by="ann", now_ms=now_ms).sha256


OLD = book_of(unit_price("p", "1"), name="old")
NEW = book_of(unit_price("p", "2"), name="new")


def test_imported_book_reads_back_the_same(store: Engine) -> None:
    sha256 = imported(store, OLD)
    assert sha256 == OLD.sha256()
    assert (
        load_book(store, "old") == load_book(store, sha256) == load_book(store, sha256[:8]) == OLD
    )


def test_same_book_again_changes_nothing(store: Engine) -> None:
    imported(store, OLD, now_ms=1)
    imported(store, OLD, now_ms=2)
    (listed,) = list_books(store)
    assert (listed.name, listed.imported_by, listed.imported_at_ms) == ("old", "ann", 1)


def test_same_name_with_other_content_is_refused(store: Engine) -> None:
    imported(store, OLD)
    changed = OLD.model_copy(update={"prices": NEW.prices})
    with pytest.raises(PriceBookError, match=r"^book\.yaml:3: book 'old' was imported with other"):
        imported(store, changed)
    assert load_book(store, "old") == OLD


def test_last_imported_book_is_the_default_and_listed_first(store: Engine) -> None:
    imported(store, NEW, now_ms=5)
    imported(store, OLD, now_ms=9)
    assert load_book(store) == OLD
    assert [listed.name for listed in list_books(store)] == ["old", "new"]


def test_book_that_is_not_there_is_named(store: Engine) -> None:
    with pytest.raises(ContractError, match="no price book is imported"):
        load_book(store)
    imported(store, OLD)
    with pytest.raises(ContractError, match="no price book 'older'"):
        load_book(store, "older")


def test_hash_prefix_that_is_too_short_is_no_hash(store: Engine) -> None:
    sha256 = imported(store, OLD)
    with pytest.raises(ContractError, match="no price book"):
        load_book(store, sha256[:5])


def test_name_goes_before_a_hash_that_begins_like_it(store: Engine) -> None:
    sha256 = imported(store, OLD)
    named_like_it = book_of(unit_price("p", "3"), name=sha256[:8])
    imported(store, named_like_it)
    assert load_book(store, sha256[:8]) == named_like_it
    assert load_book(store, sha256) == OLD
    with pytest.raises(ContractError, match=r"no price book"):
        load_book(store, "0" * 64)


def test_prefix_that_fits_two_books_is_refused(store: Engine) -> None:
    with store.begin() as connection:
        for name in ("a", "b"):
            connection.execute(
                insert(price_books).values(
                    sha256="abcdef" + name * 58, name=name, body="{}", imported_by="x",
                    imported_at_ms=0,
                )
            )  # fmt: skip
    with pytest.raises(ContractError, match=r"fits several price books: b \(abcdefbbbbbb\), a"):
        load_book(store, "abcdef")


def test_book_whose_content_is_not_what_its_hash_says_is_refused(store: Engine) -> None:
    with store.begin() as connection:
        connection.execute(
            insert(price_books).values(
                sha256=NEW.sha256(), name="new", body=OLD.canonical_json(), imported_by="x",
                imported_at_ms=0,
            )
        )  # fmt: skip
    with pytest.raises(ContractError, match="price book 'new' was changed in the store"):
        load_book(store, "new")


def test_store_itself_refuses_to_change_an_imported_book(store: Engine) -> None:
    imported(store, OLD)
    with pytest.raises(DatabaseError, match="append-only"), store.begin() as connection:
        connection.execute(price_books.update().values(body="{}"))
