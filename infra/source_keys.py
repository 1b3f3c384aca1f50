"""Which keys vouch for which sequences of a source, by what was decided about them: pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from schemas.units import SEQUENCE_MAX

ROTATE_KEY = "rotate_source_key"
REVOKE_KEY = "revoke_source_key"
_HEX_KEY_DIGITS = 64


@dataclass(frozen=True, slots=True)
class KeyDecision:
    """One decision about the keys of a source; `subject` is its canonical JSON."""

    position: int
    kind: str
    subject: str


@dataclass(frozen=True, slots=True)
class KeyTerm:
    """A public key (hex) and the sequences `first` to `last`, inclusive, that it vouches for."""

    public_key: str
    first: int
    last: int = SEQUENCE_MAX

    def covers(self, first: int, last: int) -> bool:
        """Whether a whole range is within the term: no range is signed by two keys."""
        return self.first <= first and last <= self.last


@dataclass(frozen=True, slots=True)
class SourceKeys:
    """The keys of one source as they stand.

    `trusted_through` is the last sequence that counts of a source whose key was revoked, None
    while it goes on; `revoked_at_ms` says when that was. `suspected_from` is the first sequence
    that a compromised key may have forged, None where nobody suspects it; `suspected_by` is the
    position of the decision that says so.
    """

    terms: tuple[KeyTerm, ...]
    trusted_through: int | None = None
    revoked_at_ms: int = 0
    suspected_from: int | None = None
    suspected_by: int = 0

    def trusted(self) -> list[KeyTerm]:
        """The terms, cut where trust ends; none where nothing of the source counts."""
        if self.trusted_through is None:
            return list(self.terms)
        return [
            replace(term, last=min(term.last, self.trusted_through))
            for term in self.terms
            if term.first <= self.trusted_through
        ]

    @property
    def state(self) -> str:
        """In one word, for people."""
        if self.suspected_from is not None:
            return "compromised"
        return "trusted" if self.trusted_through is None else "revoked"


def source_keys(public_key: str, decisions: Iterable[KeyDecision]) -> SourceKeys:
    """Fold what was decided, oldest first, about a source registered with `public_key`.

    Raises:
        ValueError: If a decision has another form, or contradicts those before it.
    """
    keys = SourceKeys((KeyTerm(public_key, 1),))
    for decision in decisions:
        try:
            subject = json.loads(decision.subject)
            take = _rotated if decision.kind == ROTATE_KEY else _revoked
            keys = take(keys, subject, decision.position)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"decision {decision.position} ({decision.kind}): {error}") from error
    return keys


def rotation_subject(source: str, public_key: str, from_sequence: int) -> str:
    """Canonical JSON of a rotation: from this sequence on the other key vouches."""
    return _canonical(source=source, public_key=public_key, from_sequence=from_sequence)


def revocation_subject(source: str, trusted_through: int, revoked_at_ms: int) -> str:
    """Canonical JSON of a revocation: what the source sent up to this sequence still counts."""
    return _canonical(source=source, trusted_through=trusted_through, revoked_at_ms=revoked_at_ms)


def suspicion_subject(source: str, suspected_from: int) -> str:
    """Canonical JSON of a compromised key: from this sequence on nobody knows who signed."""
    return _canonical(source=source, suspected_from=suspected_from)


def _canonical(**subject: str | int) -> str:
    return json.dumps(subject, sort_keys=True, separators=(",", ":"))


def _rotated(keys: SourceKeys, subject: dict[str, object], _position: int) -> SourceKeys:
    public_key, first = str(subject["public_key"]), _sequence(subject, "from_sequence", least=2)
    if len(bytes.fromhex(public_key)) * 2 != _HEX_KEY_DIGITS:
        raise ValueError(f"a public key has {_HEX_KEY_DIGITS} hex digits: {public_key!r}")
    if keys.suspected_from is not None:
        raise ValueError("its key is compromised: say first through which sequence it is trusted")
    terms = keys.trusted()
    last_first = terms[-1].first if terms else 0
    through = keys.trusted_through or 0
    if first <= max(last_first, through):
        raise ValueError(
            f"from_sequence {first} must lie behind {max(last_first, through)}, where the key"
            " before it still counts"
        )
    if any(term.public_key == public_key for term in keys.terms):
        raise ValueError(f"key {public_key} was this source's before: a key is used once")
    return SourceKeys((*_cut(terms, first - 1), KeyTerm(public_key, first)))


def _revoked(keys: SourceKeys, subject: dict[str, object], position: int) -> SourceKeys:
    if "suspected_from" in subject:
        return replace(
            keys,
            suspected_from=_sequence(subject, "suspected_from", least=1),
            suspected_by=position,
        )
    revoked_at_ms = subject["revoked_at_ms"]
    if not isinstance(revoked_at_ms, int):
        raise TypeError(f"revoked_at_ms is an integer: {revoked_at_ms!r}")
    through = _sequence(subject, "trusted_through", least=0)
    return SourceKeys(keys.terms, trusted_through=through, revoked_at_ms=revoked_at_ms)


def _cut(terms: Sequence[KeyTerm], last: int) -> list[KeyTerm]:
    return [replace(term, last=min(term.last, last)) for term in terms]


def _sequence(subject: dict[str, object], name: str, *, least: int) -> int:
    value = subject[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is an integer: {value!r}")
    if not least <= value <= SEQUENCE_MAX:
        raise ValueError(f"{name} is {least} to {SEQUENCE_MAX}: {value}")
    return value
