"""API keys in the billing store: shown once, changed once, never deleted; on both databases."""

import pytest
from sqlalchemy import Engine, delete, text, update
from sqlalchemy.exc import IntegrityError

from infra.api_keys import KeyTerms, is_secret_of, parse_key
from infra.store.api_keys import (
    CREATION_ENTROPY_BYTES,
    create_key,
    list_keys,
    list_tenant_access,
    resume_tenant,
    revoke_key,
    suspend_tenant,
)
from infra.store.tables import api_keys
from schemas.errors import ContractError

TERMS = KeyTerms(
    tenant="acme",
    project="chatbot",
    label="the chatbot's first key",
    scopes=("inference",),
    service_tiers=("standard", "flex"),
    requests_per_minute=600,
    expires_at_ms=2_000,
)


def entropy(seed: int) -> bytes:
    return bytes([seed]) * CREATION_ENTROPY_BYTES


def make(store: Engine, seed: int = 1, terms: KeyTerms = TERMS) -> str:
    key, _ = create_key(store, terms, created_by="ada", now_ms=1_000, entropy=entropy(seed))
    return key.key_id


def test_key_comes_back_as_it_was_created_but_for_its_secret(store: Engine) -> None:
    key, presented = create_key(store, TERMS, created_by="ada", now_ms=1_000, entropy=entropy(1))
    assert list_keys(store) == [key]
    assert key.terms == TERMS
    assert parse_key(presented.text()) == presented
    assert is_secret_of(presented, key.secret_hash)
    with store.connect() as connection:
        kept = connection.execute(text("SELECT * FROM api_keys")).one()
    assert presented.secret not in "".join(map(str, kept))


def test_keys_of_one_tenant_are_listed_apart(store: Engine) -> None:
    mine = make(store, 1)
    make(store, 2, TERMS.model_copy(update={"tenant": "globex"}))
    assert [key.key_id for key in list_keys(store, "acme")] == [mine]
    assert len(list_keys(store)) == 2


def test_key_that_would_have_expired_already_is_refused(store: Engine) -> None:
    late = TERMS.model_copy(update={"expires_at_ms": 1_000})
    with pytest.raises(ContractError, match="expires_at_ms: 1000 is not after now"):
        make(store, 1, late)
    assert list_keys(store) == []


def test_first_revocation_stays(store: Engine) -> None:
    key_id = make(store)
    first = revoke_key(store, key_id, revoked_by="ada", reason="leaked", now_ms=5)
    again = revoke_key(store, key_id, revoked_by="bob", reason="tidying", now_ms=6)
    assert first == again
    assert (again.revoked_by, again.revoke_reason, again.revoked_at_ms) == ("ada", "leaked", 5)


def test_unknown_key_cannot_be_revoked(store: Engine) -> None:
    with pytest.raises(ContractError, match="no API key key_nobody"):
        revoke_key(store, "key_nobody", revoked_by="ada", reason="", now_ms=5)


def test_key_cannot_be_deleted_rewritten_or_revived(store: Engine) -> None:
    key_id = make(store)
    this = api_keys.c.key_id == key_id
    with pytest.raises(IntegrityError, match="cannot be deleted"), store.begin() as connection:
        connection.execute(delete(api_keys).where(this))
    for change in ({"tenant": "globex"}, {"secret_hash": "0" * 64}, {"scopes": '["operator"]'}):
        with pytest.raises(IntegrityError, match="changes once"), store.begin() as connection:
            connection.execute(update(api_keys).where(this).values(change))
    revoke_key(store, key_id, revoked_by="ada", reason="leaked", now_ms=5)
    revived = {"revoked_at_ms": None, "revoked_by": None}
    with pytest.raises(IntegrityError, match="changes once"), store.begin() as connection:
        connection.execute(update(api_keys).where(this).values(revived))


def test_suspension_is_kept_until_it_is_lifted(store: Engine) -> None:
    make(store)
    suspend_tenant(store, "acme", suspended_by="ada", reason="unpaid", now_ms=5)
    suspend_tenant(store, "acme", suspended_by="bob", reason="again", now_ms=6)
    (access,) = list_tenant_access(store)
    assert (access.suspended_at_ms, access.suspended_by) == (5, "ada")
    assert access.suspend_reason == "unpaid"
    resume_tenant(store, "acme")
    assert list_tenant_access(store)[0].suspended_at_ms is None


def test_tenant_without_a_key_cannot_be_suspended(store: Engine) -> None:
    with pytest.raises(ContractError, match="acme never had an API key"):
        suspend_tenant(store, "acme", suspended_by="ada", reason="unpaid", now_ms=5)


def test_second_key_of_a_tenant_leaves_the_tenants_own_key_alone(store: Engine) -> None:
    make(store, 1)
    make(store, 2)
    (access,) = list_tenant_access(store)
    assert access.tenant_key == "01" * 32
