"""The HTTP door of the stand-in, on 127.0.0.1 only."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from infra.stripe_fake.forms import read_form
from infra.stripe_fake.refusal import RefusalError, error_body
from infra.stripe_fake.service import Answer, Service, read_request
from infra.stripe_fake.state import State

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
        if (self.command, name) == ("POST", "faults"):
            try:
                service.faults.plant(wanted)
            except (RefusalError, KeyError, ValueError) as error:
                return Answer(400, error_body(str(error)))
        elif (self.command, name) == ("DELETE", "faults"):
            service.faults.clear()
        elif (self.command, name) == ("POST", "clock"):
            with self.server.state.transaction():
                self.server.state.advance(int(wanted["advance_s"]))
        elif (self.command, name) == ("GET", "exchanges"):
            part = str(wanted.get("path", ""))
            return Answer(
                200, {"exchanges": [one for one in service.exchanges if part in one["path"]]}
            )
        else:
            return Answer(404, error_body(f"no such control: {name}"))
        return Answer(200, {})

    def _write(self, answer: Answer) -> None:
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _break(self) -> None:
        """Break the connection as a lost network does: no answer, not even half of one."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
