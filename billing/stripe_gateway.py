"""The only file that talks to Stripe: pacing, retries, what an error means, objects as values."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import stripe

from billing.pacing import Pace
from billing.stripe_objects import Json, StripeInvoice, StripeLine, WebhookEvent, Written
from schemas.errors import (
    ContractError,
    StripeRefusedError,
    StripeRetryError,
    StripeStopError,
    StripeUncertainError,
)

Result = TypeVar("Result")
PAGE = 100
"""Stripe's largest page of a list."""
_CONFLICT = 409
_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds of talking to Stripe; rates are requests per second, 0 is no limit.

    Stripe allows an account 100 requests/s live and 25 in a sandbox, and an endpoint 25
    (docs.stripe.com/rate-limits); we stay below, so that people's own calls still pass.
    """

    account_per_s: int = 80
    endpoint_per_s: int = 20
    attempts: int = 6
    connect_timeout_s: float = 3.05
    read_timeout_s: float = 30.0
    backoff_first_s: float = 0.5
    backoff_most_s: float = 8.0


LIVE = GatewayLimits()
SANDBOX = GatewayLimits(account_per_s=20)
LOCAL = GatewayLimits(account_per_s=0, endpoint_per_s=0, backoff_first_s=0.1)


def limits_for(api_key: str, base: str | None) -> GatewayLimits:
    """The bounds that fit: a server of our own has none, a test key is a sandbox."""
    if base is not None:
        return LOCAL
    return SANDBOX if "_test_" in api_key else LIVE


class StripeGateway:
    """Stripe's invoicing calls; safe to use from several threads."""

    def __init__(
        self,
        api_key: str,
        base: str | None = None,
        *,
        limits: GatewayLimits | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open nothing yet; the first call connects.

        Args:
            api_key: Of the account, or of the local stand-in.
            base: Another server than Stripe's, such as the stand-in's `http://127.0.0.1:…`.
            limits: By default those that fit the key and the base.
            sleep: How to wait, in seconds.
        """
        self._limits = limits or limits_for(api_key, base)
        timeouts = (self._limits.connect_timeout_s, self._limits.read_timeout_s)
        self._http = stripe.RequestsClient(timeout=timeouts)
        # The SDK's own retries would hide which attempt did what, and never wait for a 429.
        client = stripe.StripeClient(
            api_key,
            base_addresses={"api": base} if base else None,
            max_network_retries=0,
            http_client=self._http,
        )
        self._api = client.v1
        self._sleep = sleep
        self._account = Pace(self._limits.account_per_s, sleep=sleep)
        self._endpoints: dict[str, Pace] = {}
        self._endpoints_lock = threading.Lock()
        self._jitter = random.Random()  # noqa: S311 -- spreads retries; no secret

    def close(self) -> None:
        """Give back this thread's connection."""
        self._http.close()  # type: ignore[no-untyped-call]

    # Writes: body and idempotency key come from the journal.

    def create_customer(self, body: Json, key: str) -> Written:
        return self._write("customers", lambda o: self._api.customers.create(_sdk(body), o), key)

    def create_invoice(self, body: Json, key: str) -> Written:
        return self._write("invoices", lambda o: self._api.invoices.create(_sdk(body), o), key)

    def add_lines(self, invoice: str, body: Json, key: str) -> Written:
        """Put up to 100 lines on a draft; all of them or none."""
        send = self._api.invoices.add_lines
        return self._write("add_lines", lambda o: send(invoice, _sdk(body), o), key)

    def finalize(self, invoice: str, body: Json, key: str) -> Written:
        send = self._api.invoices.finalize_invoice
        return self._write("finalize", lambda o: send(invoice, _sdk(body), o), key)

    def send(self, invoice: str, body: Json, key: str) -> Written:
        """Have Stripe mail the invoice."""
        send = self._api.invoices.send_invoice
        return self._write("send", lambda o: send(invoice, _sdk(body), o), key)

    def void(self, invoice: str, body: Json, key: str) -> Written:
        """Cancel a finalised invoice that is not paid."""
        send = self._api.invoices.void_invoice
        return self._write("void", lambda o: send(invoice, _sdk(body), o), key)

    def write_off(self, invoice: str, body: Json, key: str) -> Written:
        """Mark an open invoice as uncollectible."""
        send = self._api.invoices.mark_uncollectible
        return self._write("write_off", lambda o: send(invoice, _sdk(body), o), key)

    def create_credit_note(self, body: Json, key: str) -> Written:
        send = self._api.credit_notes.create
        return self._write("credit_notes", lambda o: send(_sdk(body), o), key)

    # Reads.

    def invoice(self, invoice: str) -> StripeInvoice:
        return self._call("invoice", lambda: _invoice(self._api.invoices.retrieve(invoice)))

    def lines(self, invoice: str) -> list[StripeLine]:
        """Every line of an invoice, the newest first."""
        send = self._api.invoices.line_items.list
        return [_line(one) for one in self._pages("lines", lambda p: send(invoice, p))]

    def invoices(self, customer: str = "") -> Iterator[StripeInvoice]:
        """Invoices of a customer, or of the whole account, the newest first.

        Not Stripe's search: that one lags behind by up to a minute.
        """
        query: Json = {"customer": customer} if customer else {}
        send = self._api.invoices.list
        for one in self._pages("list_invoices", lambda p: send(_sdk(query | p))):
            yield _invoice(one)

    def customers(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Id and metadata of every customer of the account, the newest first."""
        send = self._api.customers.list
        for one in self._pages("list_customers", lambda p: send(_sdk(p))):
            yield str(one.id), _metadata(one)

    def was_sent(self, invoice: str, since_s: int) -> bool:
        """Whether Stripe mailed an invoice; its events reach back 30 days."""
        query: Json = {"type": "invoice.sent", "created": {"gte": since_s}}
        send = self._api.events.list
        found = self._pages("events", lambda p: send(_sdk(query | p)))
        return any(event.data.object["id"] == invoice for event in found)

    def credit_note(self, invoice: str, reference: str, since_s: int) -> str:
        """The id of the credit note made for an invoice under our reference; empty: none.

        By its event, which tells of it at once and for 30 days.
        """
        for note in self._credit_notes(since_s):
            if (
                note["invoice"] == invoice
                and note["metadata"].to_dict().get("reference") == reference
            ):
                return str(note["id"])
        return ""

    def credit_note_number(self, wanted: str, since_s: int) -> str:
        """The number that a tenant reads on a credit note; empty: not made since then."""
        notes = self._credit_notes(since_s)
        return next((str(note["number"]) for note in notes if note["id"] == wanted), "")

    def _credit_notes(self, since_s: int) -> Iterator[Any]:
        query: Json = {"type": "credit_note.created", "created": {"gte": since_s}}
        send = self._api.events.list
        for event in self._pages("events", lambda p: send(_sdk(query | p))):
            yield event.data.object

    # How a call is made.

    def _pages(self, endpoint: str, send: Callable[[Any], Any]) -> Iterator[Any]:
        query: Json = {"limit": PAGE}
        while True:
            page = self._call(endpoint, lambda: send(query))  # noqa: B023 -- called before it moves
            yield from page.data
            if not page.has_more or not page.data:
                return
            query = {"limit": PAGE, "starting_after": page.data[-1].id}

    def _write(self, endpoint: str, send: Callable[[Any], Any], key: str) -> Written:
        made = self._call(endpoint, lambda: send({"idempotency_key": key}))
        return Written(str(made.id), str(made.last_response.request_id or ""))

    def _call(self, endpoint: str, send: Callable[[], Result]) -> Result:
        """Make a call, again where that is safe.

        Raises:
            StripeRetryError: No usable answer after `attempts`; the same key may be used again.
            StripeUncertainError: A 5xx is kept under the key.
            StripeRefusedError: Stripe says no.
            StripeStopError: The API key is wrong or may not do this.
        """
        last = ""
        for attempt in range(self._limits.attempts):
            if attempt:
                self._back_off(attempt)
            pace = self._pace_of(endpoint)
            pace.wait()
            self._account.wait()
            try:
                return send()
            except stripe.StripeError as error:
                # Raises unless the same request may go out again.
                last = retry_reason(error)
                if isinstance(error, stripe.RateLimitError):
                    pace.slow_down()
        raise StripeRetryError(f"{endpoint}: {last}, {self._limits.attempts} times")

    def _back_off(self, attempt: int) -> None:
        full_s = self._limits.backoff_first_s * 2 ** (attempt - 1)
        most_s = min(self._limits.backoff_most_s, full_s)
        least_s = most_s / 2
        self._sleep(self._jitter.uniform(least_s, most_s))

    def _pace_of(self, endpoint: str) -> Pace:
        with self._endpoints_lock:
            if endpoint not in self._endpoints:
                self._endpoints[endpoint] = Pace(self._limits.endpoint_per_s, sleep=self._sleep)
            return self._endpoints[endpoint]


def retry_reason(error: stripe.StripeError) -> str:
    """Why a call may be made again with the same body and key.

    Raises:
        StripeUncertainError: If the answer is a 5xx that Stripe keeps under the key.
        StripeRefusedError: If Stripe will always say no.
        StripeStopError: If no call will work.
    """
    message = str(error)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        raise StripeStopError(message) from error
    if isinstance(error, stripe.RateLimitError | stripe.APIConnectionError):
        return message
    status = error.http_status or 0
    if status == _CONFLICT:
        return message
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if status >= _SERVER_ERROR or status == 0:
        if headers.get("idempotent-replayed") == "true":
            raise StripeUncertainError(message) from error
        return message
    raise StripeRefusedError(f"{message} (HTTP {status}, code {error.code})") from error


def read_webhook(
    payload: bytes, signature: str, secrets: Sequence[str], *, now_s: int, tolerance_s: int
) -> WebhookEvent:
    """The event that Stripe signed.

    The SDK checks the signature; the age is checked here, by our clock and to both sides: the SDK
    takes a signature from the future, which could be kept and sent again later.

    Args:
        payload: The body, byte for byte.
        signature: The header `Stripe-Signature`.
        secrets: Those in force; two while one is replaced.
        now_s: Seconds since the epoch.
        tolerance_s: How far its time may be off.

    Raises:
        ContractError: If nobody with a secret of ours signed this now, or it is no event.
    """
    if not any(_is_signed(payload, signature, secret) for secret in secrets):
        raise ContractError("Stripe-Signature: no secret in force made it over this body")
    parts = [part.partition("=") for part in signature.split(",")]
    signed_s = int(next(value for name, _, value in parts if name == "t"))
    if abs(now_s - signed_s) > tolerance_s:
        raise ContractError(
            f"Stripe-Signature: signed {now_s - signed_s} s ago, allowed are {tolerance_s} s either"
            " way; is this host's clock right?"
        )
    try:
        event = json.loads(payload)
        subject = event["data"]["object"]
        return WebhookEvent(
            str(event["id"]), str(event["type"]), str(subject.get("id", "")), int(event["created"])
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(f"body: signed, yet no event of Stripe's API v1 ({error!r})") from error


def _is_signed(payload: bytes, signature: str, secret: str) -> bool:
    if not signature.isascii():
        return False  # The SDK would raise a TypeError.
    try:
        # Of tolerance it knows only the past; ours is checked by the caller.
        stripe.WebhookSignature.verify_header(payload, signature, secret)
    except (stripe.SignatureVerificationError, UnicodeDecodeError):
        return False
    return True


def _sdk(body: Json) -> Any:
    """A body as the SDK's typed parameters; a contract test holds it to them."""
    return cast("Any", body)


def _metadata(found: Any) -> dict[str, str]:
    # The SDK's objects are not dicts: `.items` would look for a field of that name.
    kept = found.metadata.to_dict() if found.metadata is not None else {}
    return {str(name): str(value) for name, value in kept.items()}


def _line(found: Any) -> StripeLine:
    return StripeLine(
        id=str(found.id),
        amount_minor=int(found.amount),
        currency=str(found.currency),
        metadata=_metadata(found),
    )


def _invoice(found: Any) -> StripeInvoice:
    return StripeInvoice(
        id=str(found.id),
        customer=str(found.customer),
        status=str(found.status),
        number=str(found.number or ""),
        currency=str(found.currency),
        total_minor=int(found.total),
        amount_due_minor=int(found.amount_due),
        hosted_url=str(found.hosted_invoice_url or ""),
        finalized_at_s=found.status_transitions.finalized_at,
        metadata=_metadata(found),
        lines=tuple(_line(one) for one in found.lines.data),
        more_lines=bool(found.lines.has_more),
        amount_paid_minor=int(found.amount_paid),
        amount_remaining_minor=int(found.amount_remaining),
        attempts=int(found.attempt_count),
        due_at_s=found.due_date,
    )
