"""Laws of admission: whatever is asked, spent and settled, no limit is exceeded by holds."""

from hypothesis import given
from hypothesis import strategies as st

from billing.admission import Standing
from schemas.budgets import BudgetKind
from schemas.spend import MonthKey
from tests.support.spend_examples import budget

SEPTEMBER_MS, OCTOBER_MS = 1_788_220_800_000, 1_790_812_800_000
_months = st.sampled_from([SEPTEMBER_MS, OCTOBER_MS])
_asks = st.lists(st.tuples(st.integers(0, 60), _months, st.integers(0, 100)), max_size=30)
_kinds = st.lists(st.sampled_from(["monthly", "prepaid"]), min_size=1, max_size=2, unique=True)


@given(_asks, _kinds, st.integers(0, 300))
def test_spent_and_held_never_exceed_a_limit(
    asks: list[tuple[int, int, int]], kinds: list[BudgetKind], limit_e9: int
) -> None:
    """Each ask is held or refused; of every second one that runs, part is spent at once."""
    standing = Standing([budget(kind=kind, limit_e9=limit_e9) for kind in kinds])
    for number, (amount_e9, month_ms, percent) in enumerate(asks):
        decision = standing.decide(amount_e9, month_ms)
        if decision.verdict == "held" and number % 2:
            standing.held_e9[month_ms] -= amount_e9
            key = MonthKey("acme", month_ms)
            spent_e9 = amount_e9 * percent // 100
            standing.spent_e9[key] = standing.spent_e9.get(key, 0) + spent_e9
        for one in standing.budgets:
            for month in (SEPTEMBER_MS, OCTOBER_MS):
                assert standing.left_e9(one, month) >= 0


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_what_fits_is_held_and_what_does_not_is_refused(
    limit_e9: int, spent_e9: int, amount_e9: int
) -> None:
    spent = {MonthKey("acme", OCTOBER_MS): spent_e9, MonthKey("globex", OCTOBER_MS): 10**6}
    standing = Standing([budget(limit_e9=limit_e9)], spent)
    fits = spent_e9 + amount_e9 <= limit_e9
    assert standing.decide(amount_e9, OCTOBER_MS).verdict == ("held" if fits else "over_budget")


def test_monthly_budget_begins_anew_with_the_month_and_a_credit_does_not() -> None:
    spent = {MonthKey("acme", SEPTEMBER_MS): 10}
    monthly = Standing([budget(limit_e9=10)], dict(spent))
    prepaid = Standing([budget(kind="prepaid", limit_e9=10)], dict(spent))
    assert monthly.decide(10, OCTOBER_MS).verdict == "held"
    assert prepaid.decide(1, OCTOBER_MS).verdict == "no_credit"


def test_what_has_no_worst_case_is_refused_only_where_there_is_a_budget() -> None:
    assert Standing([budget()]).decide(None, OCTOBER_MS).verdict == "no_worst_case"
    assert Standing([]).decide(None, OCTOBER_MS).verdict == "free"
