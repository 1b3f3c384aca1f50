"""The endpoint that Stripe's webhooks come to: verified, taken over once, else clearly refused.

Plain ASGI 3. Stripe repeats what is not answered with 2xx for three days, so nothing is kept here:
an answer of 200 means that the store has committed what the webhook was about.

    POST   /v1/stripe/events   200 {"outcome"} · 400 not signed by Stripe now · 413 too long
                               503 ask again: Stripe or the store is away, or the queue is full
    GET    /healthz            200 while the store answers
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from sqlalchemy.exc import DBAPIError

from billing.collecting import Collector, Taken
from billing.stripe_gateway import read_webhook
from billing.stripe_objects import WebhookEvent
from schemas.clock import Clock
from schemas.errors import ContractError, StripeCallError
from schemas.units import NS_PER_S

log = logging.getLogger("rentroll.webhooks")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
BODY_BYTES_MAX = 1_048_576
"""An invoice's event carries ten lines at most: tens of kilobytes."""
EVENTS = "/v1/stripe/events"
KINDS = frozenset(
    {
        "invoice.paid",
        "invoice.payment_succeeded",
        "invoice.payment_failed",
        "invoice.voided",
        "invoice.marked_uncollectible",
        "invoice.overdue",
    }
)
"""What to subscribe to. Not invoice.created: Stripe would wait for its answer with finalising."""
_OK = 200
_BAD = 400


@dataclass(frozen=True, slots=True)
class WebhookBounds:
    """Which secrets sign, how far a signature's time may be off, how many may wait."""

    secrets: tuple[str, ...]
    tolerance_s: int
    waiting: int


class WebhookApp:
    """The endpoint's ASGI face; one webhook at a time is taken over, in a thread of its own."""

    def __init__(
        self,
        collector: Collector,
        bounds: WebhookBounds,
        clock: Clock,
        on_restored: Callable[[str], None] = lambda _tenant: None,
    ) -> None:
        """Serve nothing yet.

        Args:
            collector: Who takes over what became of an invoice.
            bounds: Of what is let in.
            clock: For the age of signatures.
            on_restored: Called with a tenant that is served again, once that is committed.
        """
        self._collector = collector
        self._bounds = bounds
        self._clock = clock
        self._on_restored = on_restored
        self._thread = ThreadPoolExecutor(1, "webhook")
        self._waiting = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, body = await self._answer(scope, receive)
            kind = b"application/json" if status == _OK else b"application/problem+json"
            headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[int, bytes]:
        route = (scope["method"], scope["path"])
        try:
            if route == ("GET", "/healthz"):
                await self._in_thread(self._collector.unpaid)
                return _OK, b'{"status":"ok"}'
            if route == ("POST", EVENTS):
                return await self._take(scope, receive)
            return _problem(404, "no-such-route", "Not found", f"webhooks go to POST {EVENTS}")
        except DBAPIError as error:
            log.warning("store: %s", error.orig)
            return _problem(503, "store-away", "The store does not answer", "send it again")
        except StripeCallError as error:
            log.warning("stripe: %s", error)
            return _problem(503, "stripe-away", "Stripe was asked in vain", "send it again")

    async def _take(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[int, bytes]:
        if self._waiting >= self._bounds.waiting:
            return _problem(503, "busy", "Too many webhooks wait", "send it again")
        raw = await _body(receive)
        if raw is None:
            longest = f"at most {BODY_BYTES_MAX} bytes"
            return _problem(413, "body-too-long", "The body is too long", longest)
        try:
            event = self._verified(scope, raw)
        except ContractError as error:
            log.warning("refused: %s", error)
            return _problem(_BAD, "not-signed", "This is no webhook of Stripe's", str(error))
        if event.kind not in KINDS:
            return _OK, b'{"outcome":"ignored"}'
        taken = await self._queued(event)
        if taken.outcome == "too_early":
            return _problem(503, "being-issued", "Its invoice is being issued", "send it again")
        log.info("%s %s of %s: %s", event.kind, event.id, event.subject, taken.outcome)
        return _OK, msgspec.json.encode({"outcome": taken.outcome})

    def _verified(self, scope: MutableMapping[str, Any], raw: bytes) -> WebhookEvent:
        shown = [value for name, value in scope["headers"] if name == b"stripe-signature"]
        return read_webhook(
            raw,
            shown[0].decode("latin-1") if len(shown) == 1 else "",
            self._bounds.secrets,
            now_s=self._clock.now_ns() // NS_PER_S,
            tolerance_s=self._bounds.tolerance_s,
        )

    async def _queued(self, event: WebhookEvent) -> Taken:
        self._waiting += 1
        try:
            taken: Taken = await self._in_thread(partial(self._take_over, event))
        finally:
            self._waiting -= 1
        return taken

    def _take_over(self, event: WebhookEvent) -> Taken:
        taken = self._collector.take(event.subject, event)
        if taken.restored:
            self._on_restored(taken.restored)
        return taken

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                self._thread.shutdown(wait=True)
                return


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where it is longer than it may be."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        if sum(map(len, chunks)) > BODY_BYTES_MAX:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return b"".join(chunks)


def _problem(status: int, code: str, title: str, detail: str) -> tuple[int, bytes]:
    """Problem details (RFC 9457)."""
    problem = {
        "type": f"urn:rentroll:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    return status, msgspec.json.encode(problem)
