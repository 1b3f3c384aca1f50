"""The door as ASGI middleware: it lets requests in and counts what goes out.

`vllm serve MODEL --middleware inference.middleware.RentrollMiddleware` puts it in front. Plain
ASGI 3, no framework: per chunk of a stream it is one function call. It must be the outermost
middleware, as vLLM makes it, so that nothing answers before it.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

from inference.door import DOOR_METRICS, Refusal, path_below_root
from inference.door_delivery import CURRENT, Delivery, Ending
from inference.door_records import carried
from inference.doorkeeper import Admitted, Doorkeeper, TurnedAway, Visit, open_door
from inference.problem import problem_body, problem_headers
from inference.settings import InferenceSettings
from schemas.clock import SystemClock
from schemas.errors import SettingsError
from schemas.units import MS_PER_S

if TYPE_CHECKING:
    from inference.door_admission import AdmissionGate
    from inference.door_spans import DoorSpan, DoorSpans

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

POLICY_VIOLATION = 1008
"""Close code of a websocket that is refused (RFC 6455); before the handshake it becomes a 403."""
_PASSED_ON = frozenset(
    {
        *(b"host", b"accept", b"accept-encoding", b"accept-language", b"content-type", b"origin"),
        *(b"user-agent", b"referer", b"traceparent", b"tracestate", b"forwarded"),
        *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
    }
)
"""No other header of a metered request gets through: vLLM reads an id, a session, a priority that
beats the body's, and a data-parallel rank from headers, and its next version may read more."""
_TOO_LONG = Refusal(413, "body-too-long", "The body is too long", "send less in one request")
_TOO_SLOW = Refusal(408, "body-too-slow", "The body took too long", "send it again")


class _Head(NamedTuple):
    """What the door reads of the headers, and those that it passes on."""

    authorization: list[bytes]
    client_request_id: bytes
    content_length: bytes
    passed_on: list[Header]


