"""Sends the stand-in's events to a registered address, signed as Stripe signs; can misbehave."""

import hashlib
import hmac
import json
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass

from infra.stripe_fake.state import Body, State

TIMEOUT_S = 10.0
ATTEMPTS = 12
"""Stripe goes on for three days; this is enough for a receiver that is started again."""
_PAUSE_S = 0.02
_RETRY_FIRST_S = 0.05
_RETRY_MOST_S = 1.0
_OK = range(200, 300)
_CURSOR = "webhook_cursor"
_ENDPOINT = "webhook_endpoint"


@dataclass(slots=True)
class Manner:
    """How badly events are delivered."""

    copies: int = 1
    """Each event goes out so many times."""
    gather: int = 1
    """So many events are gathered and then sent the newest first."""
    drop: int = 0
    """So many of the next events are never sent."""


class Courier:
    """Delivers events in a thread of its own, at least once also over kill -9."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._endpoint = ""
        self.manner = Manner()
        self.deliveries: list[Body] = []
        """What was sent and answered, the oldest first."""

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def stop(self) -> None:
        """End after the delivery that is under way."""
        self._stop.set()
        self._thread.join(TIMEOUT_S)

    def register(self, url: str, secret: str) -> None:
        """Send what happens from now on to `url`, in place of any other address."""
        with self._state.transaction():
            newest, _ = self._state.newest(_ENDPOINT, "", {"limit": 1}, ())
            if newest:
                self._state.delete(newest[0]["id"])
            cursor = self._state.count(_CURSOR, 0)
            self._state.count(_CURSOR, self._state.last_sequence() - cursor)
            endpoint = {"id": self._state.new_id("we"), "url": url, "secret": secret}
            self._state.put(_ENDPOINT, endpoint)
            self._endpoint = endpoint["id"]

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            with self._state.transaction():
                found, _ = self._state.newest(_ENDPOINT, "", {"limit": 1}, ())
                cursor = self._state.count(_CURSOR, 0)
                waiting = self._state.events_after(cursor) if found else []
            if len(waiting) < self.manner.gather:
                continue
            if self.manner.gather > 1:
                waiting = waiting[::-1]
            for _, event in waiting:
                self._send(found[0], event)
            if waiting:
                with self._state.transaction():
                    # Meanwhile another address may have been registered, further on.
                    step = max(at for at, _ in waiting) - self._state.count(_CURSOR, 0)
                    self._state.count(_CURSOR, max(0, step))

    def _send(self, endpoint: Body, event: Body) -> None:
        if self.manner.drop > 0:
            self.manner.drop -= 1
            return
        for _ in range(self.manner.copies):
            pause_s = _RETRY_FIRST_S
            for _ in range(ATTEMPTS):
                status = self._post(endpoint, event)
                self.deliveries.append(
                    {"id": event["id"], "type": event["type"], "status": status, "event": event}
                )
                is_gone = self._endpoint not in ("", endpoint["id"])
                if status in _OK or is_gone or self._stop.wait(pause_s):
                    break
                pause_s = min(_RETRY_MOST_S, pause_s * 2)

    def _post(self, endpoint: Body, event: Body) -> int:
        """The answer's status; 0 where there was none."""
        with self._state.transaction():
            now_s = self._state.now_s()
        payload = json.dumps(event).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": sign(payload, endpoint["secret"], now_s),
        }
        # The address was registered by a test or by whoever started the stand-in.
        request = urllib.request.Request(endpoint["url"], payload, headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0


def sign(payload: bytes, secret: str, now_s: int) -> str:
    """The header `Stripe-Signature`: HMAC-SHA256 over `<time>.<body>`.

    Source: docs.stripe.com/webhooks, verify signatures manually.
    """
    mac = hmac.new(secret.encode(), f"{now_s}.".encode() + payload, hashlib.sha256)
    return f"t={now_s},v1={mac.hexdigest()}"
