"""How running spend, budgets and alerts are shown."""

import json
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from billing.admission import Standing
from infra.store.budgets import Alert
from schemas.budgets import Budget
from schemas.estimates import INPUT_METERS, OUTPUT_METERS, format_amount_e9
from streams.live_reading import SpendLine

_DECIMALS = 6


def spend_table(tenant: str, lines: Sequence[SpendLine], currency: str) -> Table:
    """One row per span and key."""
    table = Table(title=f"{escape(tenant)}: estimated, never what is invoiced")
    for heading in ("span", "project", "key"):
        table.add_column(heading, overflow="fold")
    for heading in ("requests", "input", "output", f"estimate {currency}", "unpriced"):
        table.add_column(heading, justify="right")
    for line in lines:
        used = line.measures
        table.add_row(
            line.span,
            escape(line.project),
            escape(line.api_key),
            f"{used['requests']:,}",
            f"{sum(used[meter] for meter in INPUT_METERS):,}",
            f"{sum(used[meter] for meter in OUTPUT_METERS):,}",
            format_amount_e9(used["amount_e9"], _DECIMALS),
            f"{used['unpriced_requests']:,}",
        )
    return table


def spend_json(tenant: str, lines: Sequence[SpendLine], currency: str) -> str:
    """The same with every measure; amounts as decimal text."""
    found = []
    for line in lines:
        measures = dict(line.measures)
        amount = format_amount_e9(measures.pop("amount_e9"))
        names = {"span": line.span, "project": line.project, "api_key": line.api_key}
        found.append(names | measures | {"estimate": amount})
    return json.dumps({"tenant": tenant, "currency": currency, "lines": found}, indent=2)


def budget_text(budget: Budget) -> str:
    """A budget in a sentence."""
    amount = f"{format_amount_e9(budget.limit_e9, 2)} {budget.currency}"
    word = "a month" if budget.kind == "monthly" else "of credit from now on"
    alerts = ", ".join(f"{one}%" for one in budget.thresholds)
    return f"{budget.tenant} may spend {amount} {word}; alerts at {alerts}"


def budgets_table(
    budgets: Sequence[Budget], standings: Mapping[str, Standing], month_ms: int
) -> Table:
    """What is spent, held and left of each budget."""
    table = Table()
    for heading in ("tenant", "kind"):
        table.add_column(heading, overflow="fold")
    for heading in ("limit", "spent", "held", "left"):
        table.add_column(heading, justify="right")
    for heading in ("currency", "alerts at", "webhook"):
        table.add_column(heading, overflow="fold")
    for budget in budgets:
        standing = standings[budget.tenant]
        spent_e9 = budget.spent_e9(standing.spent_e9, month_ms)
        left_e9 = standing.left_e9(budget, month_ms)
        amounts = (budget.limit_e9, spent_e9, budget.limit_e9 - spent_e9 - left_e9, left_e9)
        table.add_row(
            escape(budget.tenant),
            budget.kind,
            *(format_amount_e9(amount, _DECIMALS) for amount in amounts),
            budget.currency,
            ", ".join(f"{one}%" for one in budget.thresholds),
            escape(budget.webhook_url or ""),
        )
    return table


def alerts_table(alerts: Sequence[Alert]) -> Table:
    """Every alert with what became of it."""
    table = Table()
    for heading in ("raised", "tenant", "kind", "period", "reached", "spent", "limit", "state"):
        table.add_column(heading, overflow="fold")
    for alert in alerts:
        content = json.loads(alert.body)
        reached = content["data"]
        tried = f" after {alert.attempts}: {alert.error}" if alert.error else ""
        table.add_row(
            content["timestamp"],
            escape(reached["tenant"]),
            reached["kind"],
            reached["period"],
            f"{reached['threshold_percent']}%",
            reached["spent_estimate"],
            reached["limit"],
            escape(alert.state + tried),
        )
    return table
