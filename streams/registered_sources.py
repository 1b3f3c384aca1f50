"""Sources as the billing store knows them: whose signature counts, and through which sequence."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import Engine, select

from infra.signing import range_is_signed
from infra.source_keys import SourceKeys
from infra.store.tables import sources
from schemas.fleet import RangePurpose, SignedRange
from streams.completeness import SourceState
from streams.completeness_decisions import Decisions
from streams.completeness_ranges import Problem


@dataclass(frozen=True, slots=True)
class TrustedSource:
    """A source of which something counts, and the keys that vouch for it."""

    source: str
    host: str
    registered_ms: int
    keys: SourceKeys

    def signed(self, purpose: RangePurpose, signed: SignedRange) -> bool:
        """Whether a key that is trusted for all of the range signed it."""
        first, last = signed.sequence_first, signed.sequence_last
        return any(
            term.covers(first, last)
            and range_is_signed(term.public_key, self.source, purpose, signed)
            for term in self.keys.trusted()
        )

    def end_with_trust(self, state: SourceState) -> None:
        """A source whose key was revoked ends where trust in it ends: nothing more is awaited."""
        keys = self.keys
        state.beyond_trust = self._beyond_trust()
        if keys.suspected_from is not None:
            state.problems.append(
                Problem(
                    keys.suspected_from,
                    f"its key is compromised from sequence {keys.suspected_from} on (decision"
                    f" {keys.suspected_by}): say through which sequence it is trusted, by"
                    f" `rentroll sources revoke {self.source} --trusted-through N`",
                )
            )
        if keys.trusted_through is not None and state.final_sequence is None:
            state.final_sequence = keys.trusted_through
            state.closed_ms = keys.revoked_at_ms

    def unreached(self, state: SourceState, *, closed: bool) -> Iterator[Problem]:
        """What a person trusts of a revoked source and no signed range proves.

        Args:
            state: What was proven.
            closed: The source said itself where it ends; its last record is under no range.
        """
        through = self.keys.trusted_through
        if through is None:
            return
        proven = state.findings.spans[-1][1] if state.findings.spans else 0
        expected = min(through, (state.final_sequence or 0) - 1) if closed else through
        if proven < expected:
            yield Problem(
                proven + 1,
                f"its key is trusted through sequence {through}, and signed ranges prove it"
                f" through {proven} only",
            )

    def _beyond_trust(self) -> list[int]:
        """The sequence at which a revoked source would have said where its GPU time went."""
        through = self.keys.trusted_through
        return [] if through is None else [through + 1]


def trusted_sources(
    store: Engine, decisions: Decisions, only: Collection[str] | None = None
) -> list[TrustedSource]:
    """Every registered source of which something counts; of some if they are named.

    Raises:
        ContractError: If a decision about a key cannot be read.
    """
    known = sources.c
    with store.connect() as connection:
        rows = connection.execute(
            select(known.source, known.host, known.registered_at_ms, known.public_key)
        ).all()
    found = [
        TrustedSource(source, host, at_ms, decisions.keys_of(source, public_key))
        for source, host, at_ms, public_key in rows
        if only is None or source in only
    ]
    return [one for one in found if one.keys.trusted()]
