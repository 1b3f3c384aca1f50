"""Price books in the billing store: imported once, never changed, found by name or hash."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row, insert, select

from billing.price_book_file import BookFile
from infra.store.price_books import book_of, last_imported_first
from infra.store.tables import price_books
from schemas.errors import ContractError, PriceBookError
from schemas.prices import PriceBook

HASH_PREFIX_MIN = 6
"""Fewer hex digits than this are not taken for the beginning of a hash."""


@dataclass(frozen=True, slots=True)
class ImportedBook:
    """An imported book as a list shows it."""

    name: str
    sha256: str
    imported_by: str
    imported_at_ms: int


def import_book(store: Engine, file: BookFile, *, imported_by: str, now_ms: int) -> ImportedBook:
    """Put a book into the store; the same book again changes nothing.

    Raises:
        PriceBookError: If another book was imported under this name.
    """
    book = file.book
    sha256 = book.sha256()
    with store.begin() as connection:
        known = connection.execute(
            select(price_books).where(price_books.c.name == book.name)
        ).one_or_none()
        if known is None:
            values = {
                "sha256": sha256,
                "name": book.name,
                "body": book.canonical_json(),
                "imported_by": imported_by,
                "imported_at_ms": now_ms,
            }
            connection.execute(insert(price_books).values(values))
            return ImportedBook(book.name, sha256, imported_by, now_ms)
    if known.sha256 != sha256:
        raise PriceBookError(
            f"{file.name_at}: book {book.name!r} was imported with other content"
            f" ({known.sha256[:12]}, this is {sha256[:12]}); an imported book never changes: give"
            " this one another name"
        )
    return _listed(known)


def list_books(store: Engine) -> list[ImportedBook]:
    """All imported books, the last imported first; the first is the one used by default."""
    with store.connect() as connection:
        return [_listed(row) for row in connection.execute(last_imported_first())]


def load_book(store: Engine, wanted: str | None = None) -> PriceBook:
    """A book by its name or the beginning of its hash; without either, the last imported.

    Raises:
        ContractError: If there is no such book, the prefix fits several, or what the store holds
            under a hash is not what was imported under it.
    """
    query = last_imported_first()
    if wanted is not None:
        named = price_books.c.name == wanted
        is_prefix = len(wanted) >= HASH_PREFIX_MIN and set(wanted) <= set("0123456789abcdef")
        query = query.where(named | price_books.c.sha256.startswith(wanted) if is_prefix else named)
    with store.connect() as connection:
        rows = connection.execute(query).all()
    exact = [row for row in rows if wanted in (row.name, row.sha256)]
    if wanted is not None and len(rows) > 1 and not exact:
        names = ", ".join(f"{row.name} ({row.sha256[:12]})" for row in rows)
        raise ContractError(f"{wanted!r} fits several price books: {names}")
    if not rows:
        which = "no price book is imported" if wanted is None else f"no price book {wanted!r}"
        raise ContractError(f"{which}; `rentroll prices list` shows what there is")
    row = (exact or rows)[0]
    return book_of(row)


def _listed(row: Row[Any]) -> ImportedBook:
    return ImportedBook(row.name, row.sha256, row.imported_by, row.imported_at_ms)
