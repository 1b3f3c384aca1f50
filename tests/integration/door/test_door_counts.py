"""The door in front of a server on real sockets: one opening, one closing, and what was counted.

Behind it an app answers in vLLM's shapes; the tests with the real engine are elsewhere.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from inference.door_records import DOOR_BOOT, DOOR_MARK, DOOR_STOP
from tests.support.door_house import CHAT, COMPLETIONS, RESPONSES, house, run
from tests.support.doors import records
from tests.support.http_client import Answer

USAGE = {"stream_options": {"include_usage": True}}


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
