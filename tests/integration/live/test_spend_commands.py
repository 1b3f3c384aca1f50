"""`rentroll spend` and `rentroll budgets` against a real store."""

import json
from collections.abc import Callable

import pytest
import typer
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from infra.store.budgets import raise_alerts
from infra.store.live_spend import Stretch, add_stretches
from rentroll.spend_commands import register
from schemas.errors import ContractError
from schemas.spend import MEASURES, MonthKey, PartialSums, WindowKey
from streams.live_reading import read_spend
from tests.support.events import HOUR_MS, OCTOBER_MS
from tests.support.spend_examples import DOLLAR_E9

ON_SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

Command = Callable[..., Result]


@pytest.fixture
def rentroll(store_url: str, priced_store: Engine, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("RENTROLL_STORE_URL", store_url)
    monkeypatch.setenv("COLUMNS", "240")
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return lambda *words: CliRunner().invoke(app, list(words))


def spend(store: Engine) -> None:
    """Two keys in the first hour of October; one of them again in the second."""
    used = [1] * len(MEASURES)
    used[MEASURES.index("amount_e9")] = 6 * DOLLAR_E9
    sums = PartialSums()
    for key, hour_ms in (("a", OCTOBER_MS), ("b", OCTOBER_MS), ("a", OCTOBER_MS + HOUR_MS)):
        sums.windows[WindowKey("acme", "hour", hour_ms, "search", key)] = list(used)
        sums.windows[WindowKey("acme", "minute", hour_ms, "search", key)] = list(used)
    sums.months[MonthKey("acme", OCTOBER_MS)] = 18 * DOLLAR_E9
    add_stretches(store, [Stretch("usage.v1", 0, 0, 3, sums)])


@ON_SQLITE
def test_spend_of_this_minute_hour_and_month_is_shown_by_key_project_or_tenant(
    rentroll: Command, priced_store: Engine
) -> None:
    spend(priced_store)
    for by, lines in (("key", 4), ("project", 3), ("tenant", 3)):
        done = rentroll("spend", "show", "acme", "--by", by, "--at", "2026-10-01T01:00", "--json")
        assert done.exit_code == 0, done.output
        told = json.loads(done.output)
        assert len(told["lines"]) == lines
        month = [one["estimate"] for one in told["lines"] if one["span"] == "month"]
        assert sum(map(float, month)) == 18
    assert "12.000000" in rentroll("spend", "show", "acme", "--at", "2026-10-01T01:00").output


@ON_SQLITE
def test_query_reads_only_the_windows_that_run(priced_store: Engine) -> None:
    spend(priced_store)
    found = read_spend(priced_store, "acme", OCTOBER_MS + HOUR_MS + 60_000, by="tenant")
    assert [(one.span, one.measures["requests"]) for one in found] == [("hour", 1), ("month", 3)]
    assert read_spend(priced_store, "globex", OCTOBER_MS) == []


@ON_SQLITE
def test_budget_is_set_listed_and_removed(
    rentroll: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENTROLL_BUDGET_WEBHOOK_SECRET", "x" * 40)
    done = rentroll("budgets", "set", "acme", "--monthly", "500.50", "--webhook", "https://h/k")
    assert done.exit_code == 0, done.output
    assert "acme may spend 500.50 USD a month; alerts at 50%, 80%, 100%" in done.output
    assert "whsec_" in done.output
    assert rentroll("budgets", "set", "acme", "--prepaid", "7", "--alert-at", "90").exit_code == 0
    listed = rentroll("budgets", "list").output
    assert "500.500000" in listed
    assert "90%" in listed
    assert rentroll("budgets", "remove", "acme", "--kind", "prepaid").exit_code == 0
    assert "prepaid" not in rentroll("budgets", "list").output
    assert isinstance(
        rentroll("budgets", "remove", "acme", "--kind", "prepaid").exception, ContractError
    )


@ON_SQLITE
@pytest.mark.parametrize(
    "words",
    [(), ("--monthly", "1", "--prepaid", "1"), ("--monthly", "1", "--alert-at", "0")],
)
def test_budget_that_says_too_little_or_too_much_is_refused(
    rentroll: Command, words: tuple[str, ...]
) -> None:
    assert isinstance(rentroll("budgets", "set", "acme", *words).exception, ContractError)


@ON_SQLITE
def test_alerts_are_listed_with_what_became_of_them(
    rentroll: Command, priced_store: Engine
) -> None:
    spend(priced_store)
    rentroll("budgets", "set", "acme", "--monthly", "20")
    raise_alerts(priced_store, OCTOBER_MS)
    shown = rentroll("budgets", "alerts", "--tenant", "acme").output
    assert "80%" in shown
    assert "unsent" in shown
