"""What the doorkeeper answers by the body of a request, and when something of ours is broken."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from inference.door_delivery import Delivery
from inference.doorkeeper import NO_TIER, Admitted, Visit
from inference.middleware import RentrollMiddleware
from tests.support.door_house import COMPLETIONS, RESPONSES, house, run
from tests.support.doors import NOW_MS, bearer, door_key, fixed_door, snapshot, written
from tests.support.http_client import Answer, Client
from tests.support.vllm_shaped import VllmShaped


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (RESPONSES, {"input": "x", "previous_response_id": "resp_1"}, 400, "body-refused"),
        (COMPLETIONS, {"prompt": "x", "n": 1_025}, 400, "body-refused"),
        (COMPLETIONS, {"prompt": "x", "service_tier": "batch"}, 403, "tier-not-allowed"),
    ],
)
def test_body_that_the_door_refuses_makes_an_event(
    tmp_path: Path, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            answer = await at.client.post(path, body)
            assert isinstance(answer, Answer)
            assert (answer.status, answer.json()["error"]["code"]) == (status, code)
            _, closed = (await at.settled()).only()
            assert (closed.ending, closed.http_status) == ("refused", status)
            assert at.app.seen == []

    run(story)


def test_request_to_a_server_that_drains_is_refused_and_makes_an_event(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            at.door.close()
            answer = await at.client.post(COMPLETIONS, {"prompt": "x"})
            assert isinstance(answer, Answer)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "server-closing")
            assert answer.headers["retry-after"] == "1"
            _, closed = (await at.settled()).only()
            assert (closed.ending, closed.http_status) == ("refused", 503)
            assert at.app.seen == []

    run(story)


def test_tier_is_capped_in_the_record_and_priority_goes_to_the_engine(tmp_path: Path) -> None:
    async def story() -> None:
        keys = snapshot([door_key(service_tiers=("standard", "flex"))])
        async with house(tmp_path, keys=keys, door_priority_scheduling=True) as at:
            for tier in ("priority", "flex"):
                await at.client.post(COMPLETIONS, {"prompt": "a", "service_tier": tier})
            tiers = [opened.service_tier for opened, _ in (await at.settled()).pairs()]
            assert tiers == ["standard", "flex"]
            assert [b'"priority":10' in body for _, body in at.app.seen] == [True, False]

    run(story)


def test_body_that_never_comes_is_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, door_body_timeout_s=1) as at:
            reader, writer = await at.client.send(
                "POST", COMPLETIONS, [("content-length", "100")], b"x"
            )
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            assert b" 408 " in head
            assert (await at.settled()).only()[1].http_status == 408

    run(story)


class Broken(Delivery):
    """A delivery whose end cannot be read."""

    def read_end(self) -> Any:
        raise RuntimeError("ours")


def test_end_that_cannot_be_read_is_written_and_counted(tmp_path: Path) -> None:
    door = fixed_door(tmp_path, snapshot([door_key()]))
    visit = door.enter("POST", "v1/completions", [bearer(1).encode()], b"label")
    assert isinstance(visit, Visit)
    admitted = door.admit(visit, b"{}")
    assert isinstance(admitted, Admitted)
    broken = Broken("v1/completions", 1)
    broken.started(200, b"application/json")
    door.leave(admitted._replace(delivery=broken))
    assert written(tmp_path).only()[1].ending == "failed"
    assert door.ledger.counts["metering_failures"] == 1


def test_public_route_needs_no_key_and_shows_nobody(tmp_path: Path) -> None:
    door = fixed_door(tmp_path, snapshot([door_key()], at_ms=NOW_MS - 10**9))
    visit = door.enter("GET", "health", [], b"")
    assert isinstance(visit, Visit)
    assert visit.bearer is None
    with pytest.raises(ValueError, match="nobody has shown a key"):
        door.turn_away(visit, NO_TIER)


def test_middleware_opens_a_door_by_the_settings_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENTROLL_INFERENCE_HOST_FOLDER", str(tmp_path))
    monkeypatch.setenv("RENTROLL_INFERENCE_DOOR_KEYS_FILE", str(tmp_path / "none.json"))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def story() -> None:
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": []}
        await RentrollMiddleware(VllmShaped())(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(story())
    assert sent[0]["status"] == 503
    assert len(list((tmp_path / "doors").iterdir())) == 1


def test_thousand_requests_at_once_have_a_thousand_pairs(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, spool_segment_bytes=65_536) as at:
            gate = asyncio.Semaphore(50)

            async def one(number: int) -> None:
                async with gate:
                    client = Client(at.server.port, bearer(1 if number % 3 else 9))
                    leave = 3 if number % 7 == 0 else None
                    body = {"stream": number % 2 == 0, "script": {"tokens": 6}}
                    await client.post(COMPLETIONS, body, leave_after_events=leave)

            await asyncio.gather(*map(one, range(1_000)))
            pairs = (await at.settled()).pairs()
            assert len(pairs) == sum(number % 3 > 0 for number in range(1_000))
            assert {closed.ending for _, closed in pairs} <= {"finished", "aborted"}

    run(story)
