"""The reservation endpoint: doors ask here before a request of a tenant with a budget may run.

Plain ASGI 3. Requests that come while a transaction runs are decided together by the next one: a
commit to disk is paid once for all of them, and waiting for it is the whole latency.

    POST   /v1/holds        {"request", "tenant", "project", "model", "service_tier", "region",
                             "gpu_type", "input_tokens", "output_tokens"}
           200 {"verdict": "held"|"free", "amount_e9"} · 402 no credit left · 429 over the budget
    DELETE /v1/holds/<id>   204; for a request that will have no event
    GET    /healthz         200 while the store answers
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import monotonic, monotonic_ns
from typing import Any

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from billing.admission import Ask, Decision, Verdict
from billing.reserving import release, reserve
from infra.store.price_books import newest_book, newest_sha256
from schemas.clock import Clock
from schemas.estimates import Estimator, WorstCase
from schemas.units import NS_PER_MS

log = logging.getLogger("rentroll.admission")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_BODY_BYTES_MAX = 16_384
_HOLDS = "/v1/holds"
_TOKENS_MAX = 2**40


class HoldRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a door sends; ids and names are those of the request's event."""

    request: str
    tenant: str
    project: str
    model: str
    service_tier: str
    input_tokens: int
    output_tokens: int
    region: str = ""
    gpu_type: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long an ask may wait for its turn, how many are decided together, who may ask."""

    timeout_ms: int
    asks_at_once: int
    prices_check_s: int
    token: str = ""


class BusyError(Exception):
    """An ask waited longer than its door does: nobody would read the answer."""


_TOO_LITTLE = "what is left does not cover the most that this request may cost"
_PROBLEMS: dict[Verdict, tuple[int, str, str, str]] = {
    "no_credit": (
        402,
        "credit-exhausted",
        "The prepaid credit is used up",
        f"{_TOO_LITTLE}; buy credit, or lower max_tokens",
    ),
    "over_budget": (
        429,
        "budget-exhausted",
        "The monthly budget is used up",
        f"{_TOO_LITTLE}; raise the budget, or lower max_tokens",
    ),
    "no_worst_case": (
        503,
        "no-worst-case",
        "The cost of this request cannot be bounded",
        "prices are missing, in another currency than the budget, or by GPU time",
    ),
}


class Reservations:
    """Collects asks and decides those that wait together, in one transaction after the other."""

    def __init__(self, store: Engine, bounds: Bounds) -> None:
        self._store = store
        self._bounds = bounds
        self._waiting: list[tuple[Ask, int, asyncio.Future[Decision]]] = []
        self._deciding: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "reserve")
        self._prices: tuple[str, Estimator] | None = None
        self._looked_s = float("-inf")

    async def ask(self, ask: Ask) -> Decision:
        """The decision about one request.

        Raises:
            BusyError: If its turn did not come in time.
            sqlalchemy.exc.DBAPIError: If the store cannot be asked.
        """
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, monotonic_ns(), answer))
        if self._deciding is None:
            self._deciding = asyncio.ensure_future(self._decide_all())
        return await answer

    async def release(self, request: str) -> None:
        """Let a hold go."""
        await self._in_thread(partial(release, self._store, request))

    async def look(self) -> None:
        """Ask the store for something.

        Raises:
            sqlalchemy.exc.DBAPIError: If it does not answer.
        """
        await self._in_thread(partial(newest_sha256, self._store))

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False)

    async def _decide_all(self) -> None:
        try:
            while self._waiting:
                some = self._waiting[: self._bounds.asks_at_once]
                del self._waiting[: len(some)]
                await self._decide([one for one in some if self._in_time(*one)])
        finally:
            self._deciding = None

    def _in_time(self, _ask: Ask, since_ns: int, answer: "asyncio.Future[Decision]") -> bool:
        if monotonic_ns() - since_ns <= self._bounds.timeout_ms * NS_PER_MS:
            return True
        if not answer.done():
            answer.set_exception(BusyError())
        return False

    async def _decide(self, some: list[tuple[Ask, int, "asyncio.Future[Decision]"]]) -> None:
        if not some:
            return
        asks = [ask for ask, _, _ in some]
        try:
            decisions = await self._in_thread(partial(self._reserve, asks))
        except Exception as error:  # each asker gets it, and decides
            for _, _, answer in some:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, _, answer), decision in zip(some, decisions, strict=True):
            if not answer.done():
                answer.set_result(decision)

    def _reserve(self, asks: list[Ask]) -> list[Decision]:
        estimator = self._estimator()
        if estimator is None:
            return [Decision("no_worst_case") for _ in asks]
        return reserve(self._store, asks, estimator)

    def _estimator(self) -> Estimator | None:
        if monotonic() - self._looked_s >= self._bounds.prices_check_s:
            sha256 = newest_sha256(self._store)
            if sha256 is not None and (self._prices is None or self._prices[0] != sha256):
                book = newest_book(self._store)
                self._prices = (sha256, Estimator(book)) if book is not None else None
            self._looked_s = monotonic()
        return self._prices[1] if self._prices is not None else None

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


class AdmissionApp:
    """The endpoint's ASGI face."""

    def __init__(self, reservations: Reservations, bounds: Bounds, clock: Clock) -> None:
        self._reservations = reservations
        self._token = b"Bearer " + bounds.token.encode() if bounds.token else b""
        self._clock = clock

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, body = await self._answer(scope, receive)
            kind = b"application/problem+json" if status >= 400 else b"application/json"  # noqa: PLR2004
            headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> tuple[int, bytes]:
        try:
            if (scope["method"], scope["path"]) == ("GET", "/healthz"):
                await self._reservations.look()
                return 200, b'{"status":"ok"}'
            if self._may_ask(scope):
                return await self._serve(scope["method"], scope["path"], receive)
            return _problem(401, "token-wrong", "A token is needed", "send the doors' token")
        except BusyError:
            return _problem(503, "busy", "Too many ask at once", "the answer would be too late")
        except DBAPIError as error:
            log.warning("store: %s", error.orig)
            return _problem(503, "store-away", "The store does not answer", "try again")

    async def _serve(self, method: str, path: str, receive: Receive) -> tuple[int, bytes]:
        if (method, path) == ("POST", _HOLDS):
            return await self._hold(await _body(receive))
        if method == "DELETE" and path.startswith(f"{_HOLDS}/"):
            await self._reservations.release(path.removeprefix(f"{_HOLDS}/"))
            return 204, b""
        return _problem(404, "no-such-route", "Not found", "there is nothing at this path")

    async def _hold(self, raw: bytes | None) -> tuple[int, bytes]:
        try:
            asked = msgspec.json.decode(raw or b"", type=HoldRequest)
            ask = _ask_of(asked, self._clock)
        except ValueError as error:
            return _problem(400, "request-wrong", "This is no request for a hold", str(error))
        decision = await self._reservations.ask(ask)
        problem = _PROBLEMS.get(decision.verdict)
        if problem is not None:
            return _problem(*problem)
        return 200, msgspec.json.encode(
            {"verdict": decision.verdict, "amount_e9": decision.amount_e9}
        )

    def _may_ask(self, scope: MutableMapping[str, Any]) -> bool:
        shown = dict(scope["headers"]).get(b"authorization", b"")
        return not self._token or hmac.compare_digest(shown, self._token)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                self._reservations.close()
                return


