"""Runs over many invoices: shared by runners, bounded, stopped when Stripe is away; totals."""

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest
import stripe as sdk
from sqlalchemy import Engine, select, update

from billing.invoice_run import (
    BREAKER_FAILURES,
    LEASE_MS,
    RunResult,
    differences,
    run_invoices,
    totals_on_stripe,
)
from billing.leases import release_lease, runner_name, take_lease
from billing.stripe_gateway import LOCAL, GatewayLimits, StripeGateway
from infra.store.tables import invoices
from schemas.billing import Invoice
from schemas.clock import SystemClock
from tests.support.forked_runs import LaterClock
from tests.support.one_invoice import assert_issued_once
from tests.support.planned_invoices import PERIOD, QUANTITIES, make_invoice, plan
from tests.support.servers.stripe_fake import StandIn

_numbers = itertools.count(1)


def planned(store: Engine, count: int) -> list[Invoice]:
    run = next(_numbers)
    return [plan(store, make_invoice(f"run-{run}-tenant-{one}")) for one in range(count)]


def run(store: Engine, gateway: StripeGateway, *, workers: int = 4, later_s: int = 0) -> RunResult:
    return run_invoices(store, gateway, period=PERIOD, clock=LaterClock(later_s), workers=workers)


def state_of(store: Engine, invoice_id: str) -> str:
    with store.connect() as connection:
        statement = select(invoices.c.state).where(invoices.c.id == invoice_id)
        return str(connection.execute(statement).scalar_one())


