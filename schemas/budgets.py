"""Budgets: what a tenant may spend per calendar month, or of a credit that it paid before. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.ids import format_ms
from schemas.spend import MonthKey

BudgetKind = Literal["monthly", "prepaid"]
DEFAULT_THRESHOLDS = (50, 80, 100)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tenant may spend in 10^-9 of the major unit: per calendar month, or of a credit.

    `thresholds` are percent of the limit, rising. `spent_before_e9` counts for a credit only: what
    the tenant had spent when it began.
    """

    tenant: str
    kind: BudgetKind
    currency: str
    limit_e9: int
    thresholds: tuple[int, ...]
    webhook_url: str | None
    set_by: str
    set_at_ms: int
    spent_before_e9: int = 0

    def spent_e9(self, by_month: Mapping[MonthKey, int], month_ms: int) -> int:
        """How much of it is used; `by_month` holds the tenant's months, others are ignored."""
        if self.kind == "monthly":
            return by_month.get(MonthKey(self.tenant, month_ms), 0)
        whole = sum(amount for key, amount in by_month.items() if key.tenant == self.tenant)
        return whole - self.spent_before_e9

    def period(self, month_ms: int) -> str:
        """What its alerts are counted in: the month, or the credit by when it began."""
        return format_ms(month_ms)[:7] if self.kind == "monthly" else format_ms(self.set_at_ms)