def admission_app(store: Engine, bounds: Bounds, clock: Clock) -> AdmissionApp:
    """The app over a store."""
    return AdmissionApp(Reservations(store, bounds), bounds, clock)


def _ask_of(asked: HoldRequest, clock: Clock) -> Ask:
    """The ask, at the time that its event id says, as it will be billed.

    Raises:
        ValueError: If a number is out of range, or the id is not of about now.
    """
    for name in ("input_tokens", "output_tokens"):
        if not 0 <= getattr(asked, name) <= _TOKENS_MAX:
            raise ValueError(f"{name}: {getattr(asked, name)} is out of range")
    at_ms = int(asked.request.replace("-", "")[:12], 16)
    if len(asked.request) != 36 or abs(clock.now_ns() // NS_PER_MS - at_ms) > 3_600_000:  # noqa: PLR2004
        raise ValueError(f"request: {asked.request} is not the id of a request of now")
    worst = WorstCase(
        tenant=asked.tenant,
        project=asked.project,
        model=asked.model,
        service_tier=asked.service_tier,
        input_tokens=asked.input_tokens,
        output_tokens=asked.output_tokens,
        region=asked.region,
        gpu_type=asked.gpu_type,
    )
    return Ask(asked.request, at_ms, worst)


async def _body(receive: Receive) -> bytes | None:
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False) or sum(map(len, chunks)) > _BODY_BYTES_MAX:
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
