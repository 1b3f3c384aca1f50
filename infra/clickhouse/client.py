"""The one way to a ClickHouse client: settings that decide about money are set here, by name."""

from collections.abc import Iterable, Sequence
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from clickhouse_connect.driver.external import ExternalData

__all__ = ["SERVER_SETTINGS", "ClickHouseError", "Client", "ExternalData", "connect", "external"]

# Defaults of these drift between server versions, so none is left to its default.
SERVER_SETTINGS = {
    "async_insert": 0,
    "wait_end_of_query": 1,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 0,
    "query_plan_optimize_lazy_final": 0,
    "do_not_merge_across_partitions_select_final": 1,
    "apply_row_policy_after_final": 1,
}


def connect(url: str, database: str | None = None, *, answer_timeout_s: int = 300) -> Client:
    """A client for `http[s]://[user:password@]host:port[/database]`.

    Args:
        url: Where the server answers.
        database: Overrides the URL's path.
        answer_timeout_s: After which a silent server counts as away.
    """
    parts = urlsplit(url)
    return clickhouse_connect.get_client(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or (8443 if parts.scheme == "https" else 8123),
        username=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        secure=parts.scheme == "https",
        database=database or parts.path.strip("/") or "default",
        settings=SERVER_SETTINGS,
        send_receive_timeout=answer_timeout_s,
        tz_mode="aware",
        autogenerate_session_id=False,
    )


def external(**tables: tuple[str, Iterable[Sequence[object]]]) -> ExternalData:
    """Small tables that travel with one query and are gone after it.

    Args:
        tables: Name to its structure, such as `source UUID, last UInt32`, and its rows. Values
            are plain: numbers, ids, hex digits; nothing that TSV would have to escape.
    """
    together = ExternalData()
    for name, (structure, rows) in tables.items():
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        together.add_file(file_name=name, data=text.encode(), fmt="TSV", structure=structure)
    return together
