"""The registry of sources: whose signature on events counts."""

from sqlalchemy import Engine, insert, select

from infra.store.engine import take_turns
from infra.store.tables import sources
from schemas.errors import ContractError


def register_source(
    store: Engine, *, source: str, host: str, public_key: str, registered_by: str, now_ms: int
) -> None:
    """Register a source's public key; the same registration again changes nothing.

    Raises:
        ContractError: If the source is registered with another key.
    """
    with store.begin() as connection:
        take_turns(connection, f"sources/{source}")
        known = connection.execute(
            select(sources.c.public_key).where(sources.c.source == source)
        ).scalar_one_or_none()
        if known is None:
            connection.execute(
                insert(sources).values(
                    source=source,
                    host=host,
                    public_key=public_key,
                    registered_by=registered_by,
                    registered_at_ms=now_ms,
                )
            )
        elif known != public_key:
            raise ContractError(f"source {source} is registered with another key, {known}")


def registered_keys(store: Engine) -> dict[str, str]:
    """Public key per source, of every source that is not revoked."""
    with store.connect() as connection:
        rows = connection.execute(
            select(sources.c.source, sources.c.public_key).where(sources.c.revoked_at_ms.is_(None))
        )
        return {row.source: row.public_key for row in rows}
