"""End users' labels beside their pseudonyms, and how they are erased.

Events hold a pseudonym only, so nothing of what is proven or archived ever changes. What links it
to a person is this table and the tenant's key, and both can be erased.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select, text, update

from infra.pseudonyms import END_USER, pseudonym
from infra.store.engine import take_turns
from infra.store.tables import decisions, end_user_labels, tenant_access
from schemas.errors import ContractError

ERASE_END_USER = "erase_end_user"
ERASE_TENANT = "erase_tenant_end_users"
LABEL_LENGTH_MAX = 512
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class EndUser:
    """One end user's label and the pseudonym that events carry for it."""

    tenant: str
    pseudonym: str
    label: str
    noted_at_ms: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """Who asks for what to be erased; `label` of None is every end user of the tenant."""

    tenant: str
    label: str | None
    decided_by: str
    reason: str
    now_ms: int


def note_end_users(store: Engine, found: Iterable[EndUser]) -> int:
    """Keep labels that doors saw; returns how many were new.

    One whose pseudonym is not that of the tenant's key of today is passed over: it was seen before
    an erasure, which must not be undone by a file that was read late.
    """
    noted = 0
    with store.begin() as connection:
        take_turns(connection, "end_user_labels")
        keys = _tenant_keys(connection)
        rows = connection.execute(select(end_user_labels.c.tenant, end_user_labels.c.pseudonym))
        known = {(row.tenant, row.pseudonym) for row in rows}
        for one in found:
            key = keys.get(one.tenant)
            if key is None or pseudonym(key, END_USER, one.label) != one.pseudonym:
                continue
            if (one.tenant, one.pseudonym) in known or len(one.label) > LABEL_LENGTH_MAX:
                continue
            connection.execute(
                insert(end_user_labels).values(
                    tenant=one.tenant,
                    pseudonym=one.pseudonym,
                    label=one.label,
                    noted_at_ms=one.noted_at_ms,
                )
            )
            known.add((one.tenant, one.pseudonym))
            noted += 1
    return noted


def pseudonyms_of(store: Engine, tenant: str, label: str) -> list[str]:
    """Every pseudonym that can still be linked to a label: by today's key, and by the table."""
    with store.connect() as connection:
        key = _tenant_keys(connection).get(tenant)
        rows = connection.execute(
            select(end_user_labels.c.pseudonym).where(
                end_user_labels.c.tenant == tenant, end_user_labels.c.label == label
            )
        ).scalars()
        found = set(rows)
    if key is not None:
        found.add(pseudonym(key, END_USER, label))
    return sorted(found)


def erase(store: Engine, erasure: Erasure, *, entropy: bytes) -> int:
    """Erase what links one end user, or all of a tenant's, to their events.

    The rows of the table go, and the tenant's key is replaced: with the old one anybody could try
    the label again. End users who stay keep the rows of their old pseudonyms, and have others from
    now on. Doors follow with the next snapshot of keys. Who asked and why is kept; the label not.

    Args:
        store: The billing store.
        erasure: Who asks, and for what.
        entropy: 32 bytes from the operating system, the new key.

    Returns:
        How many rows of the table went.

    Raises:
        ContractError: If the tenant never had an API key, or who or why is left out.
    """
    if len(entropy) != KEY_BYTES:
        raise ContractError(f"entropy: a tenant's key has {KEY_BYTES} bytes, not {len(entropy)}")
    for name, said in (("who", erasure.decided_by), ("why", erasure.reason)):
        if not said.strip():
            raise ContractError(f"{name}: an erasure says who asked for it and why")
        if erasure.label and erasure.label in said:
            raise ContractError(
                f"{name}: it names the end user, and is kept for ever: leave it out"
            )
    with store.begin() as connection:
        if connection.dialect.name == "sqlite":
            # Else the bytes stay in the file's free pages.
            connection.execute(text("PRAGMA secure_delete=ON"))
        take_turns(connection, "end_user_labels")
        removed = _remove(connection, erasure, entropy.hex())
        _record(connection, erasure, removed)
    if store.dialect.name == "sqlite":
        _empty_the_log(store)
    return removed


def _remove(connection: Connection, erasure: Erasure, new_key: str) -> int:
    replaced = connection.execute(
        update(tenant_access)
        .where(tenant_access.c.tenant == erasure.tenant)
        .values(tenant_key=new_key)
    )
    if replaced.rowcount == 0:
        raise ContractError(f"tenant: {erasure.tenant} never had an API key")
    gone = delete(end_user_labels).where(end_user_labels.c.tenant == erasure.tenant)
    if erasure.label is not None:
        gone = gone.where(end_user_labels.c.label == erasure.label)
    return connection.execute(gone).rowcount


def _record(connection: Connection, erasure: Erasure, removed: int) -> None:
    take_turns(connection, "decisions")
    latest = connection.execute(
        select(decisions.c.position).order_by(decisions.c.position.desc()).limit(1)
    ).scalar_one_or_none()
    subject = {"tenant": erasure.tenant, "labels_removed": removed}
    connection.execute(
        insert(decisions).values(
            position=(latest or 0) + 1,
            kind=ERASE_TENANT if erasure.label is None else ERASE_END_USER,
            subject=json.dumps(subject, sort_keys=True, separators=(",", ":")),
            reason=erasure.reason,
            decided_by=erasure.decided_by,
            decided_at_ms=erasure.now_ms,
        )
    )


def _empty_the_log(store: Engine) -> None:
    """SQLite's write-ahead log still holds the pages as they were; bring it in and cut it."""
    connection = store.raw_connection()
    try:
        connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def _tenant_keys(connection: Connection) -> dict[str, str]:
    rows = connection.execute(select(tenant_access.c.tenant, tenant_access.c.tenant_key))
    return {row.tenant: row.tenant_key for row in rows}
