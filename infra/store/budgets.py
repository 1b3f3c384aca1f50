"""Budgets of tenants in the billing store, and the alerts that were raised about them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from infra.store.engine import take_turns
from infra.store.live_spend import spent_by_month
from infra.store.tables import budget_alerts, budgets
from schemas.budgets import Budget, BudgetKind
from schemas.errors import ContractError
from schemas.estimates import format_amount_e9
from schemas.ids import format_ms
from schemas.spend import month_start_ms

PERCENT = 100
_PERCENT_MAX = 1_000

# Made once: admission runs it for every request.
_ALL_BUDGETS = select(budgets).order_by(budgets.c.tenant, budgets.c.kind)
_BUDGETS_OF = _ALL_BUDGETS.where(budgets.c.tenant.in_(bindparam("tenants", expanding=True)))


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that was reached; `body` is the JSON that is sent, the same at every attempt."""

    id: str
    body: str
    webhook_url: str | None
    state: str
    attempts: int
    next_attempt_at_ms: int
    error: str
    raised_at_ms: int


def set_budget(store: Engine, budget: Budget) -> Budget:
    """Set or replace a tenant's budget of this kind; a credit begins now, with nothing used.

    Raises:
        ContractError: If a threshold is not between 1 and 1000 percent, or the limit is negative.
    """
    if budget.limit_e9 < 0:
        raise ContractError(f"limit: {budget.limit_e9} is negative")
    wrong = [one for one in budget.thresholds if not 1 <= one <= _PERCENT_MAX]
    if wrong:
        raise ContractError(f"thresholds: {wrong[0]} is not between 1 and {_PERCENT_MAX} percent")
    row = {name: getattr(budget, name) for name in Budget.__dataclass_fields__} | {
        "thresholds": json.dumps(sorted(set(budget.thresholds)))
    }
    with store.begin() as connection:
        lock_budgets(connection, [budget.tenant])
        if budget.kind == "prepaid":
            row["spent_before_e9"] = sum(spent_by_month(connection, [budget.tenant]).values())
        _delete(connection, budget.tenant, budget.kind)
        connection.execute(insert(budgets).values(row))
        (kept,) = (
            one for one in budgets_of(connection, [budget.tenant]) if one.kind == budget.kind
        )
    return kept


def remove_budget(store: Engine, tenant: str, kind: BudgetKind) -> bool:
    """Remove a budget; returns whether there was one."""
    with store.begin() as connection:
        lock_budgets(connection, [tenant])
        return _delete(connection, tenant, kind)


def list_budgets(store: Engine) -> list[Budget]:
    """All budgets, by tenant and kind."""
    with store.connect() as connection:
        return budgets_of(connection)


def lock_budgets(connection: Connection, tenants: Iterable[str]) -> None:
    """Hold the turn for these tenants' budgets, in one order, until the transaction ends."""
    for tenant in sorted(set(tenants)):
        take_turns(connection, f"budgets/{tenant}")


def budgets_of(connection: Connection, tenants: Iterable[str] | None = None) -> list[Budget]:
    """Budgets of some tenants, or of all."""
    if tenants is None:
        rows = connection.execute(_ALL_BUDGETS).mappings()
    else:
        rows = connection.execute(_BUDGETS_OF, {"tenants": list(tenants)}).mappings()
    return [Budget(**{**row, "thresholds": tuple(json.loads(row["thresholds"]))}) for row in rows]


