"""One ClickHouse server as a local process: the real server, out of the `chdb-core` wheel.

`python -m infra.clickhouse.local --data DIR --http-port N` runs it in the foreground.

The wheel holds clickhouse-local, which can listen (`SYSTEM START LISTEN HTTP`) and serves for as
long as a query of it runs. That query reads a FIFO that this process holds open: closing it ends
the query, and with it the server, cleanly.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from xml.sax.saxutils import escape

from infra.addresses import answers_http
from infra.local_server import LocalServer
from infra.ports import LOOPBACK
from infra.stop_request import StopRequest

CHECK_S = 0.1
FIFO = "alive.fifo"
OPEN_FILES = Path("/proc/self/fd")
"""On Linux; where it is not there, a stop just takes longer."""

CONFIG = """\
<clickhouse>
  <logger>
    <level>warning</level>
    <log>{data}/server.log</log>
    <errorlog>{data}/server.err.log</errorlog>
    <size>20M</size>
    <count>2</count>
  </logger>
  <http_port>{http_port}</http_port>
  <listen_host>127.0.0.1</listen_host>
  <users_config>{data}/users.xml</users_config>
  <max_server_memory_usage_to_ram_ratio>0.6</max_server_memory_usage_to_ram_ratio>
  <mark_cache_size>268435456</mark_cache_size>
  <backups><allowed_path>{data}/backups/</allowed_path></backups>
</clickhouse>
"""
USERS = """\
<clickhouse>
  <profiles><default/></profiles>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </default>
  </users>
  <quotas><default/></quotas>
</clickhouse>
"""

SERVE_UNTIL_FIFO_CLOSES = """\
SYSTEM START LISTEN HTTP;
SELECT count() FROM file('alive.fifo', 'LineAsString', 's String')
SETTINGS storage_file_read_method = 'read', max_threads = 1 FORMAT Null"""


@dataclass(frozen=True, slots=True)
class LocalClickHouse:
    """One server: its folder, which it locks, and its port on 127.0.0.1."""

    data: Path
    http_port: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{LOOPBACK}:{self.http_port}"

    def server(self, log: Path) -> LocalServer:
        """This server as a process that a stack or a test runs; `log` takes what it prints."""
        command = (sys.executable, "-P", "-m", "infra.clickhouse.local", "--data", str(self.data))
        return LocalServer(
            name="clickhouse",
            address=self.url,
            command=(*command, "--http-port", str(self.http_port)),
            log=log,
            own_log=self.data / "server.err.log",
            probe=lambda: answers_ping(self.url),
        )

    def write_files(self) -> Path:
        """Write what the server reads; returns the FIFO that keeps it alive."""
        data = self.data.resolve()
        data.mkdir(parents=True, exist_ok=True)
        config = CONFIG.format(data=escape(str(data)), http_port=self.http_port)
        (data / "config.xml").write_text(config)
        (data / "users.xml").write_text(USERS)
        fifo = data / FIFO
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        return fifo

    def serve(self, *, until_stdin_closes: bool = False) -> int:
        """Serve until SIGTERM or SIGINT, or the end of standard input where asked.

        Returns:
            Exit status: 0 after a stop that was asked for, 1 where the server ended by itself.
        """
        # Before the change of folder: the import opens a connection of its own, which would read
        # our config.xml and take the lock of the data folder.
        from chdb import _chdb

        run_sql: Callable[..., object] = vars(_chdb)["query"]  # a C function that has no stub
        data = self.data.resolve()
        fifo = self.write_files()
        os.chdir(data)  # the server reads ./config.xml, and the query ./alive.fifo
        # Read and write, so that opening does not wait for the other side.
        alive = os.open(fifo, os.O_RDWR)
        asked_to_stop, ended = StopRequest(), threading.Event()

        def run_query() -> None:
            run_sql(SERVE_UNTIL_FIFO_CLOSES, "TabSeparated", path=str(data / "store"))
            ended.set()

        _on_request(asked_to_stop, until_stdin_closes=until_stdin_closes)
        query = threading.Thread(target=run_query, name="clickhouse", daemon=True)
        query.start()
        while not (asked_to_stop.is_set() or ended.is_set()):
            # Signal handlers run between two of these waits.
            asked_to_stop.wait(CHECK_S)
        os.close(alive)
        while query.is_alive():
            end_of_fifo(fifo)
            _hang_up(self.http_port)
            query.join(CHECK_S)
        # An error is not in the query's result: the server prints it and the query just ends.
        return 0 if asked_to_stop.is_set() else 1


def _on_request(asked_to_stop: StopRequest, *, until_stdin_closes: bool) -> None:
    """Set the event on SIGTERM, SIGINT and, where asked, the end of standard input."""
    asked_to_stop.on((signal.SIGTERM, signal.SIGINT))

    def read_to_the_end() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        asked_to_stop.set()

    if until_stdin_closes:
        threading.Thread(target=read_to_the_end, name="stdin", daemon=True).start()


def end_of_fifo(fifo: Path) -> None:
    """Let whoever waits to open the FIFO for reading find its end; nothing where nobody does.

    The server listens before its query opens the FIFO: who comes after the last writer has gone
    would wait for another one for ever.
    """
    with suppress(OSError):
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))


def _hang_up(port: int) -> None:
    """Shut this process's own connections on `port`: an idle one delays the stop by 5 s."""
    if not OPEN_FILES.is_dir():
        return
    for entry in OPEN_FILES.iterdir():
        # A file may be closed by the server between two of these lines.
        with suppress(OSError):
            if entry.readlink().name.startswith("socket:"):
                _hang_up_one(int(entry.name), port)


def _hang_up_one(descriptor: int, port: int) -> None:
    """Shut one socket down where it is a connection, not the listener, on `port`."""
    with socket.socket(fileno=os.dup(descriptor)) as ours:
        if ours.family == socket.AF_INET and ours.getsockname()[1] == port:
            ours.getpeername()  # raises on the listener: shutting that aborts the server
            ours.shutdown(socket.SHUT_RDWR)


def answers_ping(url: str) -> bool:
    """Whether a ClickHouse answers at `http[s]://[user:password@]host:port[/database]`."""
    return answers_http(urlunsplit(urlsplit(url)._replace(path="/ping", query="", fragment="")))


def main() -> None:
    """Run a server in the foreground."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="its folder, locked while it runs")
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="stop when standard input ends"
    )
    given = parser.parse_args()
    server = LocalClickHouse(given.data, given.http_port)
    sys.exit(server.serve(until_stdin_closes=given.until_stdin_closes))


if __name__ == "__main__":
    main()
