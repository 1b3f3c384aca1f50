"""The log of what people decided about events: append-only, dense positions from 1."""

from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, insert, select

from infra.store.engine import take_turns
from infra.store.tables import decisions


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, such as a declared loss; `subject` is canonical JSON of what it is about."""

    position: int
    kind: str
    subject: str
    reason: str
    decided_by: str
    decided_at_ms: int


def append_decision(
    store: Engine, *, kind: str, subject: str, reason: str, decided_by: str, now_ms: int
) -> int:
    """Append a decision and return its position.

    Writers at once take turns: whoever has read up to a position has read everything before it.
    """
    with store.begin() as connection:
        take_turns(connection, "decisions")
        position = _latest(connection) + 1
        connection.execute(
            insert(decisions).values(
                position=position,
                kind=kind,
                subject=subject,
                reason=reason,
                decided_by=decided_by,
                decided_at_ms=now_ms,
            )
        )
        return position


def decisions_after(store: Engine, position: int) -> list[Decision]:
    """Every decision behind `position`, in order; all of them behind 0."""
    wanted = select(decisions).where(decisions.c.position > position).order_by(decisions.c.position)
    with store.connect() as connection:
        return [Decision(**row) for row in connection.execute(wanted).mappings()]


def latest_position(store: Engine) -> int:
    """Position of the newest decision, 0 where there is none."""
    with store.connect() as connection:
        return _latest(connection)


def _latest(connection: Connection) -> int:
    newest = select(func.coalesce(func.max(decisions.c.position), 0))
    return int(connection.execute(newest).scalar_one())
