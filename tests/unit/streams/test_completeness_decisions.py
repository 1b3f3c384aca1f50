"""Decisions are understood whole or refused."""

import pytest

from infra.decision_kinds import DECLARE_LOSS
from infra.source_keys import REVOKE_KEY, revocation_subject
from schemas.errors import ContractError
from streams.completeness_decisions import (
    DISCARD_DEAD_LETTER,
    SETTLE_CONFLICT,
    read_decisions,
)

LOSS = '{"source":"s","sequence_first":3,"sequence_last":4}'
KEEP = "ab" * 16


def test_losses_and_conflicts_are_read_and_other_kinds_passed_over() -> None:
    found = read_decisions(
        [
            (1, DECLARE_LOSS, LOSS),
            (2, "credit_limit", "anything"),
            (3, SETTLE_CONFLICT, f'{{"event_id":"e","keep":"{KEEP.upper()}"}}'),
        ]
    )
    assert found.losses_of("s") == [(3, 4)]
    assert found.losses_of("t") == []
    assert found.settled == {"e": KEEP}
    assert found.position == 3


def test_later_decision_on_a_conflict_counts() -> None:
    rows = [
        (n, SETTLE_CONFLICT, f'{{"event_id":"e","keep":"{keep}"}}')
        for n, keep in ((1, ""), (2, KEEP))
    ]
    assert read_decisions(rows).settled == {"e": KEEP}


def test_discards_are_known_by_content_and_by_event() -> None:
    subject = '{"content_sha256":"%s","event_id":"%s","topic":"t","partition":0,"offset":1}'
    rows = [
        (1, DISCARD_DEAD_LETTER, subject % ("AB" * 32, "e")),
        (2, DISCARD_DEAD_LETTER, subject % ("cd" * 32, "")),
    ]
    found = read_decisions(rows)
    assert found.discarded == {"ab" * 16, "cd" * 16}
    assert found.discarded_events == {"e"}


def test_keys_are_folded_per_source_and_a_contradiction_is_refused() -> None:
    found = read_decisions([(1, REVOKE_KEY, revocation_subject("s", 4, 5))])
    assert found.keys_of("s", "aa").trusted_through == 4
    assert found.keys_of("t", "aa").trusted_through is None
    broken = read_decisions([(1, REVOKE_KEY, '{"source":"s"}')])
    with pytest.raises(ContractError, match="source s: decision 1"):
        broken.keys_of("s", "aa")


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (DISCARD_DEAD_LETTER, '{"content_sha256":"abcd","event_id":""}'),
        (DISCARD_DEAD_LETTER, '{"event_id":""}'),
        (REVOKE_KEY, "{}"),
        (DECLARE_LOSS, "no json"),
        (DECLARE_LOSS, "[]"),
        (DECLARE_LOSS, '{"source":"s","sequence_first":3}'),
        (DECLARE_LOSS, '{"source":"s","sequence_first":"3","sequence_last":4}'),
        (DECLARE_LOSS, '{"source":"s","sequence_first":5,"sequence_last":4}'),
        (DECLARE_LOSS, '{"source":"s","sequence_first":0,"sequence_last":4}'),
        (SETTLE_CONFLICT, '{"event_id":"e"}'),
        (SETTLE_CONFLICT, '{"event_id":"e","keep":"zz"}'),
        (SETTLE_CONFLICT, '{"event_id":"e","keep":"abcd"}'),
    ],
)
def test_decision_that_cannot_be_read_is_refused(kind: str, subject: str) -> None:
    with pytest.raises(ContractError, match="decision 7"):
        read_decisions([(7, kind, subject)])
