"""Admission with a real server on both databases: nobody spends what is not there."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from sqlalchemy import Engine, select

from billing.admission import Ask
from billing.reserving import read_standings, reserve
from infra.store.budgets import set_budget
from infra.store.live_spend import Stretch, add_stretches
from infra.store.tables import admission_holds
from schemas.budgets import BudgetKind
from schemas.estimates import Estimator, WorstCase
from schemas.spend import MonthKey, PartialSums, month_start_ms
from tests.support.admission_process import admission_server, hold_request, now_ms, request_id
from tests.support.spend_examples import SPEND_BOOK, TOKEN_E9, budget

HELD_E9 = 100 * TOKEN_E9["input"] + 100 * TOKEN_E9["output"]
"""The worst case of `hold_request()`."""
WIDE = {"RENTROLL_BILLING_ADMISSION_TIMEOUT_MS": "10000"}
"""These tests are about money, and machines that run them may be slow."""


@pytest.fixture
def server(store_url: str, priced_store: Engine) -> Iterator[str]:
    with admission_server(store_url, **WIDE) as address:
        yield address


async def ask(session: aiohttp.ClientSession, server: str, body: object) -> tuple[int, Any]:
    async with session.post(f"{server}/v1/holds", data=json.dumps(body)) as answer:
        return answer.status, json.loads(await answer.read())


async def ask_all(server: str, bodies: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await asyncio.gather(*(ask(session, server, body) for body in bodies))


def held(store: Engine) -> int:
    with store.connect() as connection:
        return sum(connection.execute(select(admission_holds.c.amount_e9)).scalars())


def settle(store: Engine, requests: list[str], amount_e9: int, start: int) -> None:
    """What live spend commits when the events of these requests have come."""
    month = MonthKey("acme", month_start_ms(now_ms()))
    sums = PartialSums(
        months={month: amount_e9 * len(requests)}, finished=[UUID(one).bytes for one in requests]
    )
    add_stretches(store, [Stretch("usage.v1", 0, start, start + len(requests), sums)])


@pytest.mark.parametrize(("kind", "status"), [("monthly", 429), ("prepaid", 402)])
def test_of_a_hundred_at_once_exactly_as_many_run_as_are_covered(
    server: str, priced_store: Engine, kind: BudgetKind, status: int
) -> None:
    set_budget(priced_store, budget(kind=kind, limit_e9=40 * HELD_E9 + HELD_E9 // 2))
    answers = asyncio.run(ask_all(server, [hold_request() for _ in range(100)]))
    assert sorted(code for code, _ in answers) == [200] * 40 + [status] * 60
    assert held(priced_store) == 40 * HELD_E9


def test_nothing_is_overspent_while_a_hundred_ask_and_events_come_in(
    server: str, priced_store: Engine
) -> None:
    limit_e9, actual_e9 = 50 * HELD_E9, HELD_E9 // 3
    set_budget(priced_store, budget(kind="prepaid", limit_e9=limit_e9))
    spent_e9 = offset = 0
    running: list[str] = []

    async def story() -> None:
        nonlocal spent_e9, offset, running
        for _ in range(8):
            bodies = [hold_request() for _ in range(100)]
            done = running
            answers, _ = await asyncio.gather(
                ask_all(server, bodies),
                asyncio.to_thread(settle, priced_store, done, actual_e9, offset),
            )
            assert {code for code, _ in answers} <= {200, 402}
            told = zip(answers, bodies, strict=True)
            running = [body["request"] for (code, _), body in told if code == 200]
            offset, spent_e9 = offset + len(done), spent_e9 + actual_e9 * len(done)
            assert held(priced_store) == HELD_E9 * len(running)
            assert spent_e9 + held(priced_store) <= limit_e9

    asyncio.run(story())
    assert limit_e9 // 2 < spent_e9 <= limit_e9


def test_several_servers_on_one_store_share_one_budget(
    server: str, store_url: str, priced_store: Engine
) -> None:
    set_budget(priced_store, budget(limit_e9=30 * HELD_E9))

    async def story(other: str) -> list[tuple[int, Any]]:
        both = (ask_all(one, [hold_request() for _ in range(50)]) for one in (server, other))
        return [answer for answers in await asyncio.gather(*both) for answer in answers]

    with admission_server(store_url, **WIDE) as other:
        answers = asyncio.run(story(other))
    assert sum(code == 200 for code, _ in answers) == 30
    assert held(priced_store) == 30 * HELD_E9


def test_same_request_again_is_held_once(server: str, priced_store: Engine) -> None:
    set_budget(priced_store, budget())
    body = hold_request()
    answers = asyncio.run(ask_all(server, [body] * 5))
    assert {code for code, _ in answers} == {200}
    assert held(priced_store) == HELD_E9


def test_tenant_without_a_budget_is_free_and_nothing_is_held(
    server: str, priced_store: Engine
) -> None:
    ((code, told),) = asyncio.run(ask_all(server, [hold_request("globex")]))
    assert (code, told["verdict"], held(priced_store)) == (200, "free", 0)


def test_refusal_is_problem_details_and_wrong_asks_are_refused_by_field(
    server: str, priced_store: Engine
) -> None:
    set_budget(priced_store, budget(limit_e9=0))
    bodies = [
        hold_request(),
        hold_request(input_tokens=-1),
        hold_request(request="x"),
        hold_request(request=request_id().replace("0", "f", 1)),
        hold_request(color="red"),
        {},
    ]
    answers = asyncio.run(ask_all(server, bodies))
    assert [code for code, _ in answers] == [429, 400, 400, 400, 400, 400]
    assert answers[0][1]["type"] == "urn:rentroll:problem:budget-exhausted"
    assert "input_tokens" in answers[1][1]["detail"]


def test_whoever_does_not_show_the_token_is_not_told_anything(
    store_url: str, priced_store: Engine, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    environment = {"RENTROLL_BILLING_ADMISSION_TOKEN_FILE": str(token)}

    async def story(address: str, headers: dict[str, str]) -> int:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{address}/v1/holds", data=json.dumps(hold_request())) as answer,
        ):
            return answer.status

    with admission_server(store_url, **environment) as address:
        assert asyncio.run(story(address, {})) == 401
        assert asyncio.run(story(address, {"authorization": "Bearer wrong"})) == 401
        assert asyncio.run(story(address, {"authorization": "Bearer s3cret"})) == 200


def test_event_of_a_held_request_puts_its_cost_in_the_holds_place(priced_store: Engine) -> None:
    set_budget(priced_store, budget())
    request = request_id()
    worst = WorstCase("acme", "chatbot", "llama", "standard", 100, 100)
    (decision,) = reserve(priced_store, [Ask(request, now_ms(), worst)], Estimator(SPEND_BOOK))
    assert (decision.verdict, held(priced_store)) == ("held", HELD_E9)
    settle(priced_store, [request, request_id()], 7, 0)
    with priced_store.connect() as connection:
        standing = read_standings(connection, ["acme"])["acme"]
    assert held(priced_store) == 0
    assert sum(standing.spent_e9.values()) == 14


def test_new_credit_begins_with_nothing_used(priced_store: Engine) -> None:
    settle(priced_store, [request_id()], 5 * HELD_E9, 0)
    set_budget(priced_store, budget(kind="prepaid", limit_e9=HELD_E9))
    worst = WorstCase("acme", "chatbot", "llama", "standard", 100, 100)
    asks = [Ask(request_id(), now_ms(), worst) for _ in range(2)]
    decisions = reserve(priced_store, asks, Estimator(SPEND_BOOK))
    assert [one.verdict for one in decisions] == ["held", "no_credit"]


def test_budget_in_another_currency_than_the_prices_bounds_nothing(priced_store: Engine) -> None:
    set_budget(priced_store, budget(currency="EUR"))
    worst = WorstCase("acme", "chatbot", "llama", "standard", 100, 100)
    (decision,) = reserve(priced_store, [Ask(request_id(), now_ms(), worst)], Estimator(SPEND_BOOK))
    assert decision.verdict == "no_worst_case"
