"""Declares events lost: the recorded exit for a hole that nobody can fill any more."""

import json
from dataclasses import dataclass

from sqlalchemy import Engine

from infra.clickhouse.client import Client
from infra.decision_kinds import DECLARE_LOSS
from infra.store.decisions import append_decision
from schemas.clock import Clock
from schemas.errors import ContractError
from schemas.periods import Period
from schemas.units import NS_PER_MS, SEQUENCE_MAX
from streams.completeness import SourceState
from streams.completeness_look import first_unproven, look_at


@dataclass(frozen=True, slots=True)
class Loss:
    """What is declared lost, by whom, and why nothing of it can be found any more.

    `first` of None is whatever follows the last proven record; `last` of None means that the
    source is gone and sends no more.
    """

    source: str
    first: int | None
    last: int | None
    decided_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeclaredLoss:
    """A declared loss as it stands in the decision log."""

    position: int
    source: str
    first: int
    last: int


def declare_loss(
    client: Client,
    store: Engine,
    period: Period,
    loss: Loss,
    *,
    clock: Clock,
) -> DeclaredLoss:
    """Append the decision; the next close counts on it.

    It can only be about what is missing: a loss that is none would take a range's proof away the
    day when one of its records really is lost. What arrives after all is proven and billed.

    Args:
        client: The ledger.
        store: The billing store.
        period: Hours to look at; the source must matter to them.
        loss: What is lost.
        clock: Says when it was decided.

    Raises:
        ContractError: If the source is unknown, nothing of it is missing there, or who or why is
            left out.
    """
    for name, text in (("who", loss.decided_by), ("why", loss.reason)):
        if not text.strip():
            raise ContractError(f"{name}: a declared loss says who declares it and why")
    found = look_at(client, store, period, clock=clock)
    state = next((one for one in found.sources if one.source == loss.source), None)
    if state is None:
        raise ContractError(
            f"source: {loss.source} is not registered, or does not matter to {period.name}"
        )
    first, last = _checked(state, loss)
    subject = {"source": loss.source, "sequence_first": first, "sequence_last": last}
    position = append_decision(
        store,
        kind=DECLARE_LOSS,
        subject=json.dumps(subject, sort_keys=True, separators=(",", ":")),
        reason=loss.reason,
        decided_by=loss.decided_by,
        now_ms=clock.now_ns() // NS_PER_MS,
    )
    return DeclaredLoss(position, loss.source, first, last)


def _checked(state: SourceState, loss: Loss) -> tuple[int, int]:
    """First and last sequence, once it is clear that they are missing.

    Raises:
        ContractError: If they are not.
    """
    if loss.last is not None:
        first = loss.first if loss.first is not None else loss.last
        missing = any(begin <= first and loss.last <= end for begin, end in state.findings.holes)
        if not missing:
            shown = ", ".join(f"{begin} to {end}" for begin, end in state.findings.holes)
            raise ContractError(
                f"sequences {first} to {loss.last} of source {state.source} are not all missing;"
                f" missing are: {shown or 'none'}"
            )
        return first, loss.last
    if state.final_sequence is not None and not state.is_gone:
        raise ContractError(
            f"source {state.source} said itself that it ended, with sequence"
            f" {state.final_sequence}: declare single sequences lost"
        )
    unproven = first_unproven(state)
    if loss.first is not None and loss.first != unproven:
        raise ContractError(
            f"first: the last proven or settled record of source {state.source} is"
            f" {unproven - 1}, so it can only be gone from sequence {unproven} on, not from"
            f" {loss.first}"
        )
    return unproven, SEQUENCE_MAX
