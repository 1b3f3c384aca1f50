"""Writes Arrow tables into the ledger under a token, and finds the rows a CHECK refuses."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from infra.clickhouse.client import ClickHouseError, Client, connect
from schemas.tables import Table
from streams.patience import NotNowError

_VIOLATED_CONSTRAINT = 469
_TOO_MANY_PARTS = 252
_TOO_MANY_PARTITIONS = "Too many partitions for single INSERT block"
"""Code 252 has two meanings; only this one says something about the rows."""


class RowsRefusedError(Exception):
    """ClickHouse refuses rows for what is in them; sending them again would change nothing."""


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """One row that the server refuses, by where its record lay, and the server's words."""

    offset: int
    detail: str


class ClickHouseSink:
    """Connections to one ledger; each thread that inserts has its own."""

    def __init__(self, url: str, database: str, *, answer_timeout_s: int = 60) -> None:
        """Connect when something is inserted.

        Args:
            url: Where ClickHouse answers.
            database: The ledger's.
            answer_timeout_s: After which an insert counts as failed, and is sent again.
        """
        self._url = url
        self._database = database
        self._answer_timeout_s = answer_timeout_s
        self._of_thread = threading.local()

    def insert(self, table: Table, rows: pa.Table, token: str) -> None:
        """Insert once; the same token and rows again change nothing.

        Raises:
            RowsRefusedError: If the server refuses the rows for their content.
            NotNowError: If it cannot be reached, or refuses for any other reason.
        """
        try:
            self._client().insert_arrow(
                table.name, rows, settings={"insert_deduplication_token": token}
            )
        except ClickHouseError as error:
            if _is_about_the_rows(error):
                raise RowsRefusedError(str(error)) from error
            raise NotNowError(str(error)) from error
        except OSError as error:
            raise NotNowError(str(error)) from error

    def ask(self) -> None:
        """See whether the server answers a query.

        Raises:
            NotNowError: If it does not.
        """
        try:
            self._client().command("SELECT 1")
        except (ClickHouseError, OSError) as error:
            raise NotNowError(str(error)) from error

    def _client(self) -> Client:
        client: Client | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = connect(self._url, self._database, answer_timeout_s=self._answer_timeout_s)
            self._of_thread.client = client
        return client


def insert_token(topic: str, partition: int, start: int, end: int, rows: pa.Table) -> str:
    """The deduplication token of rows: where they lay, and what they are.

    The digest keeps a token from ever covering other rows than it was made for, as it would
    after a topic was dropped and filled again: the server would silently skip the second insert.
    """
    column = "content_hash" if "content_hash" in rows.column_names else "content_sha256"
    digest = hashlib.sha256()
    for chunk in rows.column(column).chunks:
        digest.update(b"".join(chunk.cast(pa.binary()).to_pylist()))
    return f"{topic}/{partition}/{start}-{end}/{digest.hexdigest()[:32]}"


def insert_what_is_taken(insert: Callable[[pa.Table], None], rows: pa.Table) -> list[RefusedRow]:
    """Insert the rows, halving whatever the server refuses until the offenders stand alone.

    Args:
        insert: Inserts some of the rows, or raises `RowsRefusedError`.
        rows: At least one row.

    Returns:
        The rows that are refused by themselves; all others are in the ledger.
    """
    try:
        insert(rows)
    except RowsRefusedError as error:
        if len(rows) == 1:
            return [RefusedRow(rows.column("kafka_offset")[0].as_py(), str(error))]
        middle = len(rows) // 2
        return [
            *insert_what_is_taken(insert, rows.slice(0, middle)),
            *insert_what_is_taken(insert, rows.slice(middle)),
        ]
    return []


def _is_about_the_rows(error: ClickHouseError) -> bool:
    code = getattr(error, "code", None)
    return code == _VIOLATED_CONSTRAINT or (
        code == _TOO_MANY_PARTS and _TOO_MANY_PARTITIONS in str(error)
    )