class RentrollMiddleware:
    """Lets requests in, and writes down each of them once it opens and once it closes."""

    def __init__(self, app: App, door: Doorkeeper | None = None) -> None:
        self._app = app
        if door is None:
            door = _open_in_vllm()
        self._door = door
        self._spans = _open_spans() if door.settings.door_spans else None
        self._gate = _open_gate(door.settings)
        self._marks: asyncio.Task[None] | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection of any kind; kinds that ASGI may grow later are not served."""
        if self._marks is None:
            self._marks = asyncio.get_running_loop().create_task(self._mark_often())
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._app(scope, receive, self._stopping(send))
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        path = path_below_root(scope["path"], scope.get("root_path", ""))
        head = _read_head(scope["headers"])
        visit = self._door.enter(scope["method"], path, head.authorization, head.client_request_id)
        if isinstance(visit, TurnedAway):
            await _refuse(send, visit)
        elif visit.kind == "metered":
            await self._metered(scope, receive, send, visit, head)
        elif visit.endpoint == DOOR_METRICS:
            await _answer(send, self._door.metrics().encode())
        else:
            await self._app({**scope, "headers": _without_key(scope["headers"])}, receive, send)

    async def _metered(
        self,
        scope: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
        visit: Visit,
        head: _Head,
    ) -> None:
        body = await self._read_body(receive, head.content_length)
        if body is None:
            # Gone before it had asked for anything: there was no request.
            self._door.ledger.count("left_early")
            return
        admitted = (
            self._door.turn_away(visit, body)
            if isinstance(body, Refusal)
            else self._door.admit(visit, body)
        )
        if self._gate is not None and isinstance(admitted, Admitted) and isinstance(body, bytes):
            admitted = await self._gate.admit(self._door, visit, body, admitted)
        if isinstance(admitted, TurnedAway):
            await _refuse(send, admitted)
            return
        headers = [
            *head.passed_on,
            (b"content-length", str(len(admitted.body)).encode()),
            (b"x-request-id", carried(admitted.opened.id).encode()),
        ]
        await self._serve({**scope, "headers": headers}, receive, send, admitted)

    async def _serve(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, admitted: Admitted
    ) -> None:
        delivery = admitted.delivery
        token = CURRENT.set(delivery)
        span = self._begin_span(scope, admitted)
        try:
            await self._app(
                scope,
                _receiving(receive, admitted.body, delivery),
                self._sending(send, admitted, span),
            )
        finally:
            CURRENT.reset(token)
            ending = self._door.leave(admitted)
            self._end_span(span, ending)

    def _begin_span(self, scope: MutableMapping[str, Any], admitted: Admitted) -> "DoorSpan | None":
        """Where spans are asked for; the request is served whatever becomes of its span."""
        if self._spans is None:
            return None
        try:
            span = self._spans.begin(admitted.opened, scope["headers"])
        except Exception:  # of a sampler or propagator that is not ours
            self._door.ledger.count("span_failures")
            return None
        scope["headers"] = span.headers
        return span

    def _foretell(self, span: "DoorSpan | None", delivery: Delivery, last: bytes) -> None:
        """On somebody else's span, which may end with the last byte."""
        if self._spans is None or span is None or span.token is not None:
            return
        try:
            self._spans.end(span, delivery.foreseen(last))
        except Exception:  # as at its end
            self._door.ledger.count("span_failures")

    def _end_span(self, span: "DoorSpan | None", ending: Ending) -> None:
        if self._spans is None or span is None:
            return
        try:
            self._spans.end(span, ending)
        except Exception:  # of a span processor or exporter that is not ours
            self._door.ledger.count("span_failures")

    def _sending(self, send: Send, admitted: Admitted, span: "DoorSpan | None") -> Send:
        delivery = admitted.delivery

        async def send_counted(message: Message) -> None:
            if message["type"] != "http.response.body":
                if message["type"] == "http.response.start":
                    message = self._start(message, admitted)
                await send(message)
                return
            # Before it is sent: a server that has sent the last byte tells everybody who still
            # listens that the client is gone.
            if not message.get("more_body", False) and not delivery.gone:
                delivery.complete = True
                self._foretell(span, delivery, message.get("body", b""))
            try:
                await send(message)
            except OSError:
                delivery.gone, delivery.complete = True, False
                raise
            if not delivery.gone:
                self._count(delivery, message.get("body", b""))

        return send_counted

    def _start(self, message: Message, admitted: Admitted) -> Message:
        headers = [header for header in message.get("headers", ()) if header[0] != b"x-request-id"]
        content_type = dict(headers).get(b"content-type", b"")
        admitted.delivery.started(message["status"], content_type)
        headers.append((b"x-request-id", carried(admitted.opened.id).encode()))
        return {**message, "headers": headers}

    def _count(self, delivery: Delivery, body: bytes) -> None:
        """Count a chunk that went out; a failure here is the operator's, not the client's."""
        try:
            if body:
                if not delivery.first_mono_ns:
                    delivery.first_mono_ns = time.monotonic_ns()
                delivery.sent(body)
        except Exception:  # metering fails open, and loudly: the counter is watched
            self._door.ledger.count("metering_failures")

    async def _read_body(self, receive: Receive, content_length: bytes) -> bytes | Refusal | None:
        """The whole body; None if the client left."""
        settings = self._door.settings
        if content_length.isdigit() and int(content_length) > settings.door_max_body_bytes:
            return _TOO_LONG
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(settings.door_body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > settings.door_max_body_bytes:
                        return _TOO_LONG
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            return _TOO_SLOW

    def _stopping(self, send: Send) -> Send:
        async def send_and_stop(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                if self._marks is not None:
                    self._marks.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await self._marks
                if self._gate is not None:
                    await self._gate.close()
                self._door.ledger.stop()
            await send(message)

        return send_and_stop

    async def _mark_often(self) -> None:
        """Say in the spool, again and again, that it is complete up to now."""
        while True:
            await asyncio.sleep(self._door.settings.mark_ms / MS_PER_S)
            self._door.ledger.mark()


def _open_in_vllm() -> Doorkeeper:
    """Within vLLM, the door counts tokens where they are handed out, also without its plugins."""
    if "vllm" not in sys.modules:
        return open_door(InferenceSettings(), SystemClock())
    from inference.vllm_door import at_shutdown, register

    register()
    door = open_door(InferenceSettings(), SystemClock())
    door.informed = True
    at_shutdown(door.close)
    return door


def _open_spans() -> "DoorSpans":
    """Imported here and nowhere else: who does not ask for spans needs no OpenTelemetry."""
    try:
        from inference.door_spans import DoorSpans
    except ModuleNotFoundError as error:
        raise SettingsError(
            "RENTROLL_INFERENCE_DOOR_SPANS needs OpenTelemetry: pip install 'rentroll[otel]'"
        ) from error
    return DoorSpans()


def _open_gate(settings: InferenceSettings) -> "AdmissionGate | None":
    """Imported here: a door that looks at no budgets needs no HTTP client."""
    if not settings.admission_url:
        return None
    from inference.door_admission import AdmissionGate

    return AdmissionGate(settings)


def _receiving(receive: Receive, body: bytes, delivery: Delivery) -> Receive:
    """The rewritten body, once; then whatever comes, noticing that the client is gone.

    vLLM listens for that on every generation; a request that is not a stream shows it only here,
    since its handler then returns 200 with the body `null`.
    """
    given = False

    async def receive_watched() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        message = await receive()
        if message["type"] == "http.disconnect" and not delivery.complete:
            delivery.gone = True
        return message

    return receive_watched


def _read_head(headers: list[Header]) -> _Head:
    """One pass. Of several X-Request-Id the last is the label: none of them is trusted."""
    authorization: list[bytes] = []
    client_request_id = content_length = b""
    passed_on: list[Header] = []
    for header in headers:
        name, value = header
        if name in _PASSED_ON:
            passed_on.append(header)
        elif name == b"authorization":
            authorization.append(value)
        elif name == b"x-request-id":
            client_request_id = value
        elif name == b"content-length":
            content_length = value
    return _Head(authorization, client_request_id, content_length, passed_on)


def _without_key(headers: list[Header]) -> list[Header]:
    """Nothing behind the door needs a secret, and what never sees one cannot log it."""
    return [header for header in headers if header[0] != b"authorization"]


async def _refuse(send: Send, turned: TurnedAway) -> None:
    body = problem_body(turned.refusal, turned.request)
    headers = problem_headers(turned.refusal, body, turned.request)
    await send({"type": "http.response.start", "status": turned.refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _answer(send: Send, text: bytes) -> None:
    headers = [
        (b"content-type", b"text/plain; version=0.0.4"),
        (b"content-length", str(len(text)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})
