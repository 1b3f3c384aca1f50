"""A real ClickHouse server for tests: by URL, in a container, or as a local process."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.clickhouse.local import LocalClickHouse
from infra.ports import choose_port
from tests.support.servers.away_and_back import AwayAndBack
from tests.support.servers.engine import container_engine_answers

IMAGE = "clickhouse/clickhouse-server:26.9"


@contextmanager
def clickhouse() -> Iterator[str]:
    """`http://…` of a server that is empty unless its URL came from outside."""
    given = os.environ.get("RENTROLL_TEST_CLICKHOUSE_URL")
    if given:
        yield given
    elif container_engine_answers():
        with _in_a_container() as url:
            yield url
    else:
        with (
            tempfile.TemporaryDirectory(prefix="rentroll-clickhouse-") as folder,
            local_clickhouse(Path(folder)) as server,
        ):
            yield server.url


@contextmanager
def local_clickhouse(folder: Path) -> Iterator[LocalClickHouse]:
    """A server as a local process with its data in `folder`."""
    clickhouse = LocalClickHouse(folder, choose_port(str(folder)))
    with AwayAndBack(clickhouse.server(log=folder / "printed.log")):
        yield clickhouse


class ClickHouseAwayAndBack(AwayAndBack):
    """A server with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        clickhouse = LocalClickHouse(folder, choose_port(str(folder)))
        self.url = clickhouse.url
        super().__init__(clickhouse.server(log=folder / "printed.log"))


@contextmanager
def _in_a_container() -> Iterator[str]:
    from testcontainers.clickhouse import ClickHouseContainer

    with ClickHouseContainer(IMAGE, username="default", password="test") as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(8123)
        yield f"http://default:test@{host}:{port}"
