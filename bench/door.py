"""What the door costs an API server: CPU per request and per chunk, against a bare pass-through.

`python -m bench.door` runs the same streams through a middleware that only passes messages on and
through the door, in turns, in this process, and counts CPU time of the process. What vLLM's API
server needs for such a stream is not simulated: `make bench-door` measures it on a real one; give
it as `--server-ms`, and the share is printed.
"""

import argparse
import asyncio
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.door_delivery import CURRENT
from inference.middleware import App, Message, Receive, RentrollMiddleware, Send
from tests.support.doors import bearer, door_key, living_door, snapshot

PATH = "/v1/chat/completions"
BODY = json.dumps(
    {
        "model": "tiny",
        "stream": True,
        "max_tokens": 48,
        "temperature": 0.7,
        "messages": [{"role": "user", "content": "the quick brown fox " * 40}],
    }
).encode()
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"accept", b"application/json"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"user-agent", b"OpenAI/Python 2.9.0"),
    (b"authorization", bearer(1).encode()),
]


class PassThrough:
    """The least that a middleware of this kind can do."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        async def pass_on(message: Message) -> None:
            await send(message)

        await self._app(scope, receive, pass_on)


def chunk(choice: dict[str, Any]) -> bytes:
    """A chunk as vLLM writes it."""
    value = {
        "id": "chatcmpl-rr1-019a0000-0000-7000-8000-000000000001",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "tiny",
        "choices": [{"index": 0, "logprobs": None, "finish_reason": None, **choice}],
    }
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def app_of(tokens: int, *, hooked: bool) -> App:
    """An app that writes the chunks of a chat of so many tokens, and nothing else."""
    chunks = [chunk({"delta": {"role": "assistant", "content": ""}})]
    chunks += [chunk({"delta": {"content": " token"}})] * (tokens - 1)
    chunks += [chunk({"delta": {"content": " end"}, "finish_reason": "stop"}), b"data: [DONE]\n\n"]
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
    }

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        delivery = CURRENT.get()
        if hooked and delivery is not None:
            delivery.engine_called(1)
        await send(start)
        for body in chunks:
            if hooked and delivery is not None:
                delivery.handed(1)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def cpu_per_stream_ns(app: App, streams: int) -> int:
    """CPU time of this process per stream."""

    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Message) -> None:
        return

    gc.collect()
    begin_ns = time.process_time_ns()
    for _ in range(streams):
        scope = {
            "type": "http",
            "method": "POST",
            "path": PATH,
            "root_path": "",
            "headers": HEADERS,
        }
        await app(scope, receive, send)
    return (time.process_time_ns() - begin_ns) // streams


async def compare(
    bare: Callable[[int], App], doored: Callable[[int], App], streams: int, rounds: int
) -> tuple[int, int, int]:
    """Median over rounds of what the door adds: per request, per chunk, per 48-token stream."""
    per_request, per_chunk, per_stream = [], [], []
    short, long = 1, 48
    apps = [(bare(tokens), doored(tokens)) for tokens in (short, long)]
    for _ in range(rounds):
        added = [
            await cpu_per_stream_ns(with_door, streams) - await cpu_per_stream_ns(without, streams)
            for without, with_door in apps
        ]
        slope = (added[1] - added[0]) // (long - short)
        per_chunk.append(slope)
        per_request.append(added[0] - slope * short)
        per_stream.append(added[1])
    return tuple(int(statistics.median(one)) for one in (per_request, per_chunk, per_stream))  # type: ignore[return-value]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=400, help="streams per round and kind")
    parser.add_argument("--rounds", type=int, default=9, help="the median of them is printed")
    parser.add_argument(
        "--server-ms", type=float, default=0, help="CPU ms of a real server per 48-token stream"
    )
    options = parser.parse_args()
    print(f"{options.rounds} rounds of {options.streams} streams, CPU time; what the door adds:")
    for hooked in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(_measure(Path(folder), options, hooked=hooked))


async def _measure(folder: Path, options: argparse.Namespace, *, hooked: bool) -> None:
    door = living_door(folder, snapshot([door_key(1)]))
    per_request, per_chunk, per_stream = await compare(
        lambda tokens: PassThrough(app_of(tokens, hooked=hooked)),
        lambda tokens: RentrollMiddleware(app_of(tokens, hooked=hooked), door),
        options.streams,
        options.rounds,
    )
    counted = "tokens told by the hook" if hooked else "tokens by chunks"
    share = ""
    if options.server_ms:
        share = f", {per_stream / options.server_ms / 1e4:.2f}% of {options.server_ms} ms"
    print(
        f"{counted:24} {per_request / 1e3:8.1f} us a request {per_chunk:6} ns a chunk"
        f" {per_stream / 1e3:8.1f} us a 48-token stream{share}"
    )


if __name__ == "__main__":
    main()
