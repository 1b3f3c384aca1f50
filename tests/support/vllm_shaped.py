"""An ASGI app that answers in vLLM's shapes, one chunk per token, and keeps what it was sent.

It stands in for the engine in tests of the door alone: bodies, chunk order, JSON spacing and the
handling of clients that leave are those of vLLM 0.32. A request says what to do in `script`.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from inference.door_delivery import CURRENT
from inference.middleware import Message, Receive, Send

Scope = Any
JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class VllmShaped:
    """`hooked`: tell the door about tokens as a plugin inside vLLM does.

    `script` of a request: `tokens`, `merge` (tokens per chunk), `pause_s` between chunks, `fail`
    (raise after so many chunks), `error` (an error event after so many), `status`, `text`.
    """

    def __init__(self, *, hooked: bool = False) -> None:
        self.hooked = hooked
        self.seen: list[tuple[Scope, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        body = (await receive()).get("body", b"")
        self.seen.append((scope, body))
        path = scope["path"]
        if scope["method"] == "GET":
            await _answer(send, 200, {"path": path})
            return
        try:
            asked = json.loads(body)
            script = asked.get("script", {})
        except (ValueError, AttributeError):
            await _answer(send, 400, {"error": {"message": "no JSON object", "code": 400}})
            return
        if (status := script.get("status", 200)) != 200:
            await _answer(send, status, {"error": {"message": "scripted", "code": status}})
            return
        if self.hooked and (delivery := CURRENT.get()) is not None:
            delivery.engine_called(asked.get("n", 1))
        if asked.get("stream"):
            await self._stream(path, asked, receive, send)
        else:
            await self._whole(path, asked, receive, send)

    async def _whole(self, path: str, asked: dict[str, Any], receive: Receive, send: Send) -> None:
        """As vLLM's `with_cancellation`: a client that leaves gets 200 and `null`."""
        script = asked.get("script", {})
        leaving = asyncio.create_task(_until_gone(receive))
        working = asyncio.create_task(asyncio.sleep(script.get("pause_s", 0)))
        await asyncio.wait([leaving, working], return_when=asyncio.FIRST_COMPLETED)
        gone = leaving.done()
        for task in (leaving, working):
            task.cancel()
        if script.get("fail") is not None:
            raise RuntimeError("scripted")
        await _answer(send, 200, None if gone else _whole_answer(path, asked))

    async def _stream(self, path: str, asked: dict[str, Any], receive: Receive, send: Send) -> None:
        """As Starlette's `StreamingResponse`: the stream ends when the client is gone."""
        headers = [(b"content-type", SSE), (b"x-request-id", b"of-the-server")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        leaving = asyncio.create_task(_until_gone(receive))
        writing = asyncio.create_task(self._write(path, asked, send))
        await asyncio.wait([leaving, writing], return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, writing):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if writing.done() and not writing.cancelled() and (error := writing.exception()):
            raise error

    async def _write(self, path: str, asked: dict[str, Any], send: Send) -> None:
        async for chunk in self._chunks(path, asked):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self, path: str, asked: dict[str, Any]) -> AsyncIterator[bytes]:
        script = asked.get("script", {})
        events = _events(path, asked)
        for number, (tokens, event) in enumerate(events):
            if script.get("fail") == number:
                raise RuntimeError("scripted")
            if script.get("error") == number:
                yield (
                    b"data: "
                    + compact({"error": {"message": "engine died", "code": 500}})
                    + b"\n\n"
                )
                break
            if tokens:
                await asyncio.sleep(script.get("pause_s", 0))
                if self.hooked and (delivery := CURRENT.get()) is not None:
                    delivery.handed(tokens)
            yield event
        if path != "/v1/responses":
            yield b"data: [DONE]\n\n"

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _usage(path: str, tokens: int) -> dict[str, Any]:
    if path == "/v1/responses":
        details: dict[str, Any] = {"input_tokens_details": {"cached_tokens": 4}}
        details["output_tokens_details"] = {"reasoning_tokens": 2}
        return {"input_tokens": 7, "output_tokens": tokens, "total_tokens": 7 + tokens, **details}
    return {
        "prompt_tokens": 7,
        "total_tokens": 7 + tokens,
        "completion_tokens": tokens,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def _whole_answer(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    script = asked.get("script", {})
    choices, tokens = asked.get("n", 1), script.get("tokens", 5)
    text = script.get("text", '"usage":{"completion_tokens":999}')
    if path == "/v1/embeddings":
        return {"object": "list", "data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    if path == "/v1/responses":
        return {"status": "incomplete", "output": [text], "usage": _usage(path, tokens)}
    one = {"finish_reason": "length", "text": text}
    return {"choices": [one] * choices, "usage": _usage(path, tokens * choices)}


def _events(path: str, asked: dict[str, Any]) -> list[tuple[int, bytes]]:
    """Each event with the tokens in it."""
    script = asked.get("script", {})
    tokens, merge = script.get("tokens", 5), script.get("merge", 1)
    sizes = [merge] * (tokens // merge) + ([tokens % merge] if tokens % merge else [])
    if path == "/v1/responses":
        return _response_events(sizes)
    chat = path == "/v1/chat/completions"
    text = script.get("text", " token")
    events: list[tuple[int, bytes]] = []
    choices = range(asked.get("n", 1))
    for index in choices if chat else ():
        role = {"index": index, "delta": {"role": "assistant", "content": ""}}
        events.append((0, _chunk([{**role, "finish_reason": None}])))
    for place, size in enumerate(sizes):
        reason = "stop" if place == len(sizes) - 1 else None
        for index in choices:
            said = {"delta": {"content": text * size}} if chat else {"text": text * size}
            events.append((size, _chunk([{"index": index, **said, "finish_reason": reason}])))
    if (asked.get("stream_options") or {}).get("include_usage"):
        usage = _usage(path, tokens * len(choices))
        events.append((0, _chunk([], usage)))
    return events


def _chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
    value = {"id": "cmpl-1", "object": "chunk", "created": 1, "model": "tiny", "choices": choices}
    return b"data: " + compact(value | ({"usage": usage} if usage else {})) + b"\n\n"


def _response_events(sizes: list[int]) -> list[tuple[int, bytes]]:
    def event(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\n".encode() + b"data: " + compact({"type": kind, **fields}) + b"\n\n"

    response = {"status": "completed", "usage": _usage("/v1/responses", sum(sizes))}
    return [
        (0, event("response.created", response={"status": "in_progress", "usage": None})),
        *((n, event("response.output_text.delta", delta=" token" * n)) for n in sizes),
        (0, event("response.output_text.done", text="…")),
        (0, event("response.completed", response=response)),
    ]


async def _answer(send: Send, status: int, value: object) -> None:
    body = compact(value)
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


__all__ = ["Message", "VllmShaped", "compact"]
