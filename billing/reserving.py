"""Reserves the worst case of requests in the billing store: several at once, one transaction.

A tenant's turn is held from the first look to the commit, so no two reservations see the same money
as free. Spent and held are then read by one statement: live spend moves a request from one to the
other in one commit, and between two statements it could be missed in both.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    union_all,
)

from billing.admission import Ask, Decision, Standing
from infra.store.budgets import budgets_of, lock_budgets
from infra.store.tables import admission_holds, live_tenant_months
from schemas.estimates import Estimator
from schemas.spend import MonthKey, month_start_ms
from schemas.units import MS_PER_HOUR

_TENANTS: Any = bindparam("tenants", expanding=True)


def _spent_and_held() -> Select[Any]:
    spent, holds = live_tenant_months.c, admission_holds.c
    both = union_all(
        select(literal(1).label("is_spent"), spent.tenant, spent.month_ms, spent.amount_e9).where(
            spent.tenant.in_(_TENANTS)
        ),
        select(literal(0).label("is_spent"), holds.tenant, holds.month_ms, holds.amount_e9).where(
            holds.tenant.in_(_TENANTS)
        ),
    ).subquery()
    key = (both.c.is_spent, both.c.tenant, both.c.month_ms)
    return select(*key, func.sum(both.c.amount_e9)).group_by(*key)


# Made once: making a statement costs more than running it, and a door waits for it.
_SPENT_AND_HELD = _spent_and_held()
_HELD_ALREADY = select(admission_holds.c.request, admission_holds.c.amount_e9).where(
    admission_holds.c.request.in_(bindparam("requests", expanding=True))
)
_HOLD = insert(admission_holds)


def reserve(store: Engine, asks: Sequence[Ask], estimator: Estimator) -> list[Decision]:
    """Decide about requests in their order, and hold what is decided to be held.

    The same request again gets the same answer, and is held once.

    Returns:
        One decision for each of them.
    """
    tenants = {one.worst_case.tenant for one in asks}
    with store.begin() as connection:
        lock_budgets(connection, tenants)
        standings = read_standings(connection, tenants)
        known = _known(connection, [one.request for one in asks])
        decisions = []
        fresh = []
        for ask in asks:
            standing = standings[ask.worst_case.tenant]
            month_ms = month_start_ms(ask.at_ms)
            decision = known.get(ask.request) or standing.decide(
                _worst_case_e9(standing, ask, estimator), month_ms
            )
            decisions.append(decision)
            if decision.verdict == "held" and ask.request not in known:
                known[ask.request] = decision
                fresh.append(_row(ask, decision, month_ms))
        if fresh:
            connection.execute(_HOLD, fresh)
    return decisions


def release(store: Engine, request: str) -> bool:
    """Let a hold go for a request that will have no event; whether there was one."""
    with store.begin() as connection:
        done = connection.execute(
            delete(admission_holds).where(admission_holds.c.request == request)
        )
        return bool(done.rowcount)


def read_standings(connection: Connection, tenants: Iterable[str]) -> Mapping[str, Standing]:
    """Budgets of tenants, what they spent and what is held for them."""
    names = sorted(set(tenants))
    standings = {name: Standing([]) for name in names}
    for budget in budgets_of(connection, names):
        standing = standings[budget.tenant]
        standing.budgets = [*standing.budgets, budget]
    rows = connection.execute(_SPENT_AND_HELD, {"tenants": names})
    for is_spent, tenant, month_ms, amount_e9 in rows:
        if is_spent:
            standings[tenant].spent_e9[MonthKey(tenant, month_ms)] = int(amount_e9)
        else:
            standings[tenant].held_e9[month_ms] = int(amount_e9)
    return standings


def _worst_case_e9(standing: Standing, ask: Ask, estimator: Estimator) -> int | None:
    """None too where a budget is in another currency than the prices: neither bounds the other."""
    if any(budget.currency != estimator.currency for budget in standing.budgets):
        return None
    return estimator.worst_case_e9(ask.worst_case, ask.at_ms) if standing.budgets else 0


def _known(connection: Connection, requests: Sequence[str]) -> dict[str, Decision]:
    rows = connection.execute(_HELD_ALREADY, {"requests": list(requests)})
    return {request: Decision("held", amount_e9) for request, amount_e9 in rows}


def _row(ask: Ask, decision: Decision, month_ms: int) -> dict[str, object]:
    return {
        "request": ask.request,
        "tenant": ask.worst_case.tenant,
        "hour_ms": ask.at_ms - ask.at_ms % MS_PER_HOUR,
        "month_ms": month_ms,
        "amount_e9": decision.amount_e9,
    }
