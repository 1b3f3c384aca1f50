"""Alerts: each threshold once in the store, sent signed, again after a failure, then given up."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sqlalchemy import Engine
from standardwebhooks import Webhook, WebhookVerificationError

from infra.store.budgets import list_alerts, raise_alerts, set_budget
from infra.store.live_spend import Stretch, add_stretches
from schemas.clock import SystemClock
from schemas.errors import SettingsError
from schemas.spend import MonthKey, PartialSums, month_start_ms
from schemas.units import NS_PER_MS
from streams.alert_webhooks import AlertSender, receiver_secret
from tests.support.spend_examples import DOLLAR_E9, budget

MASTER = "a master secret of more than 32 characters"


class Receiver:
    """A receiver of webhooks on a real socket; answers as it is told and keeps what it got."""

    def __init__(self) -> None:
        self.status = 204
        self.got: list[tuple[dict[str, str], str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                receiver.got.append((dict(self.headers), body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def stop(self) -> None:
        """Again is harmless."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.stop()


def now_ms() -> int:
    return SystemClock().now_ns() // NS_PER_MS


def spend(store: Engine, amount_e9: int, start: int = 0) -> None:
    sums = PartialSums(months={MonthKey("acme", month_start_ms(now_ms())): amount_e9})
    add_stretches(store, [Stretch("usage.v1", 0, start, start + 1, sums)])


def sender(store: Engine, attempts: int = 3) -> AlertSender:
    return AlertSender(store, MASTER, timeout_s=5, attempts=attempts)


def test_each_threshold_is_raised_once_however_often_one_looks(store: Engine) -> None:
    set_budget(store, budget())
    assert raise_alerts(store, now_ms()) == 0
    spend(store, 5 * DOLLAR_E9)
    assert [raise_alerts(store, now_ms()) for _ in range(3)] == [1, 0, 0]
    spend(store, 5 * DOLLAR_E9, start=1)
    assert [raise_alerts(store, now_ms()) for _ in range(3)] == [1, 0, 0]
    reached = [json.loads(one.body)["data"]["threshold_percent"] for one in list_alerts(store)]
    assert sorted(reached) == [50, 100]


def test_raised_limit_may_be_reached_anew(store: Engine) -> None:
    set_budget(store, budget())
    spend(store, 10 * DOLLAR_E9)
    assert raise_alerts(store, now_ms()) == 2
    set_budget(store, budget(limit_e9=20 * DOLLAR_E9))
    assert raise_alerts(store, now_ms()) == 1


def test_receiver_can_check_the_signature_and_no_other_receiver_could_have_made_it(
    store: Engine, receiver: Receiver
) -> None:
    set_budget(store, budget(webhook_url=receiver.url))
    spend(store, 6 * DOLLAR_E9)
    raise_alerts(store, now_ms())
    assert sender(store).send_due(now_ms()) == 1
    assert sender(store).send_due(now_ms() + 10**9) == 0
    ((headers, body),) = receiver.got
    told = Webhook(receiver_secret(MASTER, receiver.url)).verify(body, headers)
    assert told["data"]["spent_estimate"] == "6.000000000"
    with pytest.raises(WebhookVerificationError):
        Webhook(receiver_secret(MASTER, receiver.url + "2")).verify(body, headers)
    (alert,) = list_alerts(store)
    assert (alert.state, alert.attempts) == ("delivered", 1)


def test_alert_is_sent_again_later_with_the_same_id_and_body_then_given_up(
    store: Engine, receiver: Receiver
) -> None:
    receiver.status = 500
    set_budget(store, budget(webhook_url=receiver.url))
    spend(store, 6 * DOLLAR_E9)
    at_ms = now_ms()
    raise_alerts(store, at_ms)
    for wait_ms in (0, 1_000, 5_000, 10_000, 20_000, 10**9):
        at_ms += wait_ms
        sender(store).send_due(at_ms)
    assert len(receiver.got) == 3
    assert len({(headers["webhook-id"], body) for headers, body in receiver.got}) == 1
    (alert,) = list_alerts(store)
    assert (alert.state, alert.attempts, alert.error) == ("given_up", 3, "status 500")


def test_receiver_that_is_away_is_asked_again(store: Engine, receiver: Receiver) -> None:
    receiver.stop()
    set_budget(store, budget(webhook_url=receiver.url))
    spend(store, 6 * DOLLAR_E9)
    raise_alerts(store, now_ms())
    assert sender(store).send_due(now_ms()) == 0
    (alert,) = list_alerts(store)
    assert (alert.state, alert.error) == ("pending", "ConnectionError")


def test_alert_without_an_address_is_kept_and_not_sent(store: Engine) -> None:
    set_budget(store, budget())
    spend(store, 6 * DOLLAR_E9)
    raise_alerts(store, now_ms())
    assert sender(store).send_due(now_ms()) == 0
    assert [one.state for one in list_alerts(store)] == ["unsent"]


def test_short_master_secret_is_refused() -> None:
    with pytest.raises(SettingsError, match="characters"):
        receiver_secret("short", "https://example.com")
