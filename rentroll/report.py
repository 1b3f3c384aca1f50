"""The one table that a run ends with: every quantity at every stage, and its difference.

Pure: takes what each stage counted for itself, and says where two of them disagree.
"""

from dataclasses import dataclass, field
from typing import Any

from schemas.usage import TOKEN_METERS

STAGES = ("emitted", "logged", "ledger", "rolled_up", "rated", "stripe")
STAGE_TITLES = {
    "emitted": "emitted",
    "logged": "in the log",
    "ledger": "in the ledger",
    "rolled_up": "rolled up",
    "rated": "rated",
    "stripe": "on Stripe",
}


@dataclass(frozen=True, slots=True)
class StageTotals:
    """What one stage counted by itself. `amount_minor` is None where there is no money yet."""

    events: int
    tokens: dict[str, int]
    gpu_ns: int
    amount_minor: int | None = None

    def tokens_total(self) -> int:
        """Tokens of every kind together."""
        return sum(self.tokens.values())


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity at every stage where it applies."""

    name: str
    at: dict[str, int]

    def difference(self) -> int:
        """The widest gap between two stages; 0 where all agree."""
        return max(self.at.values()) - min(self.at.values()) if self.at else 0


@dataclass(frozen=True, slots=True)
class RunReport:
    """What came out of one run of the whole pipeline."""

    totals: dict[str, StageTotals]
    lost: int
    doubled: int
    held_hours: tuple[str, ...]
    held_invoices: tuple[str, ...]
    dead_letters: tuple[str, ...]
    invoices: int
    currency: str
    seconds: dict[str, float]
    inputs: dict[str, Any] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """The table: events, tokens by kind, GPU time, money."""
        tokens = [
            Row(meter, {stage: one.tokens.get(meter, 0) for stage, one in self.totals.items()})
            for meter in TOKEN_METERS
        ]
        money = {
            stage: one.amount_minor
            for stage, one in self.totals.items()
            if one.amount_minor is not None
        }
        return [
            Row("events", {stage: one.events for stage, one in self.totals.items()}),
            *tokens,
            Row("gpu_ns", {stage: one.gpu_ns for stage, one in self.totals.items()}),
            Row("amount_minor", money),
        ]

    def closes(self) -> bool:
        """Whether every identity closes to zero and nothing was lost, doubled or held."""
        return (
            all(row.difference() == 0 for row in self.rows())
            and self.lost == 0
            and self.doubled == 0
            and not self.held_hours
            and not self.held_invoices
            and not self.dead_letters
        )

    def as_json(self) -> dict[str, Any]:
        """The same table for machines."""
        rows = {row.name: {**row.at, "difference": row.difference()} for row in self.rows()}
        all_tokens = Row(
            "tokens", {stage: one.tokens_total() for stage, one in self.totals.items()}
        )
        return {
            "events": rows["events"],
            "tokens": {**all_tokens.at, "difference": all_tokens.difference()},
            "tokens_by_kind": {meter: rows[meter] for meter in TOKEN_METERS},
            "gpu_ns": rows["gpu_ns"],
            "amount_minor": rows["amount_minor"],
            "currency": self.currency,
            "lost": self.lost,
            "doubled": self.doubled,
            "held_hours": len(self.held_hours),
            "held_hours_reasons": list(self.held_hours),
            "held_invoices": list(self.held_invoices),
            "dead_letters": list(self.dead_letters),
            "invoices": self.invoices,
            "closes": self.closes(),
            "seconds": self.seconds,
            "inputs": self.inputs,
        }
