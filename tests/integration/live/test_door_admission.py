"""A door that asks a real admission server: who may not spend is refused, and gets no answer."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select

from inference.door_keys import KeySnapshot
from inference.middleware import RentrollMiddleware
from infra.store.budgets import set_budget
from infra.store.tables import admission_holds
from schemas.budgets import BudgetKind
from tests.support.admission_process import admission_server
from tests.support.door_house import CHAT, House, house, run
from tests.support.doors import bearer, door_key, door_tenant, snapshot
from tests.support.spend_examples import DOLLAR_E9, TOKEN_E9, budget

ON_SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)

SLOW: dict[str, Any] = {"admission_timeout_ms": 10_000, "admission_context_tokens": 1_000}
MESSAGE = {"messages": [{"role": "user", "content": "hello"}], "model": "llama", "max_tokens": 50}


@pytest.fixture
def server(store_url: str, priced_store: Engine) -> Iterator[str]:
    wide = {"RENTROLL_BILLING_ADMISSION_TIMEOUT_MS": "10000"}
    with admission_server(store_url, **wide) as address:
        yield address


def keys(kind: str) -> KeySnapshot:
    return snapshot([door_key()], [door_tenant(budget=kind)])


async def ask(here: House, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    answer = await here.client.post(CHAT, body or MESSAGE)
    assert answer is not None
    return answer.status, json.loads(answer.body)


def holds(store: Engine) -> list[tuple[str, int]]:
    wanted = select(admission_holds.c.request, admission_holds.c.amount_e9)
    with store.connect() as connection:
        return [(row.request, row.amount_e9) for row in connection.execute(wanted)]


@ON_SQLITE
@pytest.mark.parametrize(("kind", "status"), [("monthly", 429), ("prepaid", 402)])
def test_request_beyond_the_budget_is_refused_with_problem_details_and_a_record(
    server: str, priced_store: Engine, tmp_path: Path, kind: BudgetKind, status: int
) -> None:
    set_budget(priced_store, budget(kind=kind, limit_e9=0))

    async def story() -> None:
        async with house(tmp_path, keys=keys(kind), admission_url=server, **SLOW) as here:
            code, told = await ask(here)
            opened, closed = (await here.settled()).only()
        assert (code, closed.http_status, closed.ending) == (status, status, "refused")
        assert told["status"] == status
        assert told["type"].startswith("urn:rentroll:problem:")
        assert told["instance"] == f"urn:uuid:{opened.id}"
        assert here.app.seen == []

    run(story)


@ON_SQLITE
def test_request_within_the_budget_runs_and_its_worst_case_is_held_under_its_event_id(
    server: str, priced_store: Engine, tmp_path: Path
) -> None:
    set_budget(priced_store, budget(limit_e9=DOLLAR_E9))

    async def story() -> None:
        async with house(tmp_path, keys=keys("monthly"), admission_url=server, **SLOW) as here:
            code, _ = await ask(here)
            opened, _ = (await here.settled()).only()
        assert code == 200
        # The template may fill the context, the answer is bounded by the client.
        most = 1_000 * TOKEN_E9["input"] + 50 * TOKEN_E9["output"]
        assert holds(priced_store) == [(opened.id, most)]

    run(story)


@ON_SQLITE
def test_missing_max_tokens_counts_as_the_context(
    server: str, priced_store: Engine, tmp_path: Path
) -> None:
    set_budget(priced_store, budget(limit_e9=DOLLAR_E9))
    body = {name: value for name, value in MESSAGE.items() if name != "max_tokens"}

    async def story() -> None:
        async with house(tmp_path, keys=keys("monthly"), admission_url=server, **SLOW) as here:
            assert (await ask(here, body))[0] == 200
        ((_, amount_e9),) = holds(priced_store)
        assert amount_e9 == 1_000 * (TOKEN_E9["input"] + TOKEN_E9["output"])

    run(story)


def test_tenant_without_a_budget_is_not_asked_about(tmp_path: Path) -> None:
    nobody: dict[str, Any] = {
        "admission_url": "http://127.0.0.1:9",
        "admission_when_away": "refuse",
    }

    async def story() -> None:
        async with house(tmp_path, **nobody) as here:
            assert (await ask(here))[0] == 200

    run(story)


@pytest.mark.parametrize(
    ("kind", "when_away", "status"),
    [("monthly", "serve", 200), ("monthly", "refuse", 503), ("prepaid", "serve", 503)],
)
def test_without_an_answer_the_setting_decides_but_never_for_a_credit(
    tmp_path: Path, kind: str, when_away: str, status: int
) -> None:
    away: dict[str, Any] = {"admission_url": "http://127.0.0.1:9", "admission_when_away": when_away}

    async def story() -> None:
        async with house(tmp_path, keys=keys(kind), **away) as here:
            assert (await ask(here))[0] == status
            assert here.door.ledger.counts["admission_failures"] == 1

    run(story)


def test_endpoint_that_hangs_costs_no_more_than_the_time_out(tmp_path: Path) -> None:
    async def story() -> None:
        writers: list[asyncio.StreamWriter] = []
        silent = await asyncio.start_server(
            lambda _reader, writer: writers.append(writer), "127.0.0.1", 0
        )
        port = silent.sockets[0].getsockname()[1]
        hanging: dict[str, Any] = {
            "admission_url": f"http://127.0.0.1:{port}",
            "admission_timeout_ms": 50,
        }
        async with silent, house(tmp_path, keys=keys("prepaid"), **hanging) as here:
            started_s = asyncio.get_running_loop().time()
            assert (await ask(here))[0] == 503
            assert asyncio.get_running_loop().time() - started_s < 10
            for writer in writers:
                writer.close()

    run(story)


def test_request_that_is_cut_off_while_admission_is_asked_is_closed(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{silent.getsockname()[1]}"
    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "headers": [(b"authorization", bearer(1).encode())],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(MESSAGE).encode()}

    async def send(_message: Any) -> None:
        raise AssertionError("nobody is left to be answered")

    async def story() -> None:
        async with house(tmp_path, keys=keys("prepaid"), admission_url=address, **SLOW) as here:
            middleware = RentrollMiddleware(here.app, here.door)
            asking = asyncio.create_task(middleware(scope, receive, send))
            await asyncio.sleep(0.5)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert middleware._gate is not None
            await middleware._gate.close()
            _, closed = (await here.settled()).only()
        assert (closed.http_status, closed.ending) == (503, "refused")
        assert here.app.seen == []

    with silent:
        run(story)
