"""Answers `/metrics`, `/healthz` and `/readyz` on a port of 127.0.0.1, beside the work."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from infra.ports import LOOPBACK
from schemas.errors import PortBusyError

TEXT = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_TIMEOUT_S = 10
OK, NOT_FOUND, UNAVAILABLE = 200, 404, 503


@dataclass(frozen=True, slots=True)
class Told:
    """What a process says of itself, each asked anew for each request, from other threads.

    `unhealthy` and `unready` name what is wrong, in words; both empty where all is well. A process
    that is not healthy should be started again; one that is not ready waits for something.
    """

    metrics: Callable[[], str]
    unhealthy: Callable[[], list[str]]
    unready: Callable[[], list[str]]


@contextmanager
def answering(port: int, told: Told) -> Iterator[int]:
    """Answer while the block runs; yields the port, which is chosen freely where it is 0.

    Raises:
        PortBusyError: If the port belongs to another process.
    """

    class Handler(_Handler):
        tells = told

    try:
        server = _Server((LOOPBACK, port), Handler)
    except OSError as error:
        raise PortBusyError(f"metrics on {LOOPBACK}:{port}: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class _Handler(BaseHTTPRequestHandler):
    tells: Told
    timeout = REQUEST_TIMEOUT_S
    """A client that connects and says nothing holds a thread no longer."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(OK, TEXT, self.tells.metrics())
        elif path == "/healthz":
            self._verdict(self.tells.unhealthy())
        elif path == "/readyz":
            self._verdict(self.tells.unready())
        else:
            self._answer(NOT_FOUND, "text/plain", "there are /metrics, /healthz and /readyz\n")

    def _verdict(self, wrong: list[str]) -> None:
        text = json.dumps({"ok": not wrong, "wrong": wrong}) + "\n"
        self._answer(UNAVAILABLE if wrong else OK, "application/json", text)

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing of each scrape."""
