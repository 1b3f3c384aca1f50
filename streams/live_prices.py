"""The price book that live spend estimates by: the last imported one, looked for now and then."""

import logging

from sqlalchemy import Engine

from infra.store.price_books import newest_book, newest_sha256
from schemas.estimates import Estimator
from schemas.prices import PriceBook
from schemas.usage import OUTCOMES, TOKEN_METERS

log = logging.getLogger("rentroll.live")

NO_BOOK = PriceBook(
    name="none",
    currency="XXX",
    billed_meters=TOKEN_METERS,
    outcomes=dict.fromkeys(OUTCOMES, "billed"),
    prices=(),
)
"""Where none is imported: usage counts as unpriced, in the code of ISO 4217 for no currency."""


class LivePrices:
    """Whoever asks gets the book that was in force at the last look."""

    def __init__(self, store: Engine) -> None:
        self._store = store
        self._sha256: str | None = None
        self.estimator = Estimator(NO_BOOK)
        self.look()

    def look(self) -> None:
        """Take over a newer book.

        Raises:
            ContractError: If the store's book is not what was imported.
            sqlalchemy.exc.DBAPIError: If the store cannot be asked.
        """
        sha256 = newest_sha256(self._store)
        if sha256 == self._sha256:
            return
        book = newest_book(self._store)
        if book is not None:
            self.estimator = Estimator(book)
            self._sha256 = book.sha256()
            log.info("estimates by another price book", extra={"book": book.name})
