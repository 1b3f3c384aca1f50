"""The log of what people decided about events: append-only, dense positions from 1."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Engine, func, insert, select

from infra.store.engine import take_turns
from infra.store.tables import decisions
from schemas.errors import ContractError


@dataclass(frozen=True, slots=True)
class NewDecision:
    """A decision that is not in the log yet; `subject` is canonical JSON of what it is about."""

    kind: str
    subject: str
    reason: str
    decided_by: str
    decided_at_ms: int


@dataclass(frozen=True, slots=True)
class Decider:
    """Who decides, why, and when."""

    decided_by: str
    reason: str
    now_ms: int

    def on(self, kind: str, subject: str) -> NewDecision:
        """Their decision on one thing."""
        return NewDecision(kind, subject, self.reason, self.decided_by, self.now_ms)


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, such as a declared loss; `subject` is canonical JSON of what it is about."""

    position: int
    kind: str
    subject: str
    reason: str
    decided_by: str
    decided_at_ms: int

    def about(self, name: str) -> str:
        """What the subject says under a name, as text.

        Raises:
            ContractError: If the subject is no JSON object or has no such name.
        """
        try:
            return str(json.loads(self.subject)[name])
        except (ValueError, KeyError, TypeError) as error:
            raise ContractError(
                f"decision {self.position} ({self.kind}) names no {name}: {self.subject[:200]!r}"
            ) from error


def append_decision(
    store: Engine, *, kind: str, subject: str, reason: str, decided_by: str, now_ms: int
) -> int:
    """Append a decision and return its position.

    Writers at once take turns: whoever has read up to a position has read everything before it.
    """
    (one,) = append_decisions(store, [NewDecision(kind, subject, reason, decided_by, now_ms)])
    return one.position


def append_decisions(
    store: Engine,
    new: Sequence[NewDecision],
    *,
    once: Callable[[Decision | NewDecision], str] | None = None,
) -> list[Decision]:
    """Append several decisions, all or none, at positions that follow each other.

    Args:
        store: The billing store.
        new: In the order of their positions.
        once: Says what a decision is about; where one of the same kind about the same is in the
            log already, that one is returned and nothing is appended for it.
    """
    with store.begin() as connection:
        take_turns(connection, "decisions")
        if once is None:
            return append_in(connection, new)
        known = {
            (one.kind, once(one)): one
            for one in decisions_of_kinds(connection, {one.kind for one in new})
        }
        missing = [one for one in new if (one.kind, once(one)) not in known]
        known |= {(one.kind, once(one)): one for one in append_in(connection, missing)}
        return [known[one.kind, once(one)] for one in new]


def append_in(connection: Connection, new: Sequence[NewDecision]) -> list[Decision]:
    """The same within a transaction of the caller's."""
    take_turns(connection, "decisions")
    first = _latest(connection) + 1
    appended = [Decision(first + place, **asdict(one)) for place, one in enumerate(new)]
    if appended:
        connection.execute(insert(decisions), [asdict(one) for one in appended])
    return appended


def decisions_of_kinds(connection: Connection, kinds: Collection[str]) -> list[Decision]:
    """Every decision of some kinds, in order, within a transaction of the caller's."""
    wanted = (
        select(decisions).where(decisions.c.kind.in_(sorted(kinds))).order_by(decisions.c.position)
    )
    return [Decision(**row) for row in connection.execute(wanted).mappings()]


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
