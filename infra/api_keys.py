"""API keys as values: the text a client sends, what is kept of it, what a key may do. Pure.

A key reads `rr_<id>_<secret>`. The id is public and stands in events and on statements as
`key_<id>`. The secret is 32 random bytes, shown once. At rest lies HMAC-SHA-256 of the secret
under the key's id. A slow hash would protect words that people choose; 256 random bits cannot be
guessed at any speed, and a door that hashes slowly could be stopped by sending it wrong keys. The
id makes equal secrets hash differently, and a hash useless in another key's row.
"""

import base64
import hmac
import re
from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import Field

from schemas.fields import Contract, Label, Name

Scope = Literal["inference", "operator"]
"""`inference` serves a tenant's requests; `operator` opens what runs and watches the server."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
ServiceTier = Literal["batch", "flex", "standard", "priority"]
SERVICE_TIERS: tuple[ServiceTier, ...] = get_args(ServiceTier)
"""From the last to be served to the first; a key's cap is a place in this order."""

ENTROPY_BYTES = 42
"""Random bytes that a key is made of: 10 for its id, 32 for its secret."""
_ID_BYTES = 10
_TEXT = re.compile(r"rr_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")
_HASHED_FOR = b"rentroll api key v1 "


class KeyTerms(Contract):
    """Whose key it is and what it may do. No `requests_per_minute` means no limit."""

    tenant: Name
    project: Name
    label: Label
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    service_tiers: Annotated[tuple[ServiceTier, ...], Field(min_length=1)]
    requests_per_minute: Annotated[int, Field(ge=1, le=60_000_000)] | None = None
    expires_at_ms: Annotated[int, Field(ge=0)] | None = None


class PresentedKey(NamedTuple):
    """What a client sent, taken apart; nobody has looked yet whether it is a key."""

    key_id: str
    secret: str

    def text(self) -> str:
        """The key as its owner keeps it."""
        return f"rr_{self.key_id.removeprefix('key_')}_{self.secret}"


def new_key(entropy: bytes) -> PresentedKey:
    """A key from random bytes.

    Raises:
        ValueError: If there are not `ENTROPY_BYTES` of them.
    """
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a key is made of {ENTROPY_BYTES} random bytes, not {len(entropy)}")
    key_id = base64.b32encode(entropy[:_ID_BYTES]).decode().lower()
    secret = base64.urlsafe_b64encode(entropy[_ID_BYTES:]).decode().rstrip("=")
    return PresentedKey(f"key_{key_id}", secret)


def parse_key(text: str) -> PresentedKey | None:
    """Take apart what a client sent; None where it does not look like a key."""
    found = _TEXT.fullmatch(text)
    return PresentedKey(f"key_{found.group(1)}", found.group(2)) if found else None


def secret_hash(presented: PresentedKey) -> str:
    """What is kept of a key: 64 hex digits."""
    key = _HASHED_FOR + presented.key_id.encode()
    return hmac.digest(key, presented.secret.encode(), "sha256").hex()


def is_secret_of(presented: PresentedKey, kept_hash: str) -> bool:
    """Whether this secret has that hash; takes as long for a near miss as for any other."""
    return hmac.compare_digest(secret_hash(presented), kept_hash)