def test_two_runners_at_once_make_one_set_of_invoices(
    store: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    wanted = planned(store, 8)
    results: list[RunResult] = []
    runners = [
        threading.Thread(target=lambda: results.append(run(store, gateway))) for _ in range(2)
    ]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    assert len(results) == 2
    assert all(result.is_complete for result in results)
    issued: Sequence[str] = [one for result in results for one in result.issued]
    assert sorted(issued) == sorted(one.id for one in wanted)
    for one in wanted:
        assert_issued_once(store, gateway, stripe.base, one)


def test_progress_reaches_all_invoices(sqlite: Engine, gateway: StripeGateway) -> None:
    planned(sqlite, 3)
    seen: list[tuple[int, int]] = []
    run_invoices(
        sqlite,
        gateway,
        period=PERIOD,
        clock=SystemClock(),
        workers=2,
        on_progress=lambda done, every: seen.append((done, every)),
    )
    assert seen[-1] == (3, 3)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_second_run_has_nothing_to_do(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    planned(sqlite, 2)
    assert len(run(sqlite, gateway).issued) == 2
    before = len(stripe.exchanges("POST", "/v1/"))
    assert run(sqlite, gateway) == RunResult((), {}, {}, (), "")
    assert len(stripe.exchanges("POST", "/v1/")) == before


def test_one_held_invoice_does_not_stop_the_others(sqlite: Engine, gateway: StripeGateway) -> None:
    wanted = planned(sqlite, 3)
    too_long = plan(sqlite, make_invoice(f"long-{next(_numbers)}", models=63))
    result = run(sqlite, gateway)
    assert sorted(result.issued) == sorted(one.id for one in wanted)
    assert list(result.held) == [too_long.id]
    assert not result.is_complete
    assert "252 lines" in run(sqlite, gateway).held[too_long.id]


def test_a_wrong_key_ends_the_run_after_the_first_invoices(sqlite: Engine, stripe: StandIn) -> None:
    wanted = planned(sqlite, 12)
    stranger = StripeGateway("wrong", stripe.base, limits=LOCAL)
    result = run(sqlite, stranger, workers=2)
    stranger.close()
    assert "Invalid API Key" in result.stopped
    assert len(result.failed) == 12
    assert sum("not tried" in reason for reason in result.failed.values()) >= 9
    assert {state_of(sqlite, one.id) for one in wanted} == {"planned"}


def test_the_breaker_ends_the_run_when_stripe_is_away(sqlite: Engine) -> None:
    planned(sqlite, BREAKER_FAILURES + 4)
    nobody = StripeGateway(
        "sk_test_x", "http://127.0.0.1:9", limits=GatewayLimits(attempts=1, account_per_s=0)
    )
    result = run(sqlite, nobody, workers=1)
    assert "did not answer" in result.stopped
    assert sum("not tried" in reason for reason in result.failed.values()) == 4


def test_a_lease_of_a_living_runner_is_waited_for_and_ends_by_time(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway
) -> None:
    (wanted,) = planned(sqlite, 1)
    now_ms = SystemClock().now_ns() // 1_000_000
    other = runner_name("another run of this living process")
    assert take_lease(sqlite, wanted.id, other, now_ms=now_ms, until_ms=now_ms + LEASE_MS)
    mine = runner_name("me")
    assert not take_lease(sqlite, wanted.id, mine, now_ms=now_ms, until_ms=now_ms + 1)
    later_s = LEASE_MS // 1_000 + 1
    assert run(sqlite, gateway, later_s=later_s).issued == (wanted.id,)
    assert_issued_once(sqlite, gateway, stripe.base, wanted)


def test_a_lease_of_a_killed_process_is_free_at_once(sqlite: Engine) -> None:
    (wanted,) = planned(sqlite, 1)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    host, _, token = runner_name("x").split("/")
    with sqlite.begin() as connection:
        connection.execute(
            update(invoices).values(
                lease_owner=f"{host}/{child.pid}/{token}", lease_until_ms=10**15
            )
        )
    assert take_lease(sqlite, wanted.id, runner_name("me"), now_ms=1, until_ms=2)
    release_lease(sqlite, wanted.id, runner_name("me"))
    assert take_lease(sqlite, wanted.id, runner_name("you"), now_ms=1, until_ms=2)
    assert os.getpid() != child.pid


@pytest.fixture
def issued(sqlite: Engine, stripe: StandIn, gateway: StripeGateway) -> list[Invoice]:
    """Invoices of one run, alone in their period on the module's stand-in."""
    for one in gateway.invoices():
        if one.status == "open":
            void(stripe, one.id)
    wanted = [*planned(sqlite, 2), plan(sqlite, make_invoice(f"big-{next(_numbers)}", models=5))]
    assert run(sqlite, gateway).is_complete
    return wanted


def void(stripe: StandIn, invoice: str) -> None:
    http = sdk.RequestsClient()
    client = sdk.StripeClient("sk_test_x", base_addresses={"api": stripe.base}, http_client=http)
    client.v1.invoices.void_invoice(invoice)
    http.close()  # type: ignore[no-untyped-call]


def test_stripe_alone_gives_the_totals(
    sqlite: Engine, gateway: StripeGateway, issued: list[Invoice]
) -> None:
    totals = totals_on_stripe(gateway, PERIOD)
    assert totals.invoices == 3
    assert totals.amount_minor == sum(one.total_minor for one in issued)
    assert totals.requests == sum(one.requests for one in issued)
    assert totals.gpu_ns == sum(one.gpu_ns for one in issued)
    products, unbilled = 2 * 1 + 5, 3
    assert totals.tokens == {
        "input_uncached_tokens": products * QUANTITIES["input_uncached_tokens"][0],
        "input_cache_read_tokens": products * QUANTITIES["input_cache_read_tokens"][0],
        "input_cache_write_tokens": 0,
        "output_text_tokens": (products + unbilled) * QUANTITIES["output_text_tokens"][0],
        "output_reasoning_tokens": 0,
    }
    assert differences(sqlite, gateway, PERIOD) == []


def test_a_voided_invoice_is_missing_from_the_totals_and_named(
    sqlite: Engine, stripe: StandIn, gateway: StripeGateway, issued: list[Invoice]
) -> None:
    with sqlite.connect() as connection:
        row = connection.execute(select(invoices).where(invoices.c.id == issued[0].id)).one()
    void(stripe, row.stripe_invoice)
    assert totals_on_stripe(gateway, PERIOD).invoices == 2
    (found,) = differences(sqlite, gateway, PERIOD)
    assert found == f"{issued[0].tenant} 2026-10: 4229 minor units in the store, [] on Stripe"
