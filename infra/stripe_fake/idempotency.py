"""Idempotency keys as Stripe keeps them: the first answer is the answer, for 24 hours.

Source: docs.stripe.com/api/idempotent_requests. An answer is kept once execution has begun,
a 500 too; requests that fail validation are not kept; the same key with other parameters is
refused; a key may be forgotten when it is 24 hours old, and here it then is.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from infra.stripe_fake.refusal import RefusalError
from infra.stripe_fake.state import State, read_body

KEPT_FOR_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The first answer under a key."""

    status: int
    body: dict[str, Any]
    request_id: str


def digest_of(path: str, form: dict[str, Any]) -> str:
    """What two requests under one key must share."""
    return hashlib.sha256(json.dumps([path, form], sort_keys=True).encode()).hexdigest()


def recall(state: State, key: str, digest: str) -> KeptAnswer | None:
    """The first answer under `key`, if it is still kept.

    Raises:
        RefusalError: If the key was first used with another request.
    """
    state.connection.execute("DELETE FROM keys WHERE used_at_s <= ?", (state.now_s() - KEPT_FOR_S,))
    row = state.connection.execute(
        "SELECT digest, status, body, request_id FROM keys WHERE key = ?", (key,)
    ).fetchone()
    if row is None:
        return None
    if row[0] != digest:
        raise RefusalError(
            "Keys for idempotent requests can only be used with the same parameters they were"
            f" first used with. Try using a key other than '{key}'.",
            kind="idempotency_error",
        )
    return KeptAnswer(row[1], read_body(row[2]), row[3])


def keep(state: State, key: str, digest: str, answer: KeptAnswer) -> None:
    """Keep the first answer under a key."""
    state.connection.execute(
        "INSERT INTO keys VALUES(?, ?, ?, ?, ?, ?)",
        (key, digest, answer.status, json.dumps(answer.body), answer.request_id, state.now_s()),
    )
