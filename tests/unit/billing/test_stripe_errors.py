"""What an error of the SDK means for a write: again, look, hold, or stop."""

from typing import Any

import pytest
import stripe as typed_stripe

from billing.stripe_gateway import LIVE, LOCAL, SANDBOX, limits_for, retry_reason
from schemas.errors import StripeRefusedError, StripeStopError, StripeUncertainError

stripe: Any = typed_stripe
"""Its errors' constructors carry no types."""


@pytest.mark.parametrize(
    "error",
    [
        stripe.RateLimitError("slow down", http_status=429),
        stripe.APIConnectionError("reset"),
        stripe.APIError("busy", http_status=409),
        stripe.IdempotencyError("in use", http_status=409),
        stripe.APIError("broken", http_status=500),
        stripe.APIError("gateway", http_status=503),
        stripe.APIError("answer without a status"),
    ],
)
def test_same_request_may_go_out_again(error: typed_stripe.StripeError) -> None:
    assert retry_reason(error) == str(error)


@pytest.mark.parametrize("header", ["Idempotent-Replayed", "idempotent-replayed"])
def test_a_replayed_500_needs_a_look(header: str) -> None:
    error = stripe.APIError("broken", http_status=500, headers={header: "true"})
    with pytest.raises(StripeUncertainError):
        retry_reason(error)


@pytest.mark.parametrize(
    "error",
    [
        stripe.InvalidRequestError("no such customer", "customer", http_status=400),
        stripe.IdempotencyError("other body", http_status=400),
        stripe.APIError("gone", http_status=404),
    ],
)
def test_a_refusal_holds_the_invoice(error: typed_stripe.StripeError) -> None:
    with pytest.raises(StripeRefusedError, match="HTTP 40"):
        retry_reason(error)


@pytest.mark.parametrize(
    "error",
    [
        stripe.AuthenticationError("bad key", http_status=401),
        stripe.PermissionError("not allowed", http_status=403),
    ],
)
def test_a_wrong_key_stops_the_run(error: typed_stripe.StripeError) -> None:
    with pytest.raises(StripeStopError):
        retry_reason(error)


def test_limits_follow_the_key_and_the_base() -> None:
    assert limits_for("sk_live_x", None) == LIVE
    assert limits_for("rk_test_x", None) == SANDBOX
    assert limits_for("sk_test_x", "http://127.0.0.1:1") == LOCAL
