"""Decides whether the worst case of a request fits into what its tenant may still spend. Pure.

Nothing is spent twice: what is held for requests under way counts as spent until their events come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from schemas.budgets import Budget
from schemas.estimates import WorstCase
from schemas.spend import MonthKey

Verdict = Literal["free", "held", "over_budget", "no_credit", "no_worst_case"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request at the door: its event id, when it was admitted, the most that it may use."""

    request: str
    at_ms: int
    worst_case: WorstCase


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided; `amount_e9` is held where the verdict says so."""

    verdict: Verdict
    amount_e9: int = 0


@dataclass(slots=True)
class Standing:
    """One tenant's budgets, what it spent by month, and what is held for it by month."""

    budgets: Sequence[Budget]
    spent_e9: dict[MonthKey, int] = field(default_factory=dict)
    held_e9: dict[int, int] = field(default_factory=dict)

    def decide(self, amount_e9: int | None, month_ms: int) -> Decision:
        """Decide about one request of a month, and hold its amount if it may run.

        Args:
            amount_e9: Its worst case; None where there is none.
            month_ms: The start of the month in which it was admitted.
        """
        if not self.budgets:
            return Decision("free")
        if amount_e9 is None:
            return Decision("no_worst_case")
        for budget in self.budgets:
            if self.left_e9(budget, month_ms) < amount_e9:
                return Decision("no_credit" if budget.kind == "prepaid" else "over_budget")
        self.held_e9[month_ms] = self.held_e9.get(month_ms, 0) + amount_e9
        return Decision("held", amount_e9)

    def left_e9(self, budget: Budget, month_ms: int) -> int:
        """What may still be held against a budget."""
        held_e9 = (
            self.held_e9.get(month_ms, 0)
            if budget.kind == "monthly"
            else sum(self.held_e9.values())
        )
        return budget.limit_e9 - budget.spent_e9(self.spent_e9, month_ms) - held_e9
