"""The registry of sources: whose signature on events counts, from where, and who decided it.

A registration is a row of `sources`; a rotation or a revocation is a decision. Neither is ever
changed, so the history of a key is what is written.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Engine, insert, select

from infra.source_keys import (
    REVOKE_KEY,
    ROTATE_KEY,
    KeyDecision,
    SourceKeys,
    revocation_subject,
    rotation_subject,
    source_keys,
    suspicion_subject,
)
from infra.store.decisions import Decider, Decision, NewDecision, append_in, decisions_of_kinds
from infra.store.engine import take_turns
from infra.store.tables import sources
from schemas.errors import ContractError

KEY_KINDS = (ROTATE_KEY, REVOKE_KEY)


@dataclass(frozen=True, slots=True)
class RegisteredSource:
    """A source as it was registered; `reason` says why, unless its sidecar did it."""

    source: str
    host: str
    public_key: str
    registered_by: str
    registered_at_ms: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class SourceHistory:
    """A source, everything decided about its keys, oldest first, and how they stand."""

    registered: RegisteredSource
    decisions: tuple[Decision, ...]
    keys: SourceKeys


def register_source(  # noqa: PLR0913 - one per column
    store: Engine,
    *,
    source: str,
    host: str,
    public_key: str,
    registered_by: str,
    now_ms: int,
    reason: str | None = None,
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
                    reason=reason,
                )
            )
        elif known != public_key:
            raise ContractError(f"source {source} is registered with another key, {known}")


def rotate_key(
    store: Engine,
    source: str,
    *,
    public_key: str,
    from_sequence: int,
    decider: Decider,
) -> int:
    """Let another key vouch for a source from a sequence on; returns the decision's position.

    Raises:
        ContractError: If the source is unknown, or the rotation contradicts what was decided.
    """
    subject = rotation_subject(source, public_key, from_sequence)
    return _decide(store, source, decider.on(ROTATE_KEY, subject))


def revoke_key(
    store: Engine,
    source: str,
    *,
    trusted_through: int,
    decider: Decider,
) -> int:
    """End the trust in a source's key; returns the decision's position.

    What it signed up to `trusted_through` still counts (0: nothing), nothing beyond. A later
    revocation of the same key says it anew.

    Raises:
        ContractError: If the source is unknown or the sequence is none.
    """
    subject = revocation_subject(source, trusted_through, decider.now_ms)
    return _decide(store, source, decider.on(REVOKE_KEY, subject))


def suspect_key(
    store: Engine,
    source: str,
    *,
    suspected_from: int,
    decider: Decider,
) -> int:
    """Say that a key is compromised; returns the decision's position.

    Every hour that needs a sequence from there on is held until `revoke_key` says through which
    sequence the key is trusted.

    Raises:
        ContractError: If the source is unknown or the sequence is none.
    """
    subject = suspicion_subject(source, suspected_from)
    return _decide(store, source, decider.on(REVOKE_KEY, subject))


def source_histories(store: Engine) -> list[SourceHistory]:
    """Every source that was ever registered, oldest first.

    Raises:
        ContractError: If a decision in the store cannot be read.
    """
    with store.connect() as connection:
        rows = connection.execute(
            select(sources).order_by(sources.c.registered_at_ms, sources.c.source)
        ).mappings()
        found = [RegisteredSource(**row) for row in rows]
        about = _by_source(decisions_of_kinds(connection, KEY_KINDS))
    return [
        SourceHistory(one, tuple(about.get(one.source, ())), _fold(one, about.get(one.source, ())))
        for one in found
    ]


def source_history(store: Engine, source: str) -> SourceHistory:
    """One source.

    Raises:
        ContractError: If it was never registered.
    """
    for one in source_histories(store):
        if one.registered.source == source:
            return one
    raise ContractError(f"source {source} is not registered")


def registered_keys(store: Engine) -> dict[str, str]:
    """Public key per source that vouches for what it sends now; revoked ones are left out."""
    return {
        one.registered.source: one.keys.terms[-1].public_key
        for one in source_histories(store)
        if one.keys.state == "trusted"
    }


def _decide(store: Engine, source: str, new: NewDecision) -> int:
    """Append a decision, once it is clear that it can be folded with those before it."""
    with store.begin() as connection:
        take_turns(connection, f"sources/{source}")
        row = connection.execute(select(sources).where(sources.c.source == source)).mappings()
        known = row.one_or_none()
        if known is None:
            raise ContractError(f"source {source} is not registered")
        before = _by_source(decisions_of_kinds(connection, KEY_KINDS)).get(source, [])
        (appended,) = append_in(connection, [new])
        _fold(RegisteredSource(**known), [*before, appended])
        return appended.position


def _by_source(decided: Iterable[Decision]) -> dict[str, list[Decision]]:
    found: dict[str, list[Decision]] = {}
    for one in decided:
        found.setdefault(one.about("source"), []).append(one)
    return found


def _fold(registered: RegisteredSource, decided: Iterable[Decision]) -> SourceKeys:
    try:
        return source_keys(
            registered.public_key,
            (KeyDecision(one.position, one.kind, one.subject) for one in decided),
        )
    except ValueError as error:
        raise ContractError(f"source {registered.source}: {error}") from error
