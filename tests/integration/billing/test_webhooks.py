"""Webhooks over real sockets: whatever order they come in, the invoice ends as Stripe has it."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from billing.collecting import Collector
from billing.stripe_gateway import GatewayLimits, StripeGateway
from billing.stripe_objects import WebhookEvent
from billing.webhook_server import BODY_BYTES_MAX, WebhookApp
from infra.store.tables import invoices
from infra.stripe_fake.contract import Contract
from infra.stripe_fake.webhooks import sign
from schemas.clock import SystemClock
from tests.support.planned_invoices import make_invoice, plan, sqlite_store
from tests.support.servers.stripe_fake import StandIn
from tests.support.webhook_house import (
    BOUNDS,
    SECRET,
    Issued,
    endpoint,
    events_url,
    handled,
    issued,
    row_of,
    standing_of,
    until,
)

CLOCK = SystemClock()
IMPATIENT = GatewayLimits(account_per_s=0, endpoint_per_s=0, attempts=1)


@pytest.fixture
def url(stripe: StandIn, sqlite: Engine, gateway: StripeGateway) -> Iterator[str]:
    """An endpoint over `sqlite` to which the stand-in sends."""
    with endpoint(WebhookApp(Collector(sqlite, gateway, CLOCK), BOUNDS, CLOCK)) as base:
        stripe.misbehave()
        stripe.send_webhooks(events_url(base), SECRET)
        yield base
        stripe.misbehave()


def act(stripe: StandIn, one: Issued, what: str) -> None:
    """What happens at Stripe: pay, void, mark_uncollectible."""
    request = urllib.request.Request(
        f"{stripe.base}/v1/invoices/{one.stripe_id}/{what}",
        b"",
        {"Authorization": "Bearer sk_test_rentroll"},
    )
    urllib.request.urlopen(request, timeout=10).close()


def post(base: str, body: bytes, signature: str, path: str = "") -> tuple[int, dict[str, str]]:
    headers = {"Stripe-Signature": signature} if signature else {}
    request = urllib.request.Request(path or events_url(base), body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def event_of(one_id: str, kind: str = "invoice.paid", event: str = "evt_made") -> tuple[bytes, str]:
    now_s = int(time.time())
    body = json.dumps(
        {"id": event, "type": kind, "created": now_s, "data": {"object": {"id": one_id}}}
    ).encode()
    return body, sign(body, SECRET, now_s)


@pytest.mark.parametrize(
    ("done", "state"),
    [
        (["pay"], "paid"),
        (["void"], "void"),
        (["mark_uncollectible"], "uncollectible"),
        (["mark_uncollectible", "pay"], "paid"),
        (["mark_uncollectible", "void"], "void"),
    ],
    ids=lambda value: value if isinstance(value, str) else " then ".join(value),
)
def test_invoice_becomes_what_happened_at_stripe(
    url: str,
    stripe: StandIn,
    sqlite: Engine,
    gateway: StripeGateway,
    done: list[str],
    state: str,
) -> None:
    one = issued(sqlite, gateway)
    for what in done:
        act(stripe, one, what)
    until(lambda: row_of(sqlite, one.invoice_id)[0] == state, state)
    assert row_of(sqlite, one.invoice_id)[2] == state


def test_webhook_that_comes_three_times_is_taken_once(
    url: str, stripe: StandIn, sqlite: Engine, gateway: StripeGateway
) -> None:
    one = issued(sqlite, gateway)
    stripe.misbehave(copies=3)
    act(stripe, one, "pay")

    def answers() -> list[int]:
        return [
            sent["status"]
            for sent in stripe.deliveries()
            if sent["type"] == "invoice.paid"
            and sent["event"]["data"]["object"]["id"] == one.stripe_id
        ]

    until(lambda: len(answers()) == 3, "three deliveries")
    assert handled(sqlite, one.stripe_id) == [("invoice.paid", "applied")]
    assert answers() == [200, 200, 200]
    event = stripe.deliveries()[-1]["event"]
    invoice = event["data"]["object"]
    for path, body in (("/v1/events/evt_1", event), ("/v1/invoices/in_1", invoice)):
        found = Contract().operation("GET", path)
        assert found is not None
        assert Contract().check_answer(found[0], body) == [], "Stripe could not send this"


def test_failure_that_is_told_after_the_payment_changes_nothing(
    url: str, stripe: StandIn, sqlite: Engine, gateway: StripeGateway
) -> None:
    one = issued(sqlite, gateway)
    stripe.misbehave(gather=2)
    stripe.fail_payment(one.stripe_id)
    act(stripe, one, "pay")
    until(lambda: len(handled(sqlite, one.stripe_id)) == 2, "both events")
    assert row_of(sqlite, one.invoice_id)[0] == "paid"
    assert standing_of(sqlite, one.invoice_id) == (None, 0, None)


def test_failed_payment_is_seen_and_forgotten_when_it_is_paid(
    url: str, stripe: StandIn, sqlite: Engine, gateway: StripeGateway
) -> None:
    one = issued(sqlite, gateway)
    stripe.fail_payment(one.stripe_id)
    until(lambda: len(handled(sqlite, one.stripe_id)) == 1, "the failure")
    assert row_of(sqlite, one.invoice_id)[0] == "issued"
    assert standing_of(sqlite, one.invoice_id)[0] is not None
    act(stripe, one, "pay")
    until(lambda: row_of(sqlite, one.invoice_id)[0] == "paid", "paid")
    assert standing_of(sqlite, one.invoice_id) == (None, 0, None)


def test_webhook_that_never_comes_is_made_up_for_by_asking(
    url: str, stripe: StandIn, sqlite: Engine, gateway: StripeGateway
) -> None:
    one = issued(sqlite, gateway)
    stripe.misbehave(drop=1)
    act(stripe, one, "pay")
    collector = Collector(sqlite, gateway, CLOCK)
    assert collector.unpaid() == [one.stripe_id]
    assert collector.take(one.stripe_id).outcome == "applied"
    assert row_of(sqlite, one.invoice_id)[0] == "paid"
    assert collector.unpaid() == []


class CrashError(BaseException):
    """Ends a life in the middle; not an `Exception`, so that nothing of ours catches it."""


@pytest.mark.parametrize("point", ["take:read", "take:asked", "take:written", "take:committed"])
def test_crash_at_any_point_is_harmless(
    stripe: StandIn, store: Engine, gateway: StripeGateway, point: str
) -> None:
    def hook(passed: str) -> None:
        if passed == point:
            raise CrashError

    one = issued(store, gateway)
    act(stripe, one, "pay")
    event = WebhookEvent(f"evt_{point}", "invoice.paid", one.stripe_id, 1)
    with pytest.raises(CrashError):
        Collector(store, gateway, CLOCK, hook=hook).take(one.stripe_id, event)
    is_committed = point == "take:committed"
    assert row_of(store, one.invoice_id)[0] == ("paid" if is_committed else "issued")
    again = Collector(store, gateway, CLOCK).take(one.stripe_id, event)
    assert again.outcome == ("duplicate" if is_committed else "applied")
    assert row_of(store, one.invoice_id)[0] == "paid"
    assert handled(store, one.stripe_id) == [("invoice.paid", "applied")]


def test_older_look_never_replaces_a_newer_one(
    stripe: StandIn, store: Engine, gateway: StripeGateway
) -> None:
    one = issued(store, gateway)
    asked: list[str] = []

    def meanwhile(point: str) -> None:
        if point == "take:asked" and not asked:
            asked.append(point)
            act(stripe, one, "pay")
            Collector(store, gateway, CLOCK).take(one.stripe_id)

    Collector(store, gateway, CLOCK, hook=meanwhile).take(one.stripe_id)
    assert asked
    assert row_of(store, one.invoice_id)[0] == "paid"


def test_other_amount_at_stripe_is_a_conflict_and_changes_nothing(
    url: str, stripe: StandIn, sqlite: Engine, gateway: StripeGateway, tmp_path: Path
) -> None:
    with sqlite_store(tmp_path / "elsewhere.db") as elsewhere:
        theirs = issued(elsewhere, gateway)
    ours = plan(sqlite, make_invoice("other-amount", models=2))
    with sqlite.begin() as connection:
        connection.execute(
            invoices.update()
            .where(invoices.c.id == ours.id)
            .values(state="issued", stripe_invoice=theirs.stripe_id)
        )
    act(stripe, theirs, "pay")
    until(lambda: handled(sqlite, theirs.stripe_id) != [], "the conflict")
    assert handled(sqlite, theirs.stripe_id) == [("invoice.paid", "conflict")]
    assert row_of(sqlite, ours.id)[0] == "issued"


def test_webhook_about_an_invoice_that_is_not_ours_is_noted_once(url: str, sqlite: Engine) -> None:
    for outcome in ("foreign", "duplicate"):
        status, answer = post(url, *event_of("in_of_somebody", event="evt_foreign"))
        assert (status, answer) == (200, {"outcome": outcome})


def test_webhook_about_an_invoice_that_is_being_issued_comes_again(
    url: str, sqlite: Engine
) -> None:
    invoice = make_invoice("half-issued")
    plan(sqlite, invoice)
    with sqlite.begin() as connection:
        connection.execute(
            invoices.update()
            .where(invoices.c.id == invoice.id)
            .values(state="finalized", stripe_invoice="in_half")
        )
    status, answer = post(url, *event_of("in_half", event="evt_half"))
    assert (status, answer["type"]) == (503, "urn:rentroll:problem:being-issued")
    assert handled(sqlite, "in_half") == []


def test_event_of_another_kind_is_answered_and_forgotten(url: str, sqlite: Engine) -> None:
    status, answer = post(url, *event_of("in_1", "invoice.created", "evt_kind"))
    assert (status, answer) == (200, {"outcome": "ignored"})
    assert handled(sqlite, "in_1") == []


def test_what_stripe_did_not_sign_is_refused(url: str, sqlite: Engine) -> None:
    body, _ = event_of("in_1")
    for signature in ("", "t=1,v1=00", sign(body, "whsec_other", int(time.time()))):
        status, answer = post(url, body, signature)
        assert (status, answer["type"]) == (400, "urn:rentroll:problem:not-signed")
    assert handled(sqlite, "in_1") == []


def test_body_over_the_bound_and_unknown_routes_are_refused(url: str) -> None:
    assert post(url, b"x" * (BODY_BYTES_MAX + 1), "t=1")[0] == 413
    assert post(url, b"{}", "t=1", f"{url}/v1/other")[0] == 404
    with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
        assert answer.status == 200


def test_stripe_that_is_away_makes_stripe_send_again(
    sqlite: Engine, gateway: StripeGateway
) -> None:
    one = issued(sqlite, gateway)
    away = StripeGateway("sk_test_rentroll", "http://127.0.0.1:9", limits=IMPATIENT)
    with endpoint(WebhookApp(Collector(sqlite, away, CLOCK), BOUNDS, CLOCK)) as base:
        status, answer = post(base, *event_of(one.stripe_id))
    away.close()
    assert (status, answer["type"]) == (503, "urn:rentroll:problem:stripe-away")
    assert handled(sqlite, one.stripe_id) == []
