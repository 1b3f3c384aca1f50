"""The one table that a run ends with: every quantity at every stage, and its difference.

Pure: takes what each stage counted for itself, and says where two of them disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rentroll.served_counts import Side
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


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity at every stage where it applies."""

    name: str
    at: dict[str, int]

    def difference(self) -> int:
        """The widest gap between two stages; 0 where all agree."""
        return max(self.at.values()) - min(self.at.values()) if self.at else 0


def rows_of(totals: Mapping[str, StageTotals]) -> list[Row]:
    """Events, tokens by kind, GPU time, money: each at every stage."""
    tokens = [
        Row(meter, {stage: one.tokens.get(meter, 0) for stage, one in totals.items()})
        for meter in TOKEN_METERS
    ]
    money = {
        stage: one.amount_minor for stage, one in totals.items() if one.amount_minor is not None
    }
    return [
        Row("events", {stage: one.events for stage, one in totals.items()}),
        *tokens,
        Row("gpu_ns", {stage: one.gpu_ns for stage, one in totals.items()}),
        Row("amount_minor", money),
    ]


def rows_as_json(totals: Mapping[str, StageTotals], rows: list[Row]) -> dict[str, Any]:
    """The rows by name, tokens of every kind together and by kind."""
    by_name = {row.name: {**row.at, "difference": row.difference()} for row in rows}
    tokens = {
        stage: sum(row.at[stage] for row in rows if row.name in TOKEN_METERS)
        for stage in rows[0].at
    }
    return {
        "events": by_name["events"],
        "tokens": {**tokens, "difference": Row("tokens", tokens).difference()},
        "tokens_by_kind": {meter: by_name[meter] for meter in TOKEN_METERS},
        "gpu_ns": by_name["gpu_ns"],
        "amount_minor": by_name["amount_minor"],
    }


@dataclass(frozen=True, slots=True)
class ServedReport:
    """The traffic of the served model alone, and what its clients and its engine counted of it.

    `endings` says how many requests were answered, cut and refused. `disagreements` are single
    requests of which client and ledger say different things.
    """

    model: str
    license: str
    totals: dict[str, StageTotals]
    clients: Side
    engine: Side
    endings: dict[str, int]
    disagreements: tuple[str, ...]
    seconds: dict[str, float]

    def rows(self) -> list[Row]:
        """Each quantity as clients and engine counted it and at every stage."""
        rows = []
        for row in rows_of(self.totals):
            at = {name: self._counted(side, row.name) for name, side in self.sides().items()}
            known = {name: amount for name, amount in at.items() if amount is not None}
            rows.append(Row(row.name, known | row.at))
        return rows

    def sides(self) -> dict[str, Side]:
        """The two that count apart from the pipeline."""
        return {"clients": self.clients, "engine": self.engine}

    def closes(self) -> bool:
        """Whether everybody counted the same, in sum and request by request."""
        return not self.disagreements and all(row.difference() == 0 for row in self.rows())

    def as_json(self) -> dict[str, Any]:
        """The same for machines; `unseen` is in the figures of clients and engine."""
        return {
            "model": self.model,
            "license": self.license,
            **rows_as_json(self.totals, self.rows()),
            "unseen": {
                name: {"events": side.unseen_events, **side.unseen_tokens}
                for name, side in self.sides().items()
            },
            "endings": self.endings,
            "disagreements": list(self.disagreements),
            "closes": self.closes(),
            "seconds": self.seconds,
        }

    @staticmethod
    def _counted(side: Side, name: str) -> int | None:
        if name == "events":
            return side.events_in_all()
        if name in TOKEN_METERS:
            return side.tokens_in_all(name)
        return side.gpu_ns if name == "gpu_ns" else None


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
    served: ServedReport | None = None
    why_no_model: str = ""

    def rows(self) -> list[Row]:
        """The table: events, tokens by kind, GPU time, money."""
        return rows_of(self.totals)

    def closes(self) -> bool:
        """Whether every identity closes to zero and nothing was lost, doubled or held."""
        return (
            all(row.difference() == 0 for row in self.rows())
            and self.lost == 0
            and self.doubled == 0
            and not self.held_hours
            and not self.held_invoices
            and not self.dead_letters
            and (self.served is None or self.served.closes())
        )

    def as_json(self) -> dict[str, Any]:
        """The same table for machines."""
        return {
            **rows_as_json(self.totals, self.rows()),
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
            "served": self.served.as_json() if self.served else None,
            "why_no_model": self.why_no_model,
        }
