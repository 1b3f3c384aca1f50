"""The price book that is in force by default: the last imported, checked against its hash."""

from typing import Any

from sqlalchemy import Engine, Row, Select, select

from infra.store.tables import price_books
from schemas.errors import ContractError
from schemas.prices import PriceBook


def last_imported_first() -> Select[Any]:
    """All books, in the order in which they are looked through."""
    return select(price_books).order_by(
        price_books.c.imported_at_ms.desc(), price_books.c.name.desc()
    )


def book_of(row: Row[Any]) -> PriceBook:
    """The book of a row.

    Raises:
        ContractError: If what the store holds under a hash is not what was imported under it.
    """
    book = PriceBook.model_validate_json(row.body)
    if book.sha256() != row.sha256:
        raise ContractError(
            f"price book {row.name!r} was changed in the store: its content hashes to"
            f" {book.sha256()}, not to {row.sha256}"
        )
    return book


def newest_sha256(store: Engine) -> str | None:
    """Which book is in force, for whoever has read it already; None where none is imported."""
    with store.connect() as connection:
        query = last_imported_first().with_only_columns(price_books.c.sha256).limit(1)
        return connection.execute(query).scalar_one_or_none()


def newest_book(store: Engine) -> PriceBook | None:
    """The book in force; None where none is imported.

    Raises:
        ContractError: See `book_of`.
    """
    with store.connect() as connection:
        row = connection.execute(last_imported_first().limit(1)).one_or_none()
    return None if row is None else book_of(row)
