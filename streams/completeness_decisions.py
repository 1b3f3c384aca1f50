"""What people decided about events, as closing an hour takes it: pure."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from infra.decision_kinds import DECLARE_LOSS
from infra.source_keys import REVOKE_KEY, ROTATE_KEY, KeyDecision, SourceKeys, source_keys
from schemas.errors import ContractError
from schemas.units import SEQUENCE_MAX

SETTLE_CONFLICT = "settle_conflict"
DISCARD_DEAD_LETTER = "discard_dead_letter"
REDRIVE_DEAD_LETTER = "redrive_dead_letter"
HASH_DIGITS = 32
"""A content hash in hex: the first half of a SHA-256."""
_SHA256_DIGITS = 64


@dataclass(slots=True)
class Decisions:
    """The decision log up to `position`: losses by source, and conflicts by event id.

    `settled` names per event id the content hash (hex) that stands, or the empty string where
    none does. `discarded` are content hashes (hex) of dead letters that nobody will bill, and
    `discarded_events` the ids that could be read of them. `of_keys` is what was decided about the
    keys of each source.
    """

    position: int = 0
    losses: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    discarded: set[str] = field(default_factory=set)
    discarded_events: set[str] = field(default_factory=set)
    of_keys: dict[str, list[KeyDecision]] = field(default_factory=dict)

    def losses_of(self, source: str) -> list[tuple[int, int]]:
        """Declared losses of one source, `(first, last)` inclusive."""
        return self.losses.get(source, [])

    def lost_from(self, source: str) -> int | None:
        """From which sequence on all of a source is lost: it ended there without saying so."""
        ends = [first for first, last in self.losses_of(source) if last == SEQUENCE_MAX]
        return min(ends) if ends else None

    def keys_of(self, source: str, public_key: str) -> SourceKeys:
        """The keys of one source that is registered with `public_key`.

        Raises:
            ContractError: If a decision about them cannot be read.
        """
        try:
            return source_keys(public_key, self.of_keys.get(source, ()))
        except ValueError as error:
            raise ContractError(f"source {source}: {error}") from error


def read_decisions(rows: Iterable[tuple[int, str, str]]) -> Decisions:
    """Take in rows `(position, kind, subject)`; kinds about other things are passed over.

    The subject of `declare_loss` is JSON `{"source", "sequence_first", "sequence_last"}`, that of
    `settle_conflict` is `{"event_id", "keep"}` with a content hash in hex, or "" for none, that of
    `discard_dead_letter` names `topic`, `partition`, `offset`, `content_sha256` and `event_id`.
    Those about keys are described in `infra.source_keys`. A loss up to the highest possible
    sequence says that the source is gone and sends no more.

    Raises:
        ContractError: If a subject has another form: a decision must not be half understood.
    """
    found = Decisions()
    for position, kind, subject in rows:
        found.position = max(found.position, position)
        try:
            if kind in (ROTATE_KEY, REVOKE_KEY):
                source = str(json.loads(subject)["source"])
                found.of_keys.setdefault(source, []).append(KeyDecision(position, kind, subject))
            elif kind in _TAKERS:
                _TAKERS[kind](found, json.loads(subject))
        except (ValueError, KeyError, TypeError) as error:
            raise ContractError(
                f"decision {position} ({kind}) cannot be read: {error}: {subject[:200]!r}"
            ) from error
    return found


def _take_loss(found: Decisions, subject: dict[str, object]) -> None:
    first, last = subject["sequence_first"], subject["sequence_last"]
    if not isinstance(first, int) or not isinstance(last, int):
        raise TypeError(f"a sequence is an integer: {first!r}, {last!r}")
    if not 1 <= first <= last <= SEQUENCE_MAX:
        raise ValueError(f"sequences {first} to {last} are no range")
    found.losses.setdefault(str(subject["source"]), []).append((first, last))


def _take_conflict(found: Decisions, subject: dict[str, object]) -> None:
    keep = subject["keep"]
    if not isinstance(keep, str) or (keep and len(bytes.fromhex(keep)) * 2 != HASH_DIGITS):
        raise ValueError(f"keep is a content hash of 32 hex digits, or empty: {keep!r}")
    found.settled[str(subject["event_id"])] = keep.lower()


def _take_discard(found: Decisions, subject: dict[str, object]) -> None:
    sha256 = str(subject["content_sha256"]).lower()
    if len(bytes.fromhex(sha256)) * 2 != _SHA256_DIGITS:
        raise ValueError(f"content_sha256 has {_SHA256_DIGITS} hex digits: {sha256!r}")
    found.discarded.add(sha256[:HASH_DIGITS])
    if subject["event_id"]:
        found.discarded_events.add(str(subject["event_id"]))


_TAKERS: dict[str, Callable[[Decisions, dict[str, object]], None]] = {
    DECLARE_LOSS: _take_loss,
    SETTLE_CONFLICT: _take_conflict,
    DISCARD_DEAD_LETTER: _take_discard,
}
