"""Takes the keys out of the billing store into the snapshot file that doors read."""

from pathlib import Path

from sqlalchemy import Engine

from inference.door_keys import DoorKey, DoorTenant, KeySnapshot, write_snapshot
from inference.end_user_labels import take_labels
from infra.store.api_keys import list_keys, list_tenant_access
from infra.store.budgets import list_budgets
from infra.store.end_users import note_end_users
from schemas.clock import Clock
from schemas.units import NS_PER_MS


def export_keys(store: Engine, path: Path, clock: Clock) -> KeySnapshot:
    """Write the snapshot, replacing the one before, and return it.

    To be repeated while doors are open: a door stops admitting when its snapshot is older than
    `door_keys_max_age_s`.
    """
    now_ms = clock.now_ns() // NS_PER_MS
    # By kind, and prepaid comes last: it decides what happens while nobody can be asked.
    kinds = {one.tenant: one.kind for one in list_budgets(store)}
    snapshot = KeySnapshot(
        written_at_ms=now_ms,
        keys=tuple(
            DoorKey(
                key_id=key.key_id,
                secret_hash=key.secret_hash,
                tenant=key.terms.tenant,
                project=key.terms.project,
                scopes=key.terms.scopes,
                service_tiers=key.terms.service_tiers,
                requests_per_minute=key.terms.requests_per_minute,
                expires_at_ms=key.terms.expires_at_ms,
                revoked=key.revoked_at_ms is not None,
            )
            for key in list_keys(store)
        ),
        tenants=tuple(
            DoorTenant(
                tenant=access.tenant,
                tenant_key=access.tenant_key,
                suspended=access.suspended_at_ms is not None,
                suspend_reason=access.suspend_reason or "",
                budget=kinds.get(access.tenant, ""),
            )
            for access in list_tenant_access(store)
        ),
    )
    write_snapshot(path, snapshot)
    return snapshot


def collect_labels(store: Engine, host_folder: Path) -> int:
    """Bring the end users' labels that this host's doors saw into the store; how many were new.

    A file goes when the store has it: after a crash in between it is read again, and known.
    """
    noted = 0
    for path, found in take_labels(host_folder):
        noted += note_end_users(store, found)
        path.unlink()
    return noted