def raise_alerts(store: Engine, now_ms: int) -> int:
    """Write an alert for each threshold that was reached and not yet written; how many those were.

    The id is derived from budget, period, limit and threshold: however many look at once and
    however often, each alert is there once. A raised limit may be reached anew.
    """
    month_ms = month_start_ms(now_ms)
    with store.begin() as connection:
        known = budgets_of(connection)
        if not known:
            return 0
        by_month = spent_by_month(connection, {one.tenant for one in known})
        reached = [
            _alert_row(budget, threshold, spent_e9, month_ms, now_ms)
            for budget in known
            for spent_e9 in (budget.spent_e9(by_month, month_ms),)
            for threshold in budget.thresholds
            if spent_e9 * PERCENT >= budget.limit_e9 * threshold
        ]
        if not reached:
            return 0
        there = set(
            connection.execute(
                select(budget_alerts.c.id).where(
                    budget_alerts.c.id.in_([row["id"] for row in reached])
                )
            ).scalars()
        )
        fresh = [row for row in reached if row["id"] not in there]
        if not fresh:
            return 0
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        new: Any = dialect.insert(budget_alerts)
        connection.execute(new.on_conflict_do_nothing(), fresh)
        return len(fresh)


def alerts_due(store: Engine, now_ms: int, most: int) -> list[Alert]:
    """Alerts that are to be sent now, the oldest first."""
    wanted = (
        select(budget_alerts)
        .where(budget_alerts.c.state == "pending", budget_alerts.c.next_attempt_at_ms <= now_ms)
        .order_by(budget_alerts.c.raised_at_ms, budget_alerts.c.id)
        .limit(most)
    )
    with store.connect() as connection:
        return [Alert(**row) for row in connection.execute(wanted).mappings()]


def list_alerts(store: Engine, tenant: str | None = None) -> list[Alert]:
    """All alerts, the newest first; of one tenant if it is named."""
    wanted = select(budget_alerts).order_by(budget_alerts.c.raised_at_ms.desc(), budget_alerts.c.id)
    with store.connect() as connection:
        found = [Alert(**row) for row in connection.execute(wanted).mappings()]
    return [one for one in found if tenant in (None, json.loads(one.body)["data"]["tenant"])]


def claim_alert(store: Engine, alert: Alert, next_attempt_at_ms: int) -> bool:
    """Count an attempt before it is made; False if another sender has it."""
    with store.begin() as connection:
        done = connection.execute(
            update(budget_alerts)
            .where(
                budget_alerts.c.id == alert.id,
                budget_alerts.c.state == "pending",
                budget_alerts.c.attempts == alert.attempts,
            )
            .values(attempts=alert.attempts + 1, next_attempt_at_ms=next_attempt_at_ms)
        )
        return bool(done.rowcount == 1)


def record_attempt(store: Engine, alert_id: str, state: str, error: str) -> None:
    """Write how an attempt ended."""
    with store.begin() as connection:
        connection.execute(
            update(budget_alerts)
            .where(budget_alerts.c.id == alert_id)
            .values(state=state, error=error[:1_000])
        )


def _alert_row(
    budget: Budget, threshold: int, spent_e9: int, month_ms: int, now_ms: int
) -> dict[str, Any]:
    period = budget.period(month_ms)
    named = (budget.tenant, budget.kind, period, str(budget.limit_e9), str(threshold))
    content = {
        "type": "budget.threshold_reached",
        "timestamp": format_ms(now_ms),
        "data": {
            "tenant": budget.tenant,
            "kind": budget.kind,
            "period": period,
            "threshold_percent": threshold,
            "currency": budget.currency,
            "limit": format_amount_e9(budget.limit_e9),
            "spent_estimate": format_amount_e9(spent_e9),
        },
    }
    return {
        "id": hashlib.sha256("\0".join(named).encode()).hexdigest(),
        "body": json.dumps(content, separators=(",", ":")),
        "webhook_url": budget.webhook_url,
        "state": "pending" if budget.webhook_url else "unsent",
        "attempts": 0,
        "next_attempt_at_ms": now_ms,
        "error": "",
        "raised_at_ms": now_ms,
    }


def _delete(connection: Connection, tenant: str, kind: BudgetKind) -> bool:
    of_kind = (budgets.c.tenant == tenant, budgets.c.kind == kind)
    return bool(connection.execute(delete(budgets).where(*of_kind)).rowcount)
