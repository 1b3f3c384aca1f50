"""A billing store on disk with API keys in it."""

import os
from collections.abc import Sequence

from infra.api_keys import KeyTerms
from infra.store.api_keys import CREATION_ENTROPY_BYTES, create_key
from infra.store.engine import open_store
from infra.store.migrate import upgrade


def key_terms(tenant: str = "acme", project: str = "chatbot", **changes: object) -> KeyTerms:
    """What a key of a tenant may do: inference in tier standard."""
    usual: dict[str, object] = {
        "tenant": tenant,
        "project": project,
        "label": "test",
        "scopes": ("inference",),
        "service_tiers": ("standard",),
    }
    return KeyTerms.model_validate(usual | changes)


def store_with_keys(url: str, terms: Sequence[KeyTerms]) -> list[str]:
    """Bring a store to its newest schema and create keys; what clients present, in that order."""
    upgrade(url)
    store = open_store(url)
    texts = []
    for one in terms:
        entropy = os.urandom(CREATION_ENTROPY_BYTES)
        _, presented = create_key(store, one, created_by="test", now_ms=1, entropy=entropy)
        texts.append(presented.text())
    store.dispose()
    return texts
