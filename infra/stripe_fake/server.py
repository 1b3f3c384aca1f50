"""The HTTP door of the stand-in, on 127.0.0.1 only."""

import json
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from infra.stripe_fake.forms import read_form
from infra.stripe_fake.invoices import fail_payment
from infra.stripe_fake.refusal import RefusalError, error_body
from infra.stripe_fake.service import Answer, Service, read_request
from infra.stripe_fake.state import Body, State
from infra.stripe_fake.webhooks import Courier, Manner

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 4 * 1024 * 1024
_CONTROL = "/_control/"


class StandInServer(ThreadingHTTPServer):
    """Serves one `Service`; its address is `http://127.0.0.1:<port>`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, state: State, *, faults: bool) -> None:
        super().__init__((LOOPBACK, port), Door)
        self.state = state
        self.service = Service(state, faults=faults)
        self.courier = Courier(state)
        self.courier.start()

    def server_close(self) -> None:
        """Close the socket, and end what is delivered."""
        super().server_close()
        self.courier.stop()


class Door(BaseHTTPRequestHandler):
    """Turns HTTP into `Request` and `Answer` back into HTTP."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StandInServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, *_: Any) -> None:
        """Say nothing per request; the stack's log is for starts and failures."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            self._write(Answer(413, error_body(f"body over {MAX_BODY_BYTES} bytes")))
            return
        payload = self.rfile.read(length) if length else b""
        if self.path == "/healthz":
            self._write(Answer(200, {"status": "ok"}))
        elif self.path.startswith(_CONTROL):
            self._write(self._control(self.path.removeprefix(_CONTROL), payload))
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = self.server.service.answer(
                read_request(self.command, self.path, headers, payload)
            )
            if answer is None:
                self._break()
            else:
                self._write(answer)

    def _control(self, name: str, payload: bytes) -> Answer:
        """What tests use, and only where the server was started with `--faults`."""
        service = self.server.service
        if service.faults is None:
            return Answer(404, error_body("started without --faults"))
        name, _, query = name.partition("?")
        wanted = read_form(query or payload.decode())
        control = _CONTROLS.get((self.command, name))
        if control is None:
            return Answer(404, error_body(f"no such control: {name}"))
        try:
            return Answer(200, control(self.server, wanted))
        except (RefusalError, KeyError, ValueError) as error:
            return Answer(400, error_body(str(error)))

    def _write(self, answer: Answer) -> None:
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            # It waited no longer, as a test of time-outs wants it.
            self.close_connection = True

    def _break(self) -> None:
        """Break the connection as a lost network does: no answer, not even half of one."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _plant(server: StandInServer, wanted: Body) -> Body:
    if server.service.faults is not None:
        server.service.faults.plant(wanted)
    return {}


def _clear(server: StandInServer, _wanted: Body) -> Body:
    if server.service.faults is not None:
        server.service.faults.clear()
    return {}


def _advance(server: StandInServer, wanted: Body) -> Body:
    with server.state.transaction():
        server.state.advance(int(wanted["advance_s"]))
    return {}


def _exchanges(server: StandInServer, wanted: Body) -> Body:
    part = str(wanted.get("path", ""))
    return {"exchanges": [one for one in server.service.exchanges if part in one["path"]]}


def _register(server: StandInServer, wanted: Body) -> Body:
    server.courier.register(str(wanted["url"]), str(wanted["secret"]))
    return {}


def _set_manner(server: StandInServer, wanted: Body) -> Body:
    server.courier.manner = Manner(**{name: int(value) for name, value in wanted.items()})
    return {}


def _fail_payment(server: StandInServer, wanted: Body) -> Body:
    with server.state.transaction():
        invoice = server.state.get("invoice", str(wanted["invoice"]))
        return fail_payment(server.state, invoice)


_CONTROLS: dict[tuple[str, str], Callable[[StandInServer, Body], Body]] = {
    ("POST", "faults"): _plant,
    ("DELETE", "faults"): _clear,
    ("POST", "clock"): _advance,
    ("GET", "exchanges"): _exchanges,
    ("POST", "webhooks"): _register,
    ("POST", "manner"): _set_manner,
    ("GET", "deliveries"): lambda server, _: {"deliveries": server.courier.deliveries},
    ("POST", "fail_payment"): _fail_payment,
}
"""What tests may do to the stand-in, by method and name."""
