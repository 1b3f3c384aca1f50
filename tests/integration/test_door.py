"""The door in front of a server on real sockets: every request makes one opening and one closing.

Behind it an app answers in vLLM's shapes; the tests with the real engine are elsewhere.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from inference.door_keys import KeySnapshot, write_snapshot
from inference.door_records import DOOR_BOOT, DOOR_MARK, DOOR_STOP, carried
from inference.middleware import RentrollMiddleware
from schemas.clock import SystemClock
from schemas.units import NS_PER_MS
from tests.support.asgi_server import AsgiServer, asgi_server
from tests.support.doors import (
    bearer,
    door_key,
    door_tenant,
    living_door,
    records,
    snapshot,
    written,
)
from tests.support.http_client import Answer, Client
from tests.support.vllm_shaped import VllmShaped

COMPLETIONS, CHAT, RESPONSES = "/v1/completions", "/v1/chat/completions", "/v1/responses"
USAGE = {"stream_options": {"include_usage": True}}


class House:
    """A door, what is behind it, and a client in front of it."""

    def __init__(self, folder: Path, app: VllmShaped, server: AsgiServer, door: Any) -> None:
        self.folder, self.app, self.server, self.door = folder, app, server, door
        self.client = Client(server.port, bearer(1))

    async def settled(self) -> Any:
        await self.server.settled()
        return written(self.folder)


@asynccontextmanager
async def house(
    folder: Path, *, hooked: bool = False, keys: KeySnapshot | None = None, **changes: Any
) -> AsyncIterator[House]:
    app = VllmShaped(hooked=hooked)
    door = living_door(folder, keys or snapshot([door_key()]), **changes)
    async with asgi_server(RentrollMiddleware(app, door)) as server:
        yield House(folder, app, server, door)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, RESPONSES])
@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("tokens", [1, 5, 48])
def test_whole_stream_counts_every_token(
    tmp_path: Path, path: str, hooked: bool, tokens: int
) -> None:
    async def story() -> None:
        async with house(tmp_path, hooked=hooked) as at:
            body = {"model": "tiny", "stream": True, "script": {"tokens": tokens}}
            await at.client.post(path, body)
            opened, closed = (await at.settled()).only()
            assert (opened.tenant, opened.project) == ("acme", "chatbot")
            assert (opened.endpoint, opened.model) == (path[1:], "tiny")
            assert closed.delivered_tokens == tokens
            assert (closed.http_status, closed.ending) == (200, "finished")
            assert closed.finish_reason == "stop"
            assert opened.admitted_mono_ns < closed.first_token_mono_ns <= closed.closed_mono_ns
            assert closed.engine_requests == 1

    run(story)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, RESPONSES])
@pytest.mark.parametrize("hooked", [False, True])
def test_cut_stream_counts_what_the_client_was_sent(
    tmp_path: Path, path: str, hooked: bool
) -> None:
    async def story() -> None:
        async with house(tmp_path, hooked=hooked) as at:
            script = {"tokens": 400, "pause_s": 0.005}
            body = {"stream": True, "script": script}
            answer = await at.client.post(path, body, leave_after_events=6)
            assert isinstance(answer, Answer)
            _, closed = (await at.settled()).only()
            got = answer.body or b"".join(answer.events)
            marker = b".delta\n" if path == RESPONSES else b" token"
            received = got.count(marker)
            assert (closed.http_status, closed.ending) == (499, "aborted")
            # What lay in the socket when the client left was sent, and never read.
            assert received <= closed.delivered_tokens <= received + 3
            assert received >= 4

    run(story)


def test_hook_counts_merged_chunks_that_nobody_could_tell_apart(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, hooked=True) as at:
            body = {"stream": True, "script": {"tokens": 11, "merge": 4}}
            await at.client.post(COMPLETIONS, body)
            assert (await at.settled()).only()[1].delivered_tokens == 11

    run(story)


def test_usage_block_of_a_stream_wins_over_its_chunks(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            body = {"stream": True, "n": 3, "script": {"tokens": 12, "merge": 4}, **USAGE}
            await at.client.post(CHAT, body)
            _, closed = (await at.settled()).only()
            assert closed.delivered_tokens == 36
            assert closed.usage is not None
            assert (closed.usage.input_tokens, closed.usage.cached_tokens) == (7, 4)
            assert closed.finish_reason == "stop"
            assert closed.engine_requests == 3

    run(story)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("n", [2, 5])
def test_several_samples_in_one_stream_are_one_request(tmp_path: Path, path: str, n: int) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            await at.client.post(path, {"stream": True, "n": n, "script": {"tokens": 6}})
            _, closed = (await at.settled()).only()
            assert (closed.delivered_tokens, closed.engine_requests) == (6 * n, n)

    run(story)


@pytest.mark.parametrize(
    ("path", "tokens", "reasoning", "reason"),
    [(COMPLETIONS, 9, 0, "length"), (RESPONSES, 9, 2, "length"), ("/v1/embeddings", 0, 0, "")],
)
def test_whole_answer_is_counted_by_its_usage_whatever_its_text_pretends(
    tmp_path: Path, path: str, tokens: int, reasoning: int, reason: str
) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            await at.client.post(path, {"script": {"tokens": 9}})
            _, closed = (await at.settled()).only()
            assert closed.delivered_tokens == tokens
            assert closed.reasoning_tokens == reasoning
            assert (closed.ending, closed.finish_reason) == ("finished", reason)

    run(story)


def test_model_cannot_forge_counts_by_what_it_says(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            text = '"choices":[{"role":".delta\n"usage":{"completion_tokens":999}'
            script = {"tokens": 7, "text": text}
            await at.client.post(CHAT, {"stream": True, "script": script})
            assert (await at.settled()).only()[1].delivered_tokens == 7

    run(story)


def test_client_that_leaves_a_whole_answer_is_seen(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            body = {"script": {"pause_s": 5}}
            assert await at.client.post(COMPLETIONS, body, leave_after_s=0.1) is None
            _, closed = (await at.settled()).only()
            assert (closed.http_status, closed.ending) == (499, "aborted")
            assert closed.delivered_tokens == 0

    run(story)


def test_client_that_leaves_before_its_body_is_whole_made_no_request(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            await at.client.leave_while_sending(COMPLETIONS, 1_000)
            assert (await at.settled()).pairs() == []
            assert at.app.seen == []
            assert at.door.ledger.counts["left_early"] == 1

    run(story)


@pytest.mark.parametrize("stream", [False, True])
def test_server_that_breaks_still_closes_the_request(tmp_path: Path, stream: bool) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            body = {"stream": stream, "script": {"fail": 3}}
            with pytest.raises(asyncio.IncompleteReadError):
                await at.client.post(COMPLETIONS, body)
            _, closed = (await at.settled()).only()
            assert closed.ending == "failed"
            assert closed.http_status == (200 if stream else 500)
            assert closed.delivered_tokens == (3 if stream else 0)
            assert [type(error) for error in at.server.failures] == [RuntimeError]

    run(story)


def test_error_within_a_stream_is_a_failure(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            await at.client.post(COMPLETIONS, {"stream": True, "script": {"error": 3}})
            _, closed = (await at.settled()).only()
            assert (closed.ending, closed.delivered_tokens) == ("failed", 3)

    run(story)


def test_forged_ids_change_nothing_but_a_label(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            other = carried("019a0000-0000-7000-8000-000000000001")
            headers = (
                ("X-Request-Id", other),
                ("X-Request-ID", f"{other}, again"),
                ("X-Data-Parallel-Rank", "1"),
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
            assert not {b"authorization", b"x-data-parallel-rank"} & set(names)
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
            reader, writer = await at.client._send("POST", COMPLETIONS, list(chunked), raw)
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


def test_full_spool_refuses_new_work_and_closes_the_old(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, spool_max_bytes=65_536) as at:
            slow = {"stream": True, "script": {"tokens": 30, "pause_s": 0.02}}
            serving = asyncio.create_task(at.client.post(COMPLETIONS, slow))
            statuses = []
            while 503 not in statuses:
                label = (("x-request-id", "x" * 256),)
                answer = await at.client.post(COMPLETIONS, {"prompt": "a"}, label)
                assert answer is not None
                statuses.append(answer.status)
            assert set(statuses[:-1]) == {200}
            answer = await serving
            assert answer is not None
            assert answer.body.count(b" token") == 30
            assert at.door.ledger.counts["metering_failures"] >= 1

    run(story)


def test_full_spool_that_only_counts_goes_on_serving(tmp_path: Path) -> None:
    async def story() -> None:
        policy: dict[str, Any] = {"spool_max_bytes": 65_536, "spool_when_full": "count"}
        async with house(tmp_path, **policy) as at:
            for _ in range(120):
                label = (("x-request-id", "x" * 256),)
                answer = await at.client.post(COMPLETIONS, {"prompt": "a"}, label)
                assert answer is not None
                assert answer.status == 200
            assert len(at.app.seen) == 120

    run(story)


def test_spool_says_when_the_door_opens_lives_and_stops(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path, mark_ms=100) as at:
            await at.client.post(COMPLETIONS, {"prompt": "a"})
            await asyncio.sleep(0.35)

    run(story)
    kinds = [record.kind for record in records(tmp_path)]
    assert kinds[0] == DOOR_BOOT
    assert kinds[-1] == DOOR_STOP
    assert kinds.count(DOOR_MARK) >= 2


def test_ids_lie_in_the_spool_in_their_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as at:
            await asyncio.gather(
                *(at.client.post(COMPLETIONS, {"stream": n % 2 == 0}) for n in range(60))
            )
            found = await at.settled()
            assert len(found.pairs()) == 60
            times = [one.id[:13] for one in found.opened]
            assert times == sorted(times)

    run(story)
