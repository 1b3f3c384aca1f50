"""API keys in the billing store, and which tenants are served."""

import json
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, select, update

from infra.api_keys import ENTROPY_BYTES, KeyTerms, PresentedKey, new_key, secret_hash
from infra.store.engine import take_turns
from infra.store.tables import api_keys, tenant_access
from schemas.errors import ContractError

CREATION_ENTROPY_BYTES = ENTROPY_BYTES + 32
"""Random bytes for a key, and for the tenant's own key should this be its first."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: everything but its secret."""

    key_id: str
    secret_hash: str
    terms: KeyTerms
    created_by: str
    created_at_ms: int
    revoked_at_ms: int | None = None
    revoked_by: str | None = None
    revoke_reason: str | None = None


@dataclass(frozen=True, slots=True)
class TenantAccess:
    """Whether a tenant is served; `tenant_key` are 32 secret bytes as hex."""

    tenant: str
    tenant_key: str
    suspended_at_ms: int | None = None
    suspended_by: str | None = None
    suspend_reason: str | None = None


def create_key(
    store: Engine, terms: KeyTerms, *, created_by: str, now_ms: int, entropy: bytes
) -> tuple[ApiKey, PresentedKey]:
    """Create a key; what is returned beside it holds the secret, which nobody can show again.

    Args:
        store: The billing store.
        terms: Whose it is and what it may do.
        created_by: Who says so.
        now_ms: Milliseconds since the epoch.
        entropy: `CREATION_ENTROPY_BYTES` from the operating system.

    Raises:
        ContractError: If it would have expired already.
    """
    if terms.expires_at_ms is not None and terms.expires_at_ms <= now_ms:
        raise ContractError(f"expires_at_ms: {terms.expires_at_ms} is not after now, {now_ms}")
    presented = new_key(entropy[:ENTROPY_BYTES])
    key = ApiKey(presented.key_id, secret_hash(presented), terms, created_by, now_ms)
    with store.begin() as connection:
        _know_tenant(connection, terms.tenant, entropy[ENTROPY_BYTES:].hex())
        row = terms.model_dump() | {
            "scopes": json.dumps(terms.scopes),
            "service_tiers": json.dumps(terms.service_tiers),
        }
        connection.execute(
            insert(api_keys).values(
                key_id=key.key_id,
                secret_hash=key.secret_hash,
                created_by=created_by,
                created_at_ms=now_ms,
                **row,
            )
        )
    return key, presented


def revoke_key(store: Engine, key_id: str, *, revoked_by: str, reason: str, now_ms: int) -> ApiKey:
    """Revoke a key for good; again changes nothing, and who did it first stays.

    Raises:
        ContractError: If there is no such key.
    """
    with store.begin() as connection:
        connection.execute(
            update(api_keys)
            .where(api_keys.c.key_id == key_id, api_keys.c.revoked_at_ms.is_(None))
            .values(revoked_at_ms=now_ms, revoked_by=revoked_by, revoke_reason=reason)
        )
        found = _keys(connection, key_id=key_id)
    if not found:
        raise ContractError(f"key_id: there is no API key {key_id}")
    return found[0]


def list_keys(store: Engine, tenant: str | None = None) -> list[ApiKey]:
    """All keys, revoked and expired ones too, by tenant and age; of one tenant if it is named."""
    with store.connect() as connection:
        return _keys(connection, **({} if tenant is None else {"tenant": tenant}))


def suspend_tenant(
    store: Engine, tenant: str, *, suspended_by: str, reason: str, now_ms: int
) -> None:
    """Stop serving a tenant; one who is suspended already stays so, for the first reason.

    Raises:
        ContractError: If the tenant never had a key.
    """
    _set_suspension(store, tenant, (now_ms, suspended_by, reason))


def resume_tenant(store: Engine, tenant: str) -> None:
    """Serve a tenant again.

    Raises:
        ContractError: If the tenant never had a key.
    """
    _set_suspension(store, tenant, (None, None, None))


def suspend_within(
    connection: Connection, tenant: str, *, suspended_by: str, reason: str, now_ms: int
) -> bool:
    """`suspend_tenant` in the caller's transaction; False for a tenant that never had a key."""
    change = update(tenant_access).where(
        tenant_access.c.tenant == tenant, tenant_access.c.suspended_at_ms.is_(None)
    )
    connection.execute(
        change.values(suspended_at_ms=now_ms, suspended_by=suspended_by, suspend_reason=reason)
    )
    known = select(tenant_access.c.tenant).where(tenant_access.c.tenant == tenant)
    return connection.execute(known).scalar_one_or_none() is not None


def resume_within(connection: Connection, tenant: str, *, suspended_by: str) -> bool:
    """Serve a tenant again whom `suspended_by` suspended; whether that was so."""
    changed = connection.execute(
        update(tenant_access)
        .where(tenant_access.c.tenant == tenant, tenant_access.c.suspended_by == suspended_by)
        .values(suspended_at_ms=None, suspended_by=None, suspend_reason=None)
    )
    return changed.rowcount == 1


def list_tenant_access(store: Engine) -> list[TenantAccess]:
    """Every tenant that ever had a key, by name."""
    wanted = select(tenant_access).order_by(tenant_access.c.tenant)
    with store.connect() as connection:
        return [TenantAccess(**row) for row in connection.execute(wanted).mappings()]


def _set_suspension(
    store: Engine, tenant: str, suspension: tuple[int | None, str | None, str | None]
) -> None:
    at_ms, by, reason = suspension
    change = update(tenant_access).where(tenant_access.c.tenant == tenant)
    if at_ms is not None:
        change = change.where(tenant_access.c.suspended_at_ms.is_(None))
    with store.begin() as connection:
        known = select(tenant_access.c.tenant).where(tenant_access.c.tenant == tenant)
        if connection.execute(known).scalar_one_or_none() is None:
            raise ContractError(f"tenant: {tenant} never had an API key")
        connection.execute(
            change.values(suspended_at_ms=at_ms, suspended_by=by, suspend_reason=reason)
        )


def _know_tenant(connection: Connection, tenant: str, tenant_key: str) -> None:
    take_turns(connection, f"tenant_access/{tenant}")
    known = select(tenant_access.c.tenant).where(tenant_access.c.tenant == tenant)
    if connection.execute(known).scalar_one_or_none() is None:
        connection.execute(insert(tenant_access).values(tenant=tenant, tenant_key=tenant_key))


def _keys(connection: Connection, **wanted: str) -> list[ApiKey]:
    query = select(api_keys).filter_by(**wanted)
    rows = connection.execute(
        query.order_by(api_keys.c.tenant, api_keys.c.created_at_ms, api_keys.c.key_id)
    )
    return [
        ApiKey(
            key_id=row.key_id,
            secret_hash=row.secret_hash,
            terms=KeyTerms(
                tenant=row.tenant,
                project=row.project,
                label=row.label,
                scopes=tuple(json.loads(row.scopes)),
                service_tiers=tuple(json.loads(row.service_tiers)),
                requests_per_minute=row.requests_per_minute,
                expires_at_ms=row.expires_at_ms,
            ),
            created_by=row.created_by,
            created_at_ms=row.created_at_ms,
            revoked_at_ms=row.revoked_at_ms,
            revoked_by=row.revoked_by,
            revoke_reason=row.revoke_reason,
        )
        for row in rows
    ]
