"""A small ASGI server on real sockets: HTTP/1.1 and the refusal of websockets, as uvicorn behaves.

One request per connection. `receive` gives the body as it arrives, then blocks until the client is
gone or the answer complete and gives `http.disconnect`; what is sent to a client that is gone is
dropped in silence.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from inference.middleware import App, Message

REASONS = {200: "OK", 403: "Forbidden"}


class _Exchange:
    """One request and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._left = 0
        self._chunked_in = self._chunked_out = False
        self._over = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self.body_given = False

    async def head(self) -> dict[str, Any]:
        raw = await self._reader.readuntil(b"\r\n\r\n")
        request_line, *lines = raw[:-4].split(b"\r\n")
        method, target, _ = request_line.decode("latin-1").split(" ")
        headers = [
            (name.strip().lower(), value.strip())
            for name, _, value in (line.partition(b":") for line in lines)
        ]
        found = dict(headers)
        self._left = int(found.get(b"content-length", b"0"))
        self._chunked_in = found.get(b"transfer-encoding") == b"chunked"
        return {
            "type": "websocket" if found.get(b"upgrade") == b"websocket" else "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "method": method,
            "path": target.split("?", 1)[0],
            "root_path": "",
            "headers": headers,
        }

    async def receive(self) -> Message:
        if not self.body_given:
            try:
                body, more = await self._next_body()
            except (asyncio.IncompleteReadError, ConnectionError):
                return {"type": "http.disconnect"}
            self.body_given = not more
            return {"type": "http.request", "body": body, "more_body": more}
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def receive_websocket(self) -> Message:
        return {"type": "websocket.connect"}

    async def send(self, message: Message) -> None:
        if self._writer.is_closing():
            return
        match message["type"]:
            case "http.response.start":
                self._write_head(message["status"], message.get("headers", []))
            case "http.response.body":
                self._write_body(message.get("body", b""), last=not message.get("more_body"))
            case "websocket.close":
                self._write_head(403, [(b"content-length", b"0")])
            case _:
                raise ValueError(f"no server sends {message['type']}")
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _next_body(self) -> tuple[bytes, bool]:
        if self._chunked_in:
            size = int(await self._reader.readline(), 16)
            body = await self._reader.readexactly(size)
            await self._reader.readexactly(2)
            return body, size > 0
        body = await self._reader.read(min(self._left, 65_536)) if self._left else b""
        if self._left and not body:
            raise asyncio.IncompleteReadError(b"", self._left)
        self._left -= len(body)
        return body, self._left > 0

    async def _watch(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._reader.read(1)
        self._writer.close()
        self._over.set()

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._chunked_out = not any(name == b"content-length" for name, _ in headers)
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Answer')}".encode()]
        lines += [name + b": " + value for name, value in headers]
        lines += [b"connection: close"]
        lines += [b"transfer-encoding: chunked"] if self._chunked_out else []
        self._writer.write(b"\r\n".join(lines) + b"\r\n\r\n")

    def _write_body(self, body: bytes, *, last: bool) -> None:
        if not self._chunked_out:
            self._writer.write(body)
        elif body:
            self._writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        if last:
            if self._chunked_out:
                self._writer.write(b"0\r\n\r\n")
            self._over.set()


class AsgiServer:
    """A running server; `failures` are what the app let out, as a real server would log it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.port = 0
        self.failures: list[BaseException] = []
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        exchange = _Exchange(reader, writer)
        try:
            scope = await exchange.head()
            web = scope["type"] == "websocket"
            receive = exchange.receive_websocket if web else exchange.receive
            await self._app(scope, receive, exchange.send)
        except asyncio.IncompleteReadError:
            pass
        except Exception as error:
            self.failures.append(error)
        finally:
            await exchange.close()

    async def settled(self) -> None:
        """Wait until every request that came in has ended."""
        while self._open:
            await asyncio.wait(self._open)


@asynccontextmanager
async def asgi_server(app: App) -> AsyncIterator[AsgiServer]:
    """Serve `app` on a free port of 127.0.0.1, with its lifespan, until the block ends."""
    server = AsgiServer(app)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    orders: asyncio.Queue[Message] = asyncio.Queue()
    done: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(_lifespan(app, orders, done))
    await orders.put({"type": "lifespan.startup"})
    await done.get()
    try:
        yield server
    finally:
        listener.close()
        await server.settled()
        await orders.put({"type": "lifespan.shutdown"})
        await done.get()
        await lifespan


async def _lifespan(app: App, orders: asyncio.Queue[Message], done: asyncio.Queue[Message]) -> None:
    await app({"type": "lifespan", "asgi": {"version": "3.0"}}, orders.get, done.put)
