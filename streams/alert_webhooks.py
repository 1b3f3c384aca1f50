"""Sends budget alerts to whoever asked for them, with signatures as Standard Webhooks has them.

An alert's id and body are the same at every attempt, so a receiver that was told twice can tell.
"""

import base64
import hashlib
import hmac
import logging
from datetime import UTC, datetime

import requests
from sqlalchemy import Engine
from standardwebhooks import Webhook

from infra.store.budgets import Alert, alerts_due, claim_alert, record_attempt
from schemas.errors import SettingsError
from schemas.units import MS_PER_S

log = logging.getLogger("rentroll.live")

SECRET_CHARACTERS_MIN = 32
_FIRST_WAIT_MS = 5_000
_LONGEST_WAIT_MS = 3_600_000
_AT_ONCE = 100
_SUCCESS = range(200, 300)


def receiver_secret(master: str, webhook_url: str) -> str:
    """The secret by which one receiver checks what we send: `whsec_…`, derived from ours.

    Each address has its own, so no receiver can write to another in our name.

    Raises:
        SettingsError: If ours is too short to derive others from.
    """
    if len(master) < SECRET_CHARACTERS_MIN:
        raise SettingsError(
            f"RENTROLL_BUDGET_WEBHOOK_SECRET has {len(master)} characters, needs"
            f" {SECRET_CHARACTERS_MIN}"
        )
    derived = hmac.digest(master.encode(), f"webhook\0{webhook_url}".encode(), hashlib.sha256)
    return "whsec_" + base64.b64encode(derived).decode()


class AlertSender:
    """Sends what is due; several at once share the work without sending anything twice at once."""

    def __init__(self, store: Engine, master: str, *, timeout_s: float, attempts: int) -> None:
        receiver_secret(master, "")
        self._store = store
        self._master = master
        self._timeout_s = timeout_s
        self._attempts = attempts

    def send_due(self, now_ms: int) -> int:
        """Make one attempt for each alert that is due; returns how many were delivered."""
        delivered = 0
        for alert in alerts_due(self._store, now_ms, _AT_ONCE):
            wait_ms = min(_FIRST_WAIT_MS << min(alert.attempts, 20), _LONGEST_WAIT_MS)
            # Counted first: whoever dies here has made the attempt, and it comes again later.
            if claim_alert(self._store, alert, now_ms + wait_ms):
                delivered += self._attempt(alert, now_ms)
        return delivered

    def _attempt(self, alert: Alert, now_ms: int) -> bool:
        problem = self._post(alert, now_ms)
        if not problem:
            record_attempt(self._store, alert.id, "delivered", "")
            return True
        state = "pending" if alert.attempts + 1 < self._attempts else "given_up"
        record_attempt(self._store, alert.id, state, problem)
        log.warning(
            "alert not delivered", extra={"alert": alert.id, "why": problem, "state": state}
        )
        return False

    def _post(self, alert: Alert, now_ms: int) -> str:
        """Send it; what went wrong, empty if it arrived. Redirects are not followed."""
        url = alert.webhook_url or ""
        sent_at = datetime.fromtimestamp(now_ms // MS_PER_S, UTC)
        signature = Webhook(receiver_secret(self._master, url)).sign(
            msg_id=alert.id, timestamp=sent_at, data=alert.body
        )
        headers = {
            "content-type": "application/json",
            "webhook-id": alert.id,
            "webhook-timestamp": str(now_ms // MS_PER_S),
            "webhook-signature": signature,
        }
        try:
            answer = requests.post(
                url,
                data=alert.body.encode(),
                headers=headers,
                timeout=self._timeout_s,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return type(error).__name__
        return "" if answer.status_code in _SUCCESS else f"status {answer.status_code}"
