"""Who may say something about an invoice: a body that Stripe signed, now."""

import json

import pytest

from billing.stripe_gateway import read_webhook
from infra.stripe_fake.webhooks import sign
from schemas.errors import ContractError

NOW_S = 1_790_000_000
EVENT = {
    "id": "evt_1",
    "type": "invoice.paid",
    "created": NOW_S,
    "data": {"object": {"id": "in_1"}},
}
BODY = json.dumps(EVENT).encode()


def read(payload: bytes = BODY, signature: str = "", *, now_s: int = NOW_S) -> str:
    signature = signature or sign(payload, "whsec_new", NOW_S)
    secrets = ("whsec_old", "whsec_new")
    return read_webhook(payload, signature, secrets, now_s=now_s, tolerance_s=300).subject


def test_event_signed_with_any_secret_in_force_is_read() -> None:
    assert read() == "in_1"
    assert read(signature=sign(BODY, "whsec_old", NOW_S)) == "in_1"


@pytest.mark.parametrize(
    "signature",
    [
        sign(BODY, "whsec_other", NOW_S),
        sign(BODY + b" ", "whsec_new", NOW_S),
        sign(BODY, "whsec_new", NOW_S).replace("v1=", "v0="),
        sign(BODY, "whsec_new", NOW_S).replace(f"t={NOW_S}", f"t={NOW_S + 1}"),
        "t=1",
        "t=x,v1=00",
        "nonsense",
        "t=1,v1=é",
    ],
)
def test_body_that_nobody_signed_is_refused(signature: str) -> None:
    with pytest.raises(ContractError, match="no secret in force"):
        read(signature=signature)


def test_missing_header_is_refused() -> None:
    with pytest.raises(ContractError, match="no secret in force"):
        read_webhook(BODY, "", ("whsec_new",), now_s=NOW_S, tolerance_s=300)


@pytest.mark.parametrize("off_s", [301, -301])
def test_signature_from_too_long_ago_or_from_the_future_is_refused(off_s: int) -> None:
    with pytest.raises(ContractError, match="is this host's clock right"):
        read(now_s=NOW_S + off_s)


@pytest.mark.parametrize("off_s", [300, -300])
def test_signature_within_the_tolerance_is_taken(off_s: int) -> None:
    assert read(now_s=NOW_S + off_s) == "in_1"


@pytest.mark.parametrize("payload", [b"[]", b"{}", b"null", b'{"data":[]}', b"{", b"\xff"])
def test_signed_body_that_is_no_event_is_refused(payload: bytes) -> None:
    with pytest.raises(ContractError):
        read(payload)
