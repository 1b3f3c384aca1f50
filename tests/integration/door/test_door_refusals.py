"""Whom the door turns away, over real sockets, and what a client cannot forge."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from inference.door_keys import write_snapshot
from inference.door_records import carried
from schemas.clock import SystemClock
from schemas.units import NS_PER_MS
from tests.support.door_house import COMPLETIONS, RESPONSES, house, run
from tests.support.doors import bearer, door_key, door_tenant, snapshot
from tests.support.http_client import Answer, Client


def test_forged_ids_change_nothing_but_a_label(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            other = carried("019a0000-0000-7000-8000-000000000001")
            headers = (
                ("X-Request-Id", other),
                ("X-Request-ID", f"{other}, again"),
                ("X-Data-Parallel-Rank", "1"),
                ("X-Vllm-Priority", "-9"),
                ("X-Session-ID", "of-somebody"),
                ("X-Whatever-Comes-Next", "1"),
                ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            )
            body = {"request_id": other, "user": "globex", "priority": -9, "cache_salt": "s"}
            body |= {"kv_transfer_params": {"remote": other}, "model": "tiny"}
            answer = await at.client.post(RESPONSES, body, headers)
            assert isinstance(answer, Answer)
            opened, closed = (await at.settled()).only()
            assert closed.id == opened.id
            assert opened.tenant == "acme"
            assert opened.client_request_id == f"{other}, again"
            assert re.fullmatch("[0-9a-f]{32}", opened.end_user)
            assert answer.headers["x-request-id"] == carried(opened.id)
            scope, sent = at.app.seen[0]
            names = [name for name, _ in scope["headers"]]
            assert dict(scope["headers"])[b"x-request-id"] == carried(opened.id).encode()
            assert names.count(b"x-request-id") == 1
            expected = {b"host", b"content-type", b"content-length", b"traceparent"}
            assert set(names) == {*expected, b"x-request-id"}
            passed = json.loads(sent)
            assert other not in sent.decode()
            assert passed["request_id"] == f"resp_{carried(opened.id)}"
            assert not {"priority", "kv_transfer_params"} & passed.keys()
            assert passed["cache_salt"] not in ("s", "")
            assert int(dict(scope["headers"])[b"content-length"]) == len(sent)

    run(story)


def test_two_tenants_with_the_same_salt_share_no_cache(tmp_path: Path) -> None:
    async def story() -> None:
        keys = snapshot([door_key(1), door_key(2, tenant="globex")])
        async with house(tmp_path, keys=keys) as at:
            other = Client(at.server.port, bearer(2))
            for client, salt in ((at.client, {}), (other, {}), (at.client, {"cache_salt": "x"})):
                await client.post(COMPLETIONS, {"prompt": "a", **salt})
            await at.client.post(COMPLETIONS, {"prompt": "b"})
            salts = [json.loads(body)["cache_salt"] for _, body in at.app.seen]
            assert len(set(salts)) == 3
            assert salts[0] == salts[3]

    run(story)


@pytest.mark.parametrize(
    ("seed", "status", "code"),
    [
        (0, 401, "key-missing"),
        (9, 401, "key-unknown"),
        (2, 401, "key-expired"),
        (3, 401, "key-revoked"),
    ],
)
def test_key_that_does_not_open_reaches_no_engine(
    tmp_path: Path, seed: int, status: int, code: str
) -> None:
    async def story() -> None:
        keys = snapshot([door_key(1), door_key(2, expires_at_ms=1), door_key(3, revoked=True)])
        async with house(tmp_path, keys=keys) as at:
            client = Client(at.server.port, bearer(seed) if seed else "")
            answer = await client.post(COMPLETIONS, {"prompt": "a"})
            assert isinstance(answer, Answer)
            assert answer.status == status
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["type"] == f"urn:rentroll:problem:{code}"
            assert at.app.seen == []
            assert (await at.settled()).pairs() == []

    run(story)


def test_suspended_tenant_reads_why_and_makes_an_event_that_costs_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        tenants = [door_tenant(suspended=True, suspend_reason="invoice R-12 is overdue")]
        async with house(tmp_path, keys=snapshot([door_key()], tenants)) as at:
            answer = await at.client.post(COMPLETIONS, {"prompt": "a"})
            assert isinstance(answer, Answer)
            assert answer.status == 403
            problem = answer.json()
            assert problem["type"] == "urn:rentroll:problem:tenant-suspended"
            assert problem["detail"] == "invoice R-12 is overdue"
            assert problem["status"] == 403
            opened, closed = (await at.settled()).only()
            assert problem["instance"] == f"urn:uuid:{opened.id}"
            assert (closed.ending, closed.http_status) == ("refused", 403)
            assert (closed.engine_requests, closed.delivered_tokens) == (0, 0)
            assert at.app.seen == []

    run(story)


def test_body_over_the_bound_is_refused_however_it_is_sent(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, door_max_body_bytes=1_024) as at:
            long = await at.client.post(COMPLETIONS, b"x" * 1_025)
            assert isinstance(long, Answer)
            chunked = (("transfer-encoding", "chunked"),)
            raw = b"400\r\n" + b"x" * 1_024 + b"\r\n1\r\nx\r\n0\r\n\r\n"
            reader, writer = await at.client.send("POST", COMPLETIONS, list(chunked), raw)
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            assert long.status == 413
            assert b" 413 " in head
            endings = [closed.ending for _, closed in (await at.settled()).pairs()]
            assert endings == ["refused", "refused"]
            assert at.app.seen == []

    run(story)


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"", b"\xff\xfe", b'{"a":01}'])
def test_body_that_is_no_json_object_is_passed_on_as_it_is(tmp_path: Path, body: bytes) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            answer = await at.client.post(COMPLETIONS, body)
            assert isinstance(answer, Answer)
            assert [sent for _, sent in at.app.seen] == [body]
            _, closed = (await at.settled()).only()
            assert answer.status == closed.http_status == 400
            assert (closed.ending, closed.engine_requests) == ("refused", 0)

    run(story)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_that_only_python_reads_is_salted_too(tmp_path: Path, encoding: str) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            body = '{"prompt":"a","temperature":NaN,"priority":-1}'.encode(encoding)
            await at.client.post(COMPLETIONS, body)
            passed = json.loads(at.app.seen[0][1])
            assert passed["cache_salt"]
            assert "priority" not in passed

    run(story)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/docs", "/openapi.json", "/metrics", "/version")),
        *(("POST", path) for path in ("/v1/audio/transcriptions", "/sleep", "/tokenize")),
        *(("GET", path) for path in ("/v1/responses/resp_1", "/v1/completions", "//v1/models")),
        ("POST", "/v1/completions/"),
    ],
)
def test_route_that_is_not_listed_or_the_operators_is_closed(
    tmp_path: Path, method: str, path: str
) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            answer = await at.client.get(path, method=method)
            assert answer.status in (403, 404)
            assert at.app.seen == []
            assert (await at.settled()).pairs() == []

    run(story)


def test_open_routes_pass_and_operators_see_the_counters(tmp_path: Path) -> None:
    async def story() -> None:
        keys = snapshot([door_key(1), door_key(2, scopes=("operator",))])
        async with house(tmp_path, keys=keys) as at:
            operator = Client(at.server.port, bearer(2))
            assert (await Client(at.server.port).get("/health")).status == 200
            assert (await Client(at.server.port).get("/v1/models")).status == 401
            assert (await at.client.get("/v1/models")).status == 200
            assert (await operator.get("/metrics")).status == 200
            assert (await operator.get("/v1/models")).status == 403
            await at.client.post(COMPLETIONS, {"prompt": "a"})
            metrics = await operator.get("/rentroll/metrics")
            assert b'rentroll_door_total{what="admitted"} 1\n' in metrics.body
            assert b'what="unnamed"} 2\n' in metrics.body
            assert not any(b"authorization" in dict(scope["headers"]) for scope, _ in at.app.seen)

    run(story)


def test_no_websocket_is_opened(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            upgrade = (("upgrade", "websocket"), ("connection", "Upgrade"))
            answer = await at.client.get("/v1/realtime", upgrade)
            assert answer.status == 403
            assert at.app.seen == []

    run(story)


def test_rate_limit_lets_the_bucket_through_and_says_when_to_come_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, keys=snapshot([door_key(requests_per_minute=3)])) as at:
            answers = [await at.client.post(COMPLETIONS, {"prompt": "a"}) for _ in range(5)]
            statuses = [answer.status for answer in answers if answer is not None]
            assert statuses == [200, 200, 200, 429, 429]
            assert answers[3] is not None
            assert 15 <= int(answers[3].headers["retry-after"]) <= 20
            endings = [closed.ending for _, closed in (await at.settled()).pairs()]
            assert endings == ["finished"] * 3 + ["refused"] * 2

    run(story)


def test_new_snapshot_counts_within_a_second_and_none_closes_the_door(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            file = at.door.settings.door_keys_file
            now_ms = SystemClock().now_ns() // NS_PER_MS
            assert (await at.client.get("/v1/models")).status == 200
            write_snapshot(file, snapshot([door_key(revoked=True)], at_ms=now_ms))
            await asyncio.sleep(1)
            assert (await at.client.get("/v1/models")).status == 401
            write_snapshot(file, snapshot([door_key()], at_ms=now_ms))
            await asyncio.sleep(1)
            assert (await at.client.get("/v1/models")).status == 200
            file.unlink()
            await asyncio.sleep(1)
            assert (await at.client.get("/v1/models")).status == 503

    run(story)


def test_stale_snapshot_admits_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, door_keys_max_age_s=1) as at:
            assert (await at.client.get("/v1/models")).status == 200
            await asyncio.sleep(1.1)
            assert (await at.client.get("/v1/models")).status == 503

    run(story)
