"""Feeds a host's records to the range verifier, in any blocks, as the ledger would show them."""

from array import array
from collections.abc import Iterable, Sequence

from infra.signing import range_is_signed
from schemas.control import SourceClosed
from schemas.fleet import EngineInterval
from schemas.usage import RequestFinished
from streams.completeness_ranges import RangeClaim, RangeFindings, RangeVerifier, Records
from tests.support.events import HOUR_MS, Record


def signed_claims(records: Iterable[Record], public_key: str) -> list[RangeClaim]:
    """The ranges among the records whose signature is that key's."""
    claims = []
    for record in records:
        event = record.event
        if isinstance(event, EngineInterval | SourceClosed):
            purpose = "interval" if isinstance(event, EngineInterval) else "closed"
            signed = event.data.range
            if range_is_signed(public_key, event.source, purpose, signed):  # type: ignore[arg-type]
                claim = RangeClaim(signed.sequence_first, signed.sequence_last, signed.sha256)
                claims.append(claim)
    return claims


def block(records: Sequence[Record]) -> Records:
    """Records in the order that the ledger streams them: by sequence, then content."""
    return Records(
        array("I", (one.event.sequence for one in records)),
        b"".join(one.content_hash for one in records),
        array("I", (_hour(one) for one in records)),
    )


def prove(
    records: Iterable[Record],
    public_key: str,
    *,
    block_size: int = 3,
    losses: Sequence[tuple[int, int]] = (),
    max_candidates: int = 64,
) -> RangeFindings:
    """What the ranges prove of these records, in whatever order they arrived."""
    arrived = list(records)
    claims = signed_claims(arrived, public_key)
    verifier = RangeVerifier(claims, losses, max_candidates=max_candidates)
    ordered = sorted(arrived, key=lambda one: (one.event.sequence, one.content_hash))
    for start in range(0, len(ordered), block_size):
        verifier.feed(block(ordered[start : start + block_size]))
    return verifier.finish()


def _hour(record: Record) -> int:
    if not isinstance(record.event, RequestFinished):
        return 0
    return int(record.event.id[:8] + record.event.id[9:13], 16) // HOUR_MS
