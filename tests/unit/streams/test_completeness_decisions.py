"""Decisions are understood whole or refused."""

import pytest

from infra.decision_kinds import DECLARE_LOSS
from schemas.errors import ContractError
from streams.completeness_decisions import SETTLE_CONFLICT, read_decisions

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


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
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
