"""The middleware without a server: what ASGI allows and a real server rarely does."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from inference.middleware import App, Message, RentrollMiddleware
from tests.support.doors import bearer, door_key, fixed_door, snapshot, written

BODY = b'{"prompt":"a"}'


def scope_of(path: str = "/v1/completions", **changes: Any) -> dict[str, Any]:
    headers = [(b"authorization", bearer(1).encode())]
    usual = {"type": "http", "method": "POST", "path": path, "root_path": "", "headers": headers}
    return usual | changes


def call(
    folder: Path,
    app: App,
    scope: dict[str, Any],
    *,
    fail_send: Callable[[Message], bool] = lambda _: False,
) -> list[Message]:
    """What was sent for one request whose client then leaves."""
    sent: list[Message] = []
    incoming: list[Message] = [
        {"type": "http.request", "body": BODY, "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Message) -> None:
        if fail_send(message):
            raise OSError("client is gone")
        sent.append(message)

    async def story() -> None:
        door = fixed_door(folder, snapshot([door_key()]))
        await RentrollMiddleware(app, door)(scope, receive, send)

    asyncio.run(story())
    return sent


def answering(*chunks: Any) -> App:
    async def app(scope: Any, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        assert (await receive())["body"] != BODY
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def test_chunk_that_cannot_be_counted_is_served_all_the_same(tmp_path: Path) -> None:
    strange = memoryview(b'"choices":[{')
    sent = call(tmp_path, answering(strange, b'"choices":[{'), scope_of())
    assert [message.get("body") for message in sent[1:]] == [strange, b'"choices":[{', b""]
    _, closed = written(tmp_path).only()
    assert (closed.ending, closed.delivered_tokens) == ("finished", 1)


def test_send_that_fails_shows_a_client_that_is_gone(tmp_path: Path) -> None:
    def second_chunk(message: Message) -> bool:
        return message.get("body") == b'"choices":[{2'

    app = answering(b'"choices":[{1', b'"choices":[{2', b'"choices":[{3')
    with pytest.raises(OSError, match="client is gone"):
        call(tmp_path, app, scope_of(), fail_send=second_chunk)
    _, closed = written(tmp_path).only()
    assert (closed.ending, closed.http_status, closed.delivered_tokens) == ("aborted", 499, 1)


def test_request_that_is_cancelled_is_closed(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        call(tmp_path, app, scope_of())
    assert written(tmp_path).only()[1].ending == "failed"


def test_root_path_of_a_server_behind_a_proxy_is_taken_off(tmp_path: Path) -> None:
    scope = scope_of("/llm/v1/completions", root_path="/llm")
    call(tmp_path, answering(), scope)
    assert written(tmp_path).only()[0].endpoint == "v1/completions"


def test_kind_of_connection_that_asgi_may_grow_is_not_served(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("reached")

    assert call(tmp_path, app, scope_of(type="webtransport")) == []


def test_late_leaving_of_a_client_that_has_everything_is_no_abort(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        assert (await receive())["type"] == "http.disconnect"

    call(tmp_path, app, scope_of())
    assert written(tmp_path).only()[1].ending == "finished"
